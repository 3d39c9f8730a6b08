"""Arrays in a file of unknown origin: their shapes are checked at once, their numbers are read on request."""

import contextlib
import dataclasses
import math
import pathlib
import typing
import zipfile

import numpy as np

LARGEST_COUNT = 2**40  # of numbers, bytes or offsets; more would be a wrong or a hostile file
MAX_NAME = 200  # characters
MAX_AXES = 8


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a file: its shape is known, its numbers are not read yet."""

    path: pathlib.Path
    name: str
    shape: tuple
    nbytes: int
    load: typing.Callable

    def read(self):
        """Read the array as float32.

        Raises:
            ValueError: with the path, if the file is damaged here or a number is not finite.
        """
        with refusing(self.path):
            array = np.ascontiguousarray(self.load(), "float32").reshape(self.shape)
            if not np.isfinite(array).all():
                raise ValueError(f"{self.name} has values that are not finite")
            return array


class Storage(typing.NamedTuple):
    """A line of numbers in a file, which one or several arrays are views of."""

    key: str
    dtype: np.dtype
    numel: int


@contextlib.contextmanager
def refusing(path, expected="a torch file, .safetensors or .npz of weights"):
    """Turn any failure to read a file into one line with its path: hostile files raise errors of many types."""
    try:
        yield
    except Exception as error:
        reason = printable((str(error).splitlines() or [""])[0])
        if not isinstance(error, (ValueError, OSError, zipfile.BadZipFile)):
            reason = f"it is damaged ({type(error).__name__}: {reason})"
        raise ValueError(
            f"Expected {expected}, received {path}: {reason}; download it again from a source that you trust."
        ) from error


def printable(text):
    """Make a text of unknown origin safe to print: at most 300 characters, none of which controls a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:300])


def view(path, name, storage, member, start, layout):
    """Describe an array that is a view of a storage: a `StoredArray`.

    Args:
        path: the file.
        name: name of the array.
        storage: the `Storage`, which begins `start` bytes into the file, or into a member of its zip archive.
        member: name of that member, or None.
        start: see `storage`.
        layout: (offset, shape, strides) of the array in the storage, counted in numbers, not bytes.
    """
    offset, shape, strides = layout
    count = count_of(name, shape)
    if len(strides) != len(shape) or not all(is_count(step) for step in (offset, *strides)):
        raise ValueError(f"{name} does not say where its numbers are")
    span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))  # from its first number to its last
    # `count`, too: with strides of 0, a few numbers could stand for a huge array.
    if max(offset + span, count) > storage.numel:
        raise ValueError(f"{name} of shape {shape} is larger than its {storage.numel} numbers")
    itemsize = storage.dtype.itemsize

    def load():
        data = _read_bytes(path, member, start + offset * itemsize, span * itemsize)
        line = np.frombuffer(data, storage.dtype)
        if line.dtype.kind == "u":
            line = (line.astype("<u4") << 16).view("<f4")  # bfloat16 is the upper half of a float32
        # as_strided checks nothing. That the view lies within its numbers was checked above, by `span`.
        return np.lib.stride_tricks.as_strided(line, shape, [step * line.itemsize for step in strides], writeable=False)

    return StoredArray(path, name, shape, count * itemsize, load)


def is_count(number):
    """Return whether a value is a number of things that a file may hold."""
    return isinstance(number, int) and 0 <= number < LARGEST_COUNT


def is_name(text):
    """Return whether a value is a text short enough for a name, and without characters that control a terminal."""
    return isinstance(text, str) and len(text) <= MAX_NAME and text.isprintable()


def count_of(name, shape):
    """The number of values in an array of this shape.

    Raises:
        ValueError: if it is no shape. The value itself is not printed, since printing hostile data may take forever.
    """
    if not isinstance(shape, tuple) or len(shape) > MAX_AXES or not all(is_count(side) and side for side in shape):
        raise ValueError(f"{name} has a shape that no weight has")
    return math.prod(shape)


def _read_bytes(path, member, start, count):
    with contextlib.ExitStack() as stack:
        if member is None:
            file = stack.enter_context(open(path, "rb"))
        else:  # zipfile compares a member with its checksum if it is read from start to end
            file = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(member))
        if start:
            file.seek(start)
        data = file.read(count)
    if len(data) != count:
        raise ValueError(f"it ends {count - len(data)} bytes early")
    return data
