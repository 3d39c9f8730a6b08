"""Checkpoints that are whole or absent: written aside, flushed, renamed, and checked byte by byte when they are read.

A file holds, in this order: the length of the header (8 bytes), the header (JSON: the step, what the caller wants noted, and for
each array its name, dtype, shape and sha256), the arrays one after another, and the sha256 of the length and the header.
"""

import hashlib
import json
import math
import os
import pathlib
import re

import numpy as np

PATTERN = re.compile(r"step-(\d{10})\.checkpoint$")


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


def variables_of(model):
    """All state of a compiled model by path: weights, optimizer, tokenizer and random state, but no metrics."""
    named = [(v.path, v) for v in model.weights if v.name != "seed_generator_state"]
    # Keras numbers generators and optimizers by their order of creation: "adamw_1/encoder_norm_gamma_momentum".
    states = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    named += [(f"random/{i}", v) for i, v in enumerate(states)]
    # In float16 there is an optimizer within one that scales the loss, and both count steps.
    inner = {id(v) for v in getattr(model.optimizer, "inner_optimizer", model.optimizer).variables}
    named += [("optimizer/" + "scaling/" * (id(v) not in inner) + v.path.split("/", 1)[-1], v) for v in model.optimizer.variables]
    names = [name for name, _ in named]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Expected every variable to have a path of its own, received several called {', '.join(twice)}.")
    return dict(named)


def save(folder, step, arrays, note=None, keep=2, keep_every=None):
    """Write a checkpoint, and delete those that are not kept.

    Args:
        folder: made if need be.
        step: int, steps done.
        arrays: dictionary of anything that NumPy can read, by name.
        note: anything that JSON can hold, given back by `load`.
        keep: number of the newest checkpoints to keep.
        keep_every: keep those of every so many steps as well.

    Returns:
        The file's path. If writing fails, the error is raised and all earlier checkpoints are as they were.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:010d}.checkpoint"
    aside = path.with_suffix(".part")
    for left in folder.glob("step-*.part"):  # by a run that was killed in a save
        left.unlink(missing_ok=True)
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    pieces = {name: array.reshape(-1).view("uint8") for name, array in arrays.items()}
    entries = [
        {"name": name, "dtype": array.dtype.str, "shape": array.shape, "sha256": hashlib.sha256(pieces[name]).hexdigest()}
        for name, array in arrays.items()
    ]
    header = json.dumps({"step": step, "note": note, "arrays": entries}).encode()
    start = len(header).to_bytes(8, "little") + header
    try:
        with open(aside, "wb") as file:
            file.write(start)
            for piece in pieces.values():
                file.write(piece)
            file.write(hashlib.sha256(start).digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _flush_folder(folder)
    for old in steps(folder)[:-keep]:
        if not keep_every or old % keep_every:
            (folder / f"step-{old:010d}.checkpoint").unlink(missing_ok=True)
    return path


def steps(folder):
    """Steps of the checkpoints in a folder, whole or damaged, in rising order."""
    folder = pathlib.Path(folder)
    found = [PATTERN.search(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for match in found if match)


def load(path):
    """A checkpoint's step, note and arrays by name.

    Raises:
        Damaged: if any byte of the file differs from what was written, or some are missing.
    """
    data = pathlib.Path(path).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    if len(data) < end + 32 or hashlib.sha256(data[:end]).digest() != data[-32:]:
        raise Damaged(f"{path} is damaged: its header or its end is not what was written.")
    try:
        header = json.loads(data[8:end])
        arrays, end = _arrays(path, header["arrays"], data, end)
        found = header["step"], header["note"], arrays
    except Damaged:
        raise
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged(f"{path} is no checkpoint: {error}.") from error
    if end != len(data) - 32:
        raise Damaged(f"{path} is damaged: it is longer than what was written.")
    return found


def _arrays(path, entries, data, end):
    """The arrays of a checkpoint by name, of which the first begins at byte `end`, and where the last ends."""
    arrays = {}
    for entry in entries:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        size = dtype.itemsize * math.prod(shape)
        piece = data[end : end + size]
        if len(piece) < size or hashlib.sha256(piece).hexdigest() != entry["sha256"]:
            raise Damaged(f"{path} is damaged: {entry['name']} is not what was written.")
        arrays[entry["name"]] = np.frombuffer(piece, dtype).reshape(shape)
        end += size
    return arrays, end


def load_newest(folder, report=print):
    """The newest checkpoint of a folder that is whole, as `load` gives it; None if there is none. Damaged ones are reported."""
    for step in reversed(steps(folder)):
        path = pathlib.Path(folder) / f"step-{step:010d}.checkpoint"
        try:
            return load(path)
        except Damaged as error:
            report(f"{error} Going back to the one before.")
    return None


def restore(variables, arrays):
    """Give variables the values of a checkpoint, all of them or none.

    Args:
        variables: dictionary of Keras variables by path, as `variables_of` gives it.
        arrays: dictionary of arrays by the same paths.

    Raises:
        ValueError: naming each variable that is missing, left over or of another shape.
    """
    wrong = [f"{name} is missing" for name in variables if name not in arrays]
    wrong += [f"{name} is left over" for name in arrays if name not in variables]
    wrong += [
        f"{name} has shape {arrays[name].shape}, expected {tuple(v.shape)}"
        for name, v in variables.items()
        if name in arrays and arrays[name].shape != tuple(v.shape)
    ]
    if wrong:
        raise ValueError(f"The checkpoint does not fit the model: {'; '.join(wrong[:6])}{' and more' if len(wrong) > 6 else ''}.")
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _flush_folder(folder):
    """Make a rename survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
