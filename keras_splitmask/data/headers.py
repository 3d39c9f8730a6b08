"""What the header of an image file says, read without decoding it."""

import io
import os
import zipfile

import numpy as np

from keras_splitmask.data.decoding import MAX_PIXELS, NUMPY, ZIP, is_grey, open_picture
from keras_splitmask.data.optional import optional

MAX_CHECKED = 16_000_000  # pixels; a file that seems cut short is decoded to make sure, unless it is larger
END = {"JPEG": (b"\xff\xd9", 64), "MPO": (b"\xff\xd9", 64), "PNG": (b"IEND", 64), "GIF": (b";", 1)}  # among so many last bytes
SAMPLES_PER_PIXEL, EXTRA_SAMPLES = 277, 338  # tags of a TIFF


def read_header(path):
    """(height, width, channels) of an image file as stored, or a reason (str) to leave it out.

    Channels are 1 or 3 for a picture, and any number for an .npy or .npz file of one array (H, W) or (H, W, C).
    """
    try:
        size = os.path.getsize(path)
        if not size:
            return "an empty file"
        with open(path, "rb") as file:
            start = file.read(len(NUMPY))
            file.seek(0)
            shape = _array(file, size) if start.startswith((NUMPY, ZIP)) else _picture(file, size)
    except ImportError:
        raise
    except Exception as error:  # a damaged header raises whatever its reader stumbles over
        return _reason(error)
    if shape[0] * shape[1] > MAX_PIXELS:
        return f"{shape[0]} x {shape[1]} pixels, more than {MAX_PIXELS // 10**6} million"
    return shape


def _reason(error):
    Image = optional("PIL.Image", "data")
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS // 10**6} million pixels"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a known format"
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _picture(file, size):
    with open_picture(file) as image:
        height, width, channels = image.height, image.width, 1 if is_grey(image.mode) else 3
        if image.mode == "LAB":
            raise ValueError("colours in LAB, which Pillow does not convert; save it in RGB")
        if image.format == "TIFF":
            _check_samples(image, channels)
        if height * width <= MAX_CHECKED and _seems_cut_short(file, size, image):
            image.draft(image.mode, (1, 1))  # at an eighth of the resolution where it is a JPEG, which is enough to find its end
            image.load()
    return height, width, channels


def _check_samples(image, channels):
    """Without a word, Pillow reads the first three of five channels and of R, G, B, X, and takes any fourth for alpha."""
    samples = image.tag_v2.get(SAMPLES_PER_PIXEL, 1)
    not_alpha = image.mode == "RGBX" or (image.mode == "RGBA" and EXTRA_SAMPLES not in image.tag_v2)
    if samples > len(image.getbands()) or not_alpha:
        raise ValueError(f"a TIFF of {samples} channels, of which Pillow reads {channels}; save it as .npy")


def _seems_cut_short(file, size, image):
    if any(tile.offset >= size for tile in image.tile):
        return True
    if image.format not in END:
        return False
    (mark, tail), place = END[image.format], file.tell()
    file.seek(max(0, size - tail))
    cut_short = mark not in file.read()
    file.seek(place)
    return cut_short


def _array(file, size):
    if file.read(len(ZIP)) == ZIP:
        with zipfile.ZipFile(file) as archive:
            if len(members := archive.infolist()) != 1:
                raise ValueError(f"an .npz file of {len(members)} arrays, not one")
            with archive.open(members[0]) as member:
                return _array_shape(member, members[0].file_size)
    file.seek(0)
    return _array_shape(file, size)


def _array_shape(file, size):
    start = io.BytesIO(file.read(4096))  # a header takes 128 bytes
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    if dtype.kind not in "fub" or (dtype.kind == "u" and dtype.itemsize > 2):
        raise ValueError(f"pixels as {dtype}, not uint8, uint16 or float in 0..1")
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"an array of shape {shape}, not (H, W) or (H, W, C)")
    if size < start.tell() + dtype.itemsize * np.prod(shape, dtype="int64"):
        raise ValueError("an array that is cut short")
    return *shape, *(1,) * (3 - len(shape))
