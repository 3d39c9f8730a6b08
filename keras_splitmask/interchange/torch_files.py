"""Tensors in the files of torch.save, read without torch and without running anything that a file may hold.

The pickle inside is read by a machine of our own (pickles.py): every class of torch or of the pickled model becomes an
inert placeholder, and any other name stops the reading.
"""

import io

import numpy as np

from keras_splitmask.interchange.pickles import LIMIT, Machine, Name
from keras_splitmask.interchange.stored_arrays import Storage, is_count, is_name, view

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how torch.save began its files before version 1.6
STORAGES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": "<u2"}
# Whole numbers count something and are never read, so only their sizes matter.
STORAGES |= {"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "<i1", "Byte": "<i1", "Bool": "<i1"}
STORAGES = {f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()}
REBUILD_TENSOR, REBUILD_PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
PLACEHOLDERS = {*STORAGES, REBUILD_TENSOR, REBUILD_PARAMETER, "torch.device", "torch.Size"}
# Settings and measurements beside the weights of a checkpoint.
PLACEHOLDERS |= {"argparse.Namespace", "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "_codecs.encode"}
PLACEHOLDERS |= {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")}
PLACEHOLDERS |= {"numpy.dtype", "numpy.ndarray", "collections.Counter", "torch.float32", "torch.float16"}
PLACEHOLDERS |= {"torch.bfloat16", "torch.int64"}
PACKAGES = ("dall_e.", "torch.nn.modules.")  # whose classes a pickled model may have
MOST_MODULES = 1000
# Where a checkpoint of training keeps its weights, beside the optimizer and others. The averaged ones come first.
INSIDE = ("teacher", "state_dict_ema", "model_ema", "model", "state_dict")


def arrays_in_zip(path, archive, members, program):
    """Return {name: `StoredArray`} of a file of torch 1.6 or later: a zip archive of a pickle and storages.

    Args:
        path: the file.
        archive: the same, an open `zipfile.ZipFile`.
        members: {name: `zipfile.ZipInfo`} of its members.
        program: name of the member with the pickle.
    """
    folder = program.removesuffix("data.pkl")
    if members[program].file_size > LIMIT:
        raise ValueError(f"its pickle has {members[program].file_size} bytes, which is too many for weights")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    module, _ = _unpickle(io.BytesIO(archive.read(program)))
    arrays = {}
    for name, (storage, *layout) in _tensors(module).items():
        member = f"{folder}data/{storage.key}"
        if member not in members or members[member].file_size != storage.numel * storage.dtype.itemsize:
            raise ValueError(f"it lacks {member} of {storage.numel} numbers")
        arrays[name] = view(path, name, storage, member, 0, layout)
    return arrays


def arrays_in_legacy(path, file, size):
    """Return {name: `StoredArray`} of a file that torch wrote before version 1.6.

    It has five pickles (mark, version, machine, module, order of the storages), and then the length and the numbers of
    each storage.
    """
    for mark in (LEGACY_MAGIC, LEGACY_PROTOCOL):
        if _unpickle(file)[0] != mark:
            raise ValueError("it is a pickle, but torch did not write it")
    machine, _ = _unpickle(file)
    if not machine["little_endian"]:
        raise ValueError("it was written on a big-endian machine")
    module, storages = _unpickle(file)
    tensors, (order, _), starts = _tensors(module), _unpickle(file), {}
    if not all(map(is_name, order)) or set(order) != set(storages):
        raise ValueError("its storages are not those of its tensors")
    for key, storage in ((key, storages[key]) for key in order):
        if int.from_bytes(file.read(8), "little") != storage.numel:
            raise ValueError(f"its storage {key} is not of {storage.numel} numbers")
        starts[key] = file.tell()
        if file.seek(storage.numel * storage.dtype.itemsize, io.SEEK_CUR) > size:
            raise ValueError(f"it ends within storage {key}")
    return {
        name: view(path, name, storage, None, starts[storage.key], layout)
        for name, (storage, *layout) in tensors.items()
    }


def _unpickle(file):
    """Read the pickle that begins here: its object, and {key: `Storage`} of the storages that it names.

    The file is left at the end of the pickle.
    """
    storages = {}

    def storage_of(reference):
        if reference[0] == "module":  # before version 1.6: a class, its file and its source
            return reference[1]
        kind, storage_class, key, _, numel, *extra = reference
        # Check the types before any look-up: hashing or printing a tuple of tuples could take forever.
        named = type(storage_class) is Name and is_name(key)
        if kind != "storage" or not named or extra not in ([], [None]) or not is_count(numel):
            raise ValueError("it refers to something that is no storage of numbers")
        storage = Storage(key, np.dtype(STORAGES[storage_class]), numel)
        if storages.setdefault(key, storage) != storage:
            raise ValueError(f"it describes storage {key} in two ways")
        return storage

    machine = Machine(lambda name: name in PLACEHOLDERS or name.startswith(PACKAGES), storage_of)
    return machine.read(file), storages


def _tensors(module):
    """Return {name: (storage, offset, shape, strides)} of the tensors in a module and those below it, or in a dict.

    The dict may lie in others, see `INSIDE`. Tensors of whole numbers, which count something, are left out.
    """
    for _ in range(2):  # a checkpoint may hold another
        found = [module[name] for name in INSIDE if name in module] if isinstance(module, dict) else []
        module = next((inner for inner in found if _may_hold_weights(inner)), module)
    tensors, pending, seen = {}, [("", module)], set()
    while pending:
        prefix, module = pending.pop()
        if isinstance(module, dict):
            parameters, children = module, {}
        else:
            parameters, children = module.state["_parameters"], module.state["_modules"]
        # A module inside itself would be walked for ever.
        if id(module) in seen or len(seen) > MOST_MODULES:
            raise ValueError("its modules are too many, or one is inside another twice")
        seen.add(id(module))
        for name in (*parameters, *children):
            if not isinstance(name, str) or not is_name(prefix + name):
                raise ValueError("it has a weight without a name, or with one that is too long or cannot be printed")
        for name, value in parameters.items():
            if value is not None:
                tensors[prefix + name] = _layout(prefix + name, value)
        # A list instead of recursion: deep nesting must not overflow the stack.
        pending += [(f"{prefix}{name}.", child) for name, child in children.items()]
    return {name: layout for name, layout in tensors.items() if layout[0].dtype.kind != "i"}


def _may_hold_weights(inner):
    """Whether an entry of a checkpoint is a dict of tensors, or of another such entry."""
    return isinstance(inner, dict) and any(
        name in INSIDE or getattr(value, "stands_for", None) in (REBUILD_TENSOR, REBUILD_PARAMETER)
        for name, value in inner.items()
    )


def _layout(name, tensor):
    if getattr(tensor, "stands_for", None) == REBUILD_PARAMETER:
        tensor = tensor.arguments[0]
    if getattr(tensor, "stands_for", None) != REBUILD_TENSOR or not isinstance(tensor.arguments[0], Storage):
        raise ValueError(f"{name} is no tensor")
    return tensor.arguments[:4]  # storage, offset, shape, strides
