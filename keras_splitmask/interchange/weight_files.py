"""Weights by name from the files of other libraries, without running anything that a file may hold.

The pickle inside torch's files is read by a machine of our own (pickles.py): every class of torch or of the pickled
model becomes an inert placeholder, and any other name stops the reading. Torch itself is not needed.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import math
import pathlib
import typing
import zipfile

import numpy as np

from keras_splitmask.interchange import strict_json
from keras_splitmask.interchange.pickles import LIMIT, Machine, Name

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how torch.save began its files before version 1.6
STORAGES = {"torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2"}
SAFETENSORS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # of the last, which NumPy does not know, the bits
REBUILD_TENSOR, REBUILD_PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
PLACEHOLDERS = {*STORAGES, REBUILD_TENSOR, REBUILD_PARAMETER, "torch.device"}


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """Numbers in a file: their shape is known, and they are not read yet."""

    path: pathlib.Path
    name: str
    shape: tuple
    nbytes: int
    load: typing.Callable

    def read(self):
        """The array, float32.

        Raises:
            ValueError: naming the file, if it is damaged here or a number is not finite.
        """
        with _refusing(self.path):
            array = np.ascontiguousarray(self.load(), "float32").reshape(self.shape)
            if not np.isfinite(array).all():
                raise ValueError(f"{self.name} has values that are not finite")
            return array


def open_weights(path, sha256=None):
    """What weights a file holds, by name; see `StoredArray`.

    Args:
        path: a torch.save of a module or of a dict of tensors, a .safetensors, or an .npz written by np.savez. What it
            is shows in its first bytes; its name does not matter.
        sha256: checksum of the file in hexadecimal, to be compared; left out, it is not.

    Raises:
        ValueError: naming the file, if it asks for code, is damaged, or promises more numbers than it has bytes; if the
            checksum differs.
    """
    path = pathlib.Path(path).expanduser()
    with _refusing(path):
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")  # a pipe may never end
    with _refusing(path), open(path, "rb") as file:
        if sha256 is not None and (found := hashlib.file_digest(file, "sha256").hexdigest()) != sha256.lower():
            raise ValueError(f"its sha256 is {found}, expected {sha256.lower()}")
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        start = file.read(9)
        file.seek(0)
        if start.startswith(b"PK"):
            found = _in_zip(path, size)
        elif start[8:] == b"{":
            found = _in_safetensors(path, file, size)
        else:
            found = _in_legacy(path, file, size)
        if sum(array.nbytes for array in found.values()) > size:
            raise ValueError(f"it promises more numbers than its {size} bytes can hold")
    return found


def shown(text):
    """A text of unknown origin as it can be printed: at most 300 characters, none of which controls a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:300])


@contextlib.contextmanager
def _refusing(path):
    """Any failure to read the file becomes one line that names it: hostile files raise errors of many types."""
    try:
        yield
    except Exception as error:
        reason = shown((str(error).splitlines() or [""])[0])
        if not isinstance(error, (ValueError, OSError, zipfile.BadZipFile)):
            reason = f"it is damaged ({type(error).__name__}: {reason})"
        expected = "Expected a torch file, .safetensors or .npz of weights"
        raise ValueError(
            f"{expected}, received {path}: {reason}; download it again from a source that you trust."
        ) from error


def _in_zip(path, size):
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        for name, info in members.items():
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise ValueError(f"{name} in it is compressed; write it with np.savez or torch.save, which do not")
        if sum(info.file_size for info in members.values()) > size:
            raise ValueError("its members overlap")
        programs = [name for name in members if name.endswith("/data.pkl")]
        if len(programs) == 1:
            return _in_torch_zip(path, archive, members, programs[0])
        return {name.removesuffix(".npy"): _in_npy(path, archive, info) for name, info in members.items()}


def _in_npy(path, archive, info):
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(info) as member:
        shape, _, dtype = headers[np.lib.format.read_magic(member)](member)
    if dtype.str not in STORAGES.values():
        raise ValueError(f"{info.filename} holds {dtype}, expected float32 or float16")
    nbytes = _count(info.filename, shape) * dtype.itemsize
    if nbytes > info.file_size:
        raise ValueError(f"{info.filename} promises {nbytes} bytes and has {info.file_size}")

    def load():
        with zipfile.ZipFile(path) as archive, archive.open(info.filename) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    return StoredArray(path, info.filename, shape, nbytes, load)


def _in_safetensors(path, file, size):
    length = int.from_bytes(file.read(8), "little")
    if length > min(LIMIT, size - 8):
        raise ValueError(f"its header promises {length} bytes")
    header = strict_json.parse(file.read(length))
    header.pop("__metadata__", None)
    found, spans = {}, []
    for name, entry in header.items():
        if entry["dtype"] not in SAFETENSORS:
            raise ValueError(f"{name} holds {entry['dtype']}, expected F32, F16 or BF16")
        dtype, shape, (first, last) = (
            np.dtype(SAFETENSORS[entry["dtype"]]),
            tuple(entry["shape"]),
            entry["data_offsets"],
        )
        count = _count(name, shape)
        if (
            not (_is_count(first) and _is_count(last))
            or last - first != count * dtype.itemsize
            or last > size - 8 - length
        ):
            raise ValueError(f"{name} of shape {shape} cannot be its bytes {first} to {last}")
        spans.append((first, last, name))
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        found[name] = _strided(path, name, Storage(None, dtype, count), None, 8 + length + first, 0, shape, strides)
    spans.sort()
    for (_, end, before), (start, _, name) in itertools.pairwise(spans):
        if start < end:
            raise ValueError(f"{before} and {name} overlap")
    return found


def _in_torch_zip(path, archive, members, program):
    folder = program.removesuffix("data.pkl")
    if members[program].file_size > LIMIT:
        raise ValueError(f"its pickle has {members[program].file_size} bytes, which is too many for weights")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    module, _ = _unpickle(io.BytesIO(archive.read(program)))
    found = {}
    for name, (storage, *layout) in _tensors(module).items():
        member = f"{folder}data/{storage.key}"
        if member not in members or members[member].file_size != storage.numel * storage.dtype.itemsize:
            raise ValueError(f"it lacks {member} of {storage.numel} numbers")
        found[name] = _strided(path, name, storage, member, 0, *layout)
    return found


def _in_legacy(path, file, size):
    """Five pickles (mark, version, machine, module, order of the storages), then each storage: its length, and its
    numbers."""
    for mark in (LEGACY_MAGIC, LEGACY_PROTOCOL):
        if _unpickle(file)[0] != mark:
            raise ValueError("it is a pickle, but torch did not write it")
    machine, _ = _unpickle(file)
    if not machine["little_endian"]:
        raise ValueError("it was written on a big-endian machine")
    module, storages = _unpickle(file)
    tensors, (order, _), places = _tensors(module), _unpickle(file), {}
    if not all(map(_is_name, order)) or set(order) != set(storages):
        raise ValueError("its storages are not those of its tensors")
    for key, storage in ((key, storages[key]) for key in order):
        if int.from_bytes(file.read(8), "little") != storage.numel:
            raise ValueError(f"its storage {key} is not of {storage.numel} numbers")
        places[key] = file.tell()
        if file.seek(storage.numel * storage.dtype.itemsize, io.SEEK_CUR) > size:
            raise ValueError(f"it ends within storage {key}")
    return {name: _strided(path, name, s, None, places[s.key], *layout) for name, (s, *layout) in tensors.items()}


class Storage(typing.NamedTuple):
    """A line of numbers in a torch file."""

    key: str
    dtype: np.dtype
    numel: int


def _strided(path, name, storage, member, start, offset, shape, strides):
    """A view of a storage that begins `start` bytes into the file, or into a member of its zip; distances are in
    numbers, not bytes."""
    count = _count(name, shape)
    if len(strides) != len(shape) or not all(_is_count(step) for step in (offset, *strides)):
        raise ValueError(f"{name} does not say where its numbers are")
    span = 1 + sum((n - 1) * step for n, step in zip(shape, strides))
    if max(offset + span, count) > storage.numel:
        raise ValueError(f"{name} of shape {shape} is larger than its {storage.numel} numbers")
    itemsize = storage.dtype.itemsize

    def load():
        data = _read(path, member, start + offset * itemsize, span * itemsize)
        line = np.frombuffer(data, storage.dtype)
        if line.dtype.kind == "u":
            line = (line.astype("<u4") << 16).view("<f4")  # bfloat16 is the upper half of a float32
        return np.lib.stride_tricks.as_strided(line, shape, [step * line.itemsize for step in strides], writeable=False)

    return StoredArray(path, name, shape, count * itemsize, load)


def _is_count(number):
    return isinstance(number, int) and 0 <= number < 2**40


def _is_name(text):
    return isinstance(text, str) and len(text) <= 200


def _count(name, shape):
    """How many numbers a shape stands for. What may be anything is not printed, since that could take for ever."""
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(_is_count(side) and side for side in shape):
        raise ValueError(f"{name} has a shape that no weight has")
    return math.prod(shape)


def _read(path, member, start, count):
    with contextlib.ExitStack() as stack:
        if member is None:
            file = stack.enter_context(open(path, "rb"))
        else:  # read from its start to its end, a member is compared with its checksum
            file = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(member))
        if start:
            file.seek(start)
        data = file.read(count)
    if len(data) != count:
        raise ValueError(f"it ends {count - len(data)} bytes early")
    return data


def _unpickle(file):
    """The object of the pickle that begins here, and the storages that it names; the file is left behind its end."""
    storages = {}

    def refer(reference):
        if reference[0] == "module":  # before version 1.6: a class, its file and its source
            return reference[1]
        kind, storage_class, key, _, numel, *view = reference
        # What is no name is not looked up: to calculate the hash of a tuple of tuples, or to print it, could take for
        # ever.
        if (
            kind != "storage"
            or type(storage_class) is not Name
            or view not in ([], [None])
            or not _is_name(key)
            or not _is_count(numel)
        ):
            raise ValueError("it refers to something that is no storage of numbers")
        storage = Storage(key, np.dtype(STORAGES[storage_class]), numel)
        if storages.setdefault(key, storage) != storage:
            raise ValueError(f"it describes storage {key} in two ways")
        return storage

    return (
        Machine(lambda name: name in PLACEHOLDERS or name.startswith(("dall_e.", "torch.nn.modules.")), refer).read(
            file
        ),
        storages,
    )


def _tensors(module):
    """(storage, offset, shape, strides) of each tensor below a module, or of a dict of tensors, by name."""
    found, pending, seen = {}, [("", module)], set()
    while pending:
        prefix, module = pending.pop()
        own, children = (
            (module, {}) if isinstance(module, dict) else (module.state["_parameters"], module.state["_modules"])
        )
        if id(module) in seen or len(seen) > 1000:
            raise ValueError("its modules are too many, or one is inside another twice")
        seen.add(id(module))
        for name in (*own, *children):
            if not isinstance(name, str) or not _is_name(prefix + name):
                raise ValueError("it has a weight without a name, or with an endless one")
        found.update({prefix + name: _layout(prefix + name, value) for name, value in own.items() if value is not None})
        pending += [(f"{prefix}{name}.", child) for name, child in children.items()]
    return found


def _layout(name, tensor):
    if getattr(tensor, "stands_for", None) == REBUILD_PARAMETER:
        tensor = tensor.arguments[0]
    if getattr(tensor, "stands_for", None) != REBUILD_TENSOR or not isinstance(tensor.arguments[0], Storage):
        raise ValueError(f"{name} is no tensor")
    return tensor.arguments[:4]
