"""Load .keras files of unknown origin: only models of this library are built, and no larger than their file.

The size of the weights is not estimated from the configuration. Instead the model is built by its own classes, which
may add no more bytes of weights than the file has. The first weight beyond that is refused before it takes memory. So
the count is exact for every class.
"""

import contextlib
import functools
import inspect
import io
import json
import math
import operator
import os
import threading
import zipfile

import h5py
import keras

from keras_splitmask.interchange import strict_json

MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
JSON_BYTES = 10_000_000  # 3,000 are usual, and the names of classes
OBJECTS = 10  # a model with encoder, tokenizer and four layers of augmentation has seven
TEXT, LIST, BUILD_CONFIG = 200, 255, 2000  # characters of a text, items of a list, characters of a build configuration
NAMES = {"class_names"}  # arguments that are lists of texts, as long as the file has room
PARTS = {"encoder", "tokenizer", "augmentation", "first", "second", "local"}  # arguments that are objects
POLICIES = {"float16", "bfloat16", "float32", "float64", "mixed_float16", "mixed_bfloat16"}
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}  # of others at most 8
_PATCHED = threading.Lock()


def load_archive(file):
    """Load the model of a .keras file, not compiled.

    The archive must hold only the members that Keras writes, uncompressed, with weights as plain arrays. The
    configuration may name only classes of this library, with arguments of the types that their constructors take, and
    may describe no more weights than the file has.

    Raises:
        ValueError: if the archive holds anything else; the message says what.
        Exception: of many types, from a constructor that does not accept the configuration.
    """
    with zipfile.ZipFile(file) as archive:
        _check_members(archive.infolist(), os.path.getsize(file))
        config = strict_json.parse(archive.read("config.json"))
        nbytes, arrays = stored_arrays(archive.read("model.weights.h5"))
    if not isinstance(config, dict) or "class_name" not in config:
        raise ValueError("it holds no model.")
    # A list, since `_objects` checks as it is walked through.
    found = list(_objects({**config, "compile_config": None}))  # the compile configuration is not used
    if len(found) > OBJECTS:
        raise ValueError(f"it holds {len(found)} objects within each other, expected up to {OBJECTS}.")
    depth = sum(
        max(value, 0)
        for arguments in found
        for name, value in arguments.items()
        if name.endswith("depth") and _is_number(value)
    )
    if depth > arrays:  # blocks take memory before their weights are counted
        raise ValueError(f"it describes {depth} blocks, which is more than it has weights for.")
    with bounded_weights(nbytes):
        model = keras.saving.load_model(file, compile=False)
    if not model.built:
        raise ValueError(f"it holds a model of type {type(model).__name__} without its weights.")
    return model


@contextlib.contextmanager
def bounded_weights(nbytes):
    """Let the layers that this thread builds add no more than `nbytes` bytes of weights.

    Raises:
        ValueError: from `add_weight`, before the excess weight takes memory.
    """
    thread, add_weight, left = threading.get_ident(), keras.layers.Layer.add_weight, nbytes

    @functools.wraps(add_weight)
    def counted(layer, shape=None, initializer=None, dtype=None, *arguments, **options):
        nonlocal left
        if threading.get_ident() == thread:
            # operator.index refuses what is no whole number.
            sides = [operator.index(side) for side in shape or ()]
            kind = keras.backend.standardize_dtype(dtype or layer.variable_dtype)
            left -= max(math.prod(sides), 0) * ITEM_BYTES.get(kind, 8)
            if left < 0:
                raise ValueError("it describes more weights than it holds.")
        return add_weight(layer, shape, initializer, dtype, *arguments, **options)

    # The method is replaced in the class, so for all threads; one load at a time, and `counted` lets other threads
    # pass.
    with _PATCHED:
        keras.layers.Layer.add_weight = counted
        try:
            yield
        finally:
            keras.layers.Layer.add_weight = add_weight


def _check_members(members, size):
    if {m.filename for m in members} != MEMBERS or len(members) != len(MEMBERS):
        raise ValueError(f"it holds {', '.join(sorted(m.filename for m in members)[:6]) or 'nothing'}.")
    if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
        raise ValueError("it is compressed, as this library's files are not.")
    if sum(m.file_size for m in members) > size:
        raise ValueError("its members are larger than it.")
    if any(m.file_size > JSON_BYTES for m in members if m.filename.endswith(".json")):
        raise ValueError(f"its configuration is longer than {JSON_BYTES} bytes.")


def stored_arrays(content):
    """Count the bytes and arrays in an HDF5 file. All must be plain, uncompressed and contiguous."""
    total, count, seen = 0, 0, set()
    with h5py.File(io.BytesIO(content)) as file:
        pending = [file]
        while pending:
            group = pending.pop()
            for name in group:
                # Soft and external links may lead to other files, or in circles.
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"its weights hold a link, {name}.")
                item = group[name]
                address = h5py.h5o.get_info(item.id).addr
                # Else a small file could hold one array under thousands of names.
                if address in seen:
                    raise ValueError(f"its weights hold {name} under two names.")
                seen.add(address)
                if isinstance(item, h5py.Group):
                    pending.append(item)
                elif not _is_plain(item):
                    raise ValueError(f"its weights hold {name}, which is no plain array.")
                else:
                    total, count = total + item.nbytes, count + 1
    if total > len(content):
        raise ValueError("its weights promise more numbers than they have bytes.")
    return total, count


def _is_plain(item):
    """Return whether an item is an array whose bytes are all in the file.

    External, virtual and compressed arrays, and fill values, could take more memory than the file has bytes.
    """
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiuV" or item.dtype.names or item.dtype.hasobject:
        return False
    return (
        not item.external and not item.is_virtual and item.chunks is None and item.id.get_storage_size() == item.nbytes
    )


def _objects(node):
    """Check all objects that a configuration describes, and yield their arguments, outermost first."""
    cls, arguments = _class_of(node), node["config"]
    if node.get("compile_config") or len(json.dumps(node.get("build_config"))) > BUILD_CONFIG:
        raise ValueError(f"it says more of a {node['class_name']} than its arguments.")
    defaults = _arguments_of(cls)
    yield {name: value for name, value in arguments.items() if not isinstance(value, dict)}
    for name, value in arguments.items():
        if name == "dtype" and isinstance(value, dict):
            _check_policy(value)
        elif name in PARTS and name in defaults and isinstance(value, dict):
            yield from _objects(value)
        elif name in NAMES and name in defaults and isinstance(value, list):
            if not all(isinstance(item, str) for item in value):
                raise ValueError(f"it gives {node['class_name']} {name} that are not all text.")
        elif value is not None and (
            name in PARTS or name == "dtype" or name not in defaults or not _fits(value, defaults[name])
        ):
            raise ValueError(
                f"it gives {node['class_name']} {name}={value!r:.60}, which is no value that it was saved with."
            )


def _class_of(node):
    """Return the class of this library that a configuration names."""
    # A registered name of ours only: without one, Keras imports whatever module the file names.
    kind, own = node.get("class_name"), node.get("registered_name")
    if not isinstance(node.get("config"), dict) or not isinstance(kind, str) or own != f"keras_splitmask>{kind}":
        raise ValueError(f"it holds a {kind!s:.60} of {node.get('module')!s:.60}, which is not of this library.")
    cls = keras.saving.get_registered_object(own)
    if not inspect.isclass(cls) or not issubclass(cls, keras.layers.Layer):
        raise ValueError(f"it holds a {kind:.60}, which is no model or layer of this library.")
    return cls


def _check_policy(node):
    kind = node.get("module"), node.get("class_name"), node.get("registered_name") or ""
    name = node["config"].get("name") if isinstance(node.get("config"), dict) and len(node["config"]) == 1 else None
    if kind != ("keras", "DTypePolicy", "") or not isinstance(name, str) or name not in POLICIES:
        raise ValueError(f"it holds the precision {name!s:.60}, expected one of {', '.join(sorted(POLICIES))}.")


def _arguments_of(cls):
    """Collect the arguments {name: default} of the constructors of a class and its parents."""
    found = {}
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            own = inspect.signature(parent.__init__).parameters.values()
            found = {**{p.name: p.default for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}, **found}
    return found


def _fits(value, default):
    """Return whether a JSON value has the type of an argument with this default.

    Without a default, it must be a number or a list.
    """
    # First, since True is an int, too.
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return _is_number(value) and value == int(value)
    if isinstance(default, float):
        return _is_number(value)
    if isinstance(default, str):
        return _is_text(value)
    if isinstance(value, list):
        return len(value) <= LIST and all(item is None or _is_number(item) or _is_text(item) for item in value)
    if isinstance(default, tuple):
        return False
    return _is_number(value) or (default is None and _is_text(value))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63


def _is_text(value):
    return isinstance(value, str) and len(value) <= TEXT
