"""Checkpoints that are whole or absent: written aside, flushed, renamed, and checked byte by byte when they are read.

A file holds, in this order: the length of the header (8 bytes), the header (JSON: the step, what the caller wants
noted, and for each array its name, dtype, shape and sha256), the arrays one after another, and the sha256 of the length
and the header.

Whatever else lies under a checkpoint's name (a damaged file, one of another step, a folder, a link to nothing) is not
counted: it is renamed to `step-0000000020.checkpoint.damaged`, and never deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import pathlib
import re
import stat
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from keras_splitmask.backend.typing import Array

PATTERN = re.compile(r"step-(\d{10})\.checkpoint")
_WHOLE: set[tuple] = set()  # stamps of files that this process has written or checked


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


def save(
    folder: str | os.PathLike,
    step: int,
    arrays: Mapping[str, Array],
    note: Any = None,
    keep: int = 2,
    keep_every: int | None = None,
    report: Callable[[str], Any] = print,
) -> pathlib.Path:
    """Write a checkpoint, and delete the older ones that are not kept.

    Args:
        folder: path; created if missing.
        step: int, steps done.
        arrays: {name: array}, of anything that NumPy can convert.
        note: a value for JSON that `load` returns.
        keep: number of the newest whole checkpoints to keep, this one included.
        keep_every: also keep a checkpoint every `keep_every` steps.
        report: called with a line about each file that was moved aside.

    Returns:
        The file's path. If writing fails, the error is raised and all earlier checkpoints are as they were.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = _path_of(folder, step)
    aside = path.with_suffix(".part")
    _remove_parts(folder)
    # Contiguous arrays can be hashed and written as bytes without a copy.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    pieces = {name: array.reshape(-1).view("uint8") for name, array in arrays.items()}
    entries = [
        {
            "name": name,
            "dtype": array.dtype.str,
            "shape": array.shape,
            "sha256": hashlib.sha256(pieces[name]).hexdigest(),
        }
        for name, array in arrays.items()
    ]
    # A checksum for each array lets an error name the damaged one; that of the header comes last, so that a file cut
    # short anywhere is noticed.
    header = json.dumps({"step": step, "note": note, "arrays": entries}).encode()
    start = len(header).to_bytes(8, "little") + header
    try:
        with open(aside, "xb") as file:  # x: not over a file that another process has begun
            for piece in (start, *pieces.values(), hashlib.sha256(start).digest()):
                file.write(piece)
            file.flush()
            # Times of writes are coarse. This one is exact, so that a write within the same tick is seen.
            os.utime(aside, ns=(time.time_ns(),) * 2)
            os.fsync(file.fileno())
        # os.replace would overwrite a file of the user's that has this name.
        if os.path.lexists(path) and not _is_of_its_step(path):
            move_aside(path, "damaged")
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _WHOLE.add(_stamp(path))
    _flush_folder(folder)
    # Only now: until the new file is safely on the disk, the older ones are needed.
    _prune(folder, step, keep, keep_every, report)
    return path


def steps(folder: str | os.PathLike) -> list[int]:
    """Steps of the checkpoints in a folder by their names, whole or damaged, in rising order."""
    folder = pathlib.Path(folder)
    found = [PATTERN.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for match in found if match)


def load(path: str | os.PathLike) -> tuple[int, Any, dict[str, Array]]:
    """A checkpoint's step, note and arrays by name.

    Raises:
        Damaged: if any byte of the file differs from what was written, some are missing, or its name is that of another
            step.
        OSError: if it cannot be read.
    """
    with _reading(path) as file:
        stamp = _stamp(path)
        step, note, entries = _read_header(file, path)
        arrays = dict(_read_arrays(file, path, entries))
    _WHOLE.add(stamp)
    return step, note, arrays


def load_newest(
    folder: str | os.PathLike, report: Callable[[str], Any] = print
) -> tuple[int, Any, dict[str, Array]] | None:
    """The newest checkpoint of a folder that is whole, as `load` gives it; None if there is none.

    What is not whole is reported and moved aside.
    """
    found = steps(folder)
    for step in reversed(found):
        path = _path_of(folder, step)
        try:
            return load(path)
        except (Damaged, OSError) as error:
            reason = str(error) if isinstance(error, Damaged) else f"{path} cannot be read: {error.strerror or error}."
        moved = move_aside(path, "damaged")
        report(f"{reason} {f'It is now called {moved}. ' if moved else ''}Going back to the one before.")
    if found:
        report(f"No checkpoint in {folder} is whole; the run starts again from step 0.")
    return None


def _path_of(folder, step):
    # Ten digits, so that names sort as the steps do.
    return pathlib.Path(folder) / f"step-{step:010d}.checkpoint"


def _reading(path):
    """An open file; what is not a file, such as a folder or a pipe, which may never end, is not opened."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Damaged(f"{path} is no checkpoint: it is not a file.")
    return open(path, "rb")


def _read_header(file, path):
    """The step, the note and (name, dtype, shape, sha256) of each array; the file is left at the first array."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    end = 8 + int.from_bytes(start, "little")
    # Before the header is read: a damaged length could ask for more memory than there is.
    if size < end + 32:  # a sha256 of 32 bytes ends the file
        raise Damaged(f"{path} is damaged: its header or its end is not what was written.")
    start += file.read(end - 8)
    file.seek(size - 32)
    if hashlib.sha256(start).digest() != file.read(32):
        raise Damaged(f"{path} is damaged: its header or its end is not what was written.")
    file.seek(end)
    try:
        header = json.loads(start[8:])
        step, note = header["step"], header["note"]
        entries = [
            (entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"]), entry["sha256"])
            for entry in header["arrays"]
        ]
        sizes = [dtype.itemsize * math.prod(shape) for _, dtype, shape, _ in entries]
        if not all(_is_plain(dtype) and min(shape, default=0) >= 0 for _, dtype, shape, _ in entries):
            raise ValueError("it has arrays of negative sizes, or of what are no numbers")
        whole = end + sum(sizes) + 32
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged(f"{path} is no checkpoint: {str(error)[:200]}.") from error
    if size != whole:
        raise Damaged(f"{path} is damaged: it is {'longer' if size > whole else 'shorter'} than what was written.")
    named = PATTERN.fullmatch(pathlib.Path(path).name)
    # Not isinstance, since True is an int, too.
    if type(step) is not int or (named and int(named[1]) != step):
        raise Damaged(f"{path} is not what its name says: it holds step {step}.")
    return step, note, entries


def _is_plain(dtype):
    """Return whether a dtype is of plain numbers, or of the two bytes that NumPy has for bfloat16.

    It must have a size: of a dtype without one, any number of items would fit into the file.
    """
    return dtype.kind in "biufcV" and 0 < dtype.itemsize <= 16 and dtype.fields is None and dtype.subdtype is None


def _read_arrays(file, path, entries):
    """Name and array of each entry, one after another."""
    for name, dtype, shape, digest in entries:
        try:
            array = np.empty(shape, dtype)
            piece = array.reshape(-1).view("uint8")
        except (TypeError, ValueError) as error:
            raise Damaged(f"{path} is no checkpoint: {error}.") from error
        if file.readinto(piece) < piece.size or hashlib.sha256(piece).hexdigest() != digest:
            raise Damaged(f"{path} is damaged: {name} is not what was written.")
        yield name, array


def _is_of_its_step(path):
    """Return whether a file is a checkpoint of the step in its name. Only its header and length are checked."""
    try:
        with _reading(path) as file:
            _read_header(file, path)
        return True
    except (Damaged, OSError):
        return False


def _is_whole(path):
    """Return whether a checkpoint is undamaged. A file that this process has written or checked is not read again."""
    try:
        with _reading(path) as file:
            stamp = _stamp(path)
            if stamp not in _WHOLE:
                for _ in _read_arrays(file, path, _read_header(file, path)[2]):
                    pass
                _WHOLE.add(stamp)
        return True
    except (Damaged, OSError):
        return False


def _stamp(path):
    """Identify a version of a file: its name, its place on the disk, its size and the time of its last change."""
    found = os.stat(path)
    return os.path.abspath(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _prune(folder, step, keep, keep_every, report):
    """After a save of `step`: keep the newest whole ones, delete the older ones, and move aside what is not whole or is
    of a later step."""
    whole = 1

    def move(path, word, reason):
        if moved := move_aside(path, word):
            report(f"{path} {reason}, and does not count. It is now called {moved}.")

    for old in reversed([old for old in steps(folder) if old != step]):
        path = _path_of(folder, old)
        # The run was started again from an earlier step. Its later checkpoints would be loaded as the newest.
        if old > step and _is_of_its_step(path):
            move(path, "later", f"is of a later step than {step}")
        elif old < step and whole < keep and _is_whole(path):
            whole += 1
        elif old < step and whole >= keep and _is_of_its_step(path):
            if not keep_every or old % keep_every:
                with contextlib.suppress(OSError):
                    path.unlink()
        else:
            move(path, "damaged", "is not whole")


def move_aside(path: pathlib.Path, word: str) -> str | None:
    """Rename a file that does not count. Return its new name, or None if it cannot be renamed."""
    names = itertools.chain([f"{path.name}.{word}"], (f"{path.name}.{word}-{i}" for i in itertools.count(2)))
    name = next(name for name in names if not os.path.lexists(path.with_name(name)))
    try:
        os.rename(path, path.with_name(name))
        return name
    except OSError:
        return None


def _remove_parts(folder):
    """Remove the unfinished files of runs that were killed during a save."""
    for left in folder.iterdir():
        if re.fullmatch(r"step-\d{10}\.part", left.name):
            with contextlib.suppress(OSError):
                if left.is_file():
                    left.unlink()
                else:
                    move_aside(left, "damaged")


def _flush_folder(folder):
    """Make a rename survive a power cut, on file systems that can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
