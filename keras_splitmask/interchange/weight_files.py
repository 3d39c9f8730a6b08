"""Weights by name from the files of other libraries, without running anything that a file may hold."""

import hashlib
import io
import pathlib
import zipfile

import numpy as np

from keras_splitmask.interchange import safetensors_files, strict_json, torch_files
from keras_splitmask.interchange.stored_arrays import StoredArray, count_of, is_name, refusing

NPY_DTYPES = ("<f4", "<f2")


def open_weights(path, sha256=None):
    """List the weights in a file: {name: `StoredArray`}.

    Args:
        path: a torch.save of a module or of a dict of tensors, a .safetensors, or an .npz written by np.savez. The
            kind is recognised by the first bytes; the name of the file does not matter.
        sha256: checksum of the file in hexadecimal, to compare; not compared by default.

    Raises:
        ValueError: with the path, if the checksum differs, the file is damaged, asks for code, or promises more
            numbers than it has bytes.
    """
    path = pathlib.Path(path).expanduser()
    with refusing(path):
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")  # reading a pipe may never end
    with refusing(path), open(path, "rb") as file:
        digest = None if sha256 is None else hashlib.file_digest(file, "sha256").hexdigest()
        if digest is not None and digest != sha256.lower():
            raise ValueError(f"its sha256 is {digest}, expected {sha256.lower()}")
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        start = file.read(9)  # the longest mark: a length of 8 bytes and a brace
        file.seek(0)
        # A zip archive: an .npz, or a file of torch 1.6 or later.
        if start.startswith(b"PK"):
            arrays = _in_zip(path, size)
        # A .safetensors file: eight bytes of length, then the header.
        elif start[8:] == b"{":
            arrays = safetensors_files.arrays_in(path, file, size)
        else:
            arrays = torch_files.arrays_in_legacy(path, file, size)
        if sum(array.nbytes for array in arrays.values()) > size:
            raise ValueError(
                f"it promises more numbers than its {size} bytes can hold, or has the same ones under several names"
            )
    return arrays


def open_model(file):
    """List the weights of a model, as `open_weights` does, or of the files that an index names.

    Args:
        file: path of a file of weights, or of a model.safetensors.index.json or pytorch_model.bin.index.json, which
            says in which file beside it each weight is.

    Raises:
        ValueError: with the path, if it is damaged, or a file that it names is.
    """
    if file.suffix == ".safetensors":
        return safetensors_files.open_safetensors(file)
    if file.suffix != ".json":
        return open_weights(file)
    with refusing(file, "an index of weights"):
        index = strict_json.read(file)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(map(is_name, (*places, *places.values()))):
            raise ValueError('it has no "weight_map" from the names of weights to those of files')
        parts = sorted(set(places.values()))
        if wrong := [part for part in parts if pathlib.PurePath(part).name != part]:
            raise ValueError(f"it names {wrong[0]!r:.100}, which is no file beside it")
    found = {part: open_weights(file.with_name(part)) for part in parts}
    if missing := [name for name, part in places.items() if name not in found[part]]:
        raise ValueError(f"Expected the weight {missing[0]} in {file.with_name(places[missing[0]])}, as {file} says.")
    return {name: found[part][name] for name, part in places.items()}


def _in_zip(path, size):
    """The arrays of a zip archive, which is a file of torch or an .npz."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name, info in members.items():
            if not is_name(name):
                raise ValueError(f"it has a member named {name!r:.100}, which is too long or cannot be printed")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise ValueError(f"{name} in it is compressed; write it with np.savez or torch.save, which do not")
        if sum(info.file_size for info in members.values()) > size:
            raise ValueError("its members overlap")
        # torch.save writes one data.pkl, in a folder.
        programs = [name for name in members if name.endswith("/data.pkl")]
        if len(programs) == 1:
            return torch_files.arrays_in_zip(path, archive, members, programs[0])
        return {name.removesuffix(".npy"): _in_npy(path, archive, info) for name, info in members.items()}


def _in_npy(path, archive, info):
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(info) as member:
        shape, _, dtype = headers[np.lib.format.read_magic(member)](member)
    # By the header only, so that no array of objects, which is a pickle, is ever read.
    if dtype.str not in NPY_DTYPES:
        raise ValueError(f"{info.filename} holds {dtype}, expected float32 or float16")
    nbytes = count_of(info.filename, shape) * dtype.itemsize
    if nbytes > info.file_size:
        raise ValueError(f"{info.filename} promises {nbytes} bytes and has {info.file_size}")

    def load():
        with zipfile.ZipFile(path) as archive, archive.open(info.filename) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    return StoredArray(path, info.filename, shape, nbytes, load)
