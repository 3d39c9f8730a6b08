"""The one reader and writer of .safetensors files.

The format is 8 bytes with the length of a header, a JSON header with the type, shape and place of each array, and
their bytes. Our own reader is used instead of the package `safetensors`: it bounds the header, refuses JSON with
repeated names, NaN or deep nesting, checks that arrays lie in the file and do not overlap, reads an array only when it
is asked for, knows bfloat16 without another package, and gives one line for every failure.
"""

import io
import itertools
import json
import math

import numpy as np

from keras_splitmask.interchange import strict_json
from keras_splitmask.interchange.stored_arrays import Storage, count_of, is_count, is_name, refusing, view

MAX_HEADER = 2**20  # bytes; a Vision Transformer of 40 blocks has 64,000
ALIGNMENT = 8  # bytes, to which the package `safetensors` pads the header
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: its bits
WHOLE = ("I64", "I32", "I16", "I8", "U8", "BOOL")  # types of arrays that count something, which are left out


def open_safetensors(path):
    """List the arrays in a .safetensors file: {name: `StoredArray`}.

    Raises:
        ValueError: with the path, if it is no such file or describes arrays that are not in it.
    """
    with refusing(path, "a .safetensors file of floating point numbers"), open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        return arrays_in(path, file, size)


def arrays_in(path, file, size):
    """Return {name: `StoredArray`} of an open file of `size` bytes."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER, size - 8):
        raise ValueError(f"its header promises {length} bytes")
    header = strict_json.parse(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)  # texts about the file, no array
    arrays, spans = {}, []
    for name, entry in header.items():
        if not is_name(name):
            raise ValueError(f"it has a weight named {name!r:.100}, which is too long or cannot be printed")
        if entry["dtype"] in WHOLE:
            continue
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} holds {entry['dtype']!r:.40}, expected F64, F32, F16 or BF16")
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
        first, last = entry["data_offsets"]  # counted from the end of the header
        count = count_of(name, shape)
        in_file = is_count(first) and is_count(last) and last <= size - 8 - length
        if not in_file or last - first != count * dtype.itemsize:
            raise ValueError(f"{name} of shape {shape} cannot be its bytes {first} to {last}")
        spans.append((first, last, name))
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))  # in numbers, row by row
        storage = Storage(None, dtype, count)
        arrays[name] = view(path, name, storage, None, 8 + length + first, (0, shape, strides))
    spans.sort()
    # Overlapping arrays would let a small file describe many large ones.
    for (_, end, before), (start, _, name) in itertools.pairwise(spans):
        if start < end:
            raise ValueError(f"{before} and {name} overlap")
    return arrays


def safetensors_content(arrays, metadata):
    """The bytes of a .safetensors file, as the package `safetensors` writes them.

    Args:
        arrays: {name: float32 array}.
        metadata: {name: text}.
    """
    header, end = {"__metadata__": metadata}, 0
    arrays = {name: np.asarray(arrays[name], "<f4") for name in sorted(arrays)}
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)  # spaces, which JSON ignores
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values())
