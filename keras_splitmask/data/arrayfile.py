"""Images in .npy and .npz files of one array (H, W) or (H, W, C)."""

import contextlib
import io
import math
import os
import struct
import zipfile

import numpy as np

from keras_splitmask.data import bounds
from keras_splitmask.data.values import is_channels_first, wrong_type

NUMPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"  # how .npy and .npz files begin
HEADER = 4096  # bytes that are read for it; NumPy's own takes 128
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of NumPy; others take minutes to unpack what is small


def read_form(file, size, value_range=None):
    """Read (height, width, channels) and the dtype of the array in a binary file of `size` bytes.

    Raises:
        ValueError: if the array is not an image that `conversion.to_uint8` takes, is cut short, or would take too much
            memory.
    """
    with _unpacked(file, size) as (unpacked, length):
        shape, _, dtype, _ = _header(unpacked.read(HEADER), length)
    if reason := wrong_type(dtype, value_range):
        raise ValueError(f"pixels as {reason}, not uint8, uint16 or float in 0..1")
    if is_channels_first(shape):
        raise ValueError(f"an array of shape {shape}, which seems to be (C, H, W); transpose it by (1, 2, 0)")
    return (*shape, *(1,) * (3 - len(shape))), dtype


def read_array(content):
    """The array (H, W, C) in the bytes of such a file, read-only."""
    with _unpacked(io.BytesIO(content), len(content)) as (file, size):
        start = file.read(HEADER)
        shape, fortran, dtype, offset = _header(start, size)
        if content.startswith(ZIP):
            # Not all of the member: an array needs no more bytes than its header says.
            content = start + file.read(offset + dtype.itemsize * math.prod(shape) - len(start))
    array = np.frombuffer(content, dtype, math.prod(shape), offset)
    # Fortran's order of a shape is the usual order of the reversed shape.
    array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    return array if array.ndim == 3 else array[..., None]


def mapped(path, member):
    """An array that an .npz file holds uncompressed as this `zipfile.ZipInfo`, memory-mapped and read-only.

    Raises:
        ValueError: if it is an array of Python objects or cut short.
    """
    with open(path, "rb") as file:
        file.seek(
            member.header_offset + 26
        )  # the lengths of its name and of an extra field, which come before its bytes
        start = file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        # NumPy maps .npy files only; a member of an .npz it reads whole.
        shape, fortran, dtype = _form(file)
        if file.tell() - start + dtype.itemsize * math.prod(shape) > member.file_size:
            raise ValueError("an array that is cut short")
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


@contextlib.contextmanager
def _unpacked(file, size):
    """The binary file, or the one member of an .npz file, and its bytes."""
    start = file.read(len(ZIP))
    file.seek(0)
    if start != ZIP:
        yield file, size
        return
    with zipfile.ZipFile(file) as archive:
        if len(members := archive.infolist()) != 1:
            raise ValueError(f"an .npz file of {len(members)} arrays, not one")
        if members[0].compress_type not in METHODS:
            raise ValueError("an .npz file that NumPy did not compress; save it with numpy.savez_compressed")
        with archive.open(members[0]) as member:
            yield member, members[0].file_size


def _header(start, size):
    """Parse (shape, whether columns come first, dtype, offset) of an array of `size` bytes from its first bytes."""
    file = io.BytesIO(start)
    shape, fortran, dtype = _form(file)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"an array of shape {shape}, not (H, W) or (H, W, C)")
    needed = file.tell() + dtype.itemsize * math.prod(shape)
    if size < needed:
        raise ValueError("an array that is cut short")
    bounds.check_array(*shape[:2], shape[2] if len(shape) == 3 else 1, needed)
    return shape, fortran, dtype, file.tell()


def _form(file):
    """Return (shape, whether columns come first, dtype) of the array that begins here in a binary file.

    The file is left at the first value.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("pixels as object, which are not read")
    return shape, fortran, dtype
