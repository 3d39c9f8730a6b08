"""Write and find packs of images in a cache folder: a file of records and an index, written completely or not at all.

A pack is valid only with its index. The first pack lies in the folder itself, as `index.json` and
`images-*.array_record`. Packs of other images or sizes have a subfolder each. Only files that this module has written
are ever removed, and only by one process at a time.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import time

import numpy as np

from keras_splitmask.backend.optional import optional

# Of the index; what another version packed is packed again.
VERSION = 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INDEX = "index.json"
LOCK = ".keras_splitmask.lock"
RECORDS = re.compile(r"images-[0-9a-f]{12}-\d+\.array_record")
PART = re.compile(r"images-[0-9a-f]{12}-\d+\.(array_record|json)\.part")
# One group per image allows random access; pixels hardly compress. Riegeli, the format below, has a checksum for each
# group.
WRITING = "group_size:1,uncompressed"


def find(folder, key, count):
    """Find the pack of a key in a folder. Return its index and its records, or None if there is no complete pack.

    Args:
        folder: path of the cache.
        key: dictionary that identifies the images, with `fingerprint`, `channels` and `short_side`.
        count: number of images of the source; the pack may have fewer.
    """
    return _load(folder, key, count) or _load(folder / _own_name(key), key, count)


def make(folder, key, source, images, report):
    """Pack the images now; otherwise like `find`.

    While another process packs into the folder, this one waits. It then uses that pack if it is the same.

    Args:
        source: the `Source` of the images; its `broken` becomes part of the index.
        images: a function that yields (i, image) for each image to pack: (H, W, C) uint8.

    Raises:
        ValueError: if no image can be read, or the folder cannot be written to. The folder then stays unchanged.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        what = "a broken link" if folder.is_symlink() else "a file"
        raise ValueError(f"Expected a folder for the cache, received {folder}, which is {what}; choose another path.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, report) as locked:
            if found := find(folder, key, len(source)):
                return found
            place = _place(folder, key)
            if place != folder:
                report(
                    f"{folder} holds other files, or a cache of other images or of another size, which stay; this cache"
                    f" is made in {place}"
                )
            elif os.path.lexists(folder / INDEX):
                report(f"{folder / INDEX} is damaged or of an earlier version; the images are packed again")
            place.mkdir(exist_ok=True)
            _write(place, key, source, images(), locked)
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error), error.errno in FULL) from error
    # Read back, as a later run would.
    found = _load(place, key, len(source))
    if not found:
        raise _unwritable(place, "something else than was written when reading it again")
    return found


def _load(place, key, count):
    """Load the index and the records of a folder if they are complete, fit together and belong to this key."""
    reading = optional("array_record.python.array_record_data_source", "data")
    index = _read_index(place)
    try:
        if index is None or not _is_complete(place, index) or not _fits(index, key, count):
            return None
        records = reading.ArrayRecordDataSource(str(place / index["file"]))
        return (index, records) if len(records) == len(index["indices"]) else None
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ):  # the reader raises the last for a damaged file
        return None


def _read_index(place):
    """Read the index of a folder; None if there is no file with a dictionary."""
    path = place / INDEX
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        index = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError, RecursionError):
        return None
    return index if isinstance(index, dict) else None


def _is_complete(place, index):
    """Return whether the file of records that the index names is in the same folder, with all its bytes."""
    name = index.get("file")
    if not isinstance(name, str) or not RECORDS.fullmatch(name):
        return False
    with contextlib.suppress(OSError):
        found = os.lstat(place / name)
        return stat.S_ISREG(found.st_mode) and found.st_size == index.get("bytes")
    return False


def _fits(index, key, count):
    """Return whether an index belongs to this key, is undamaged and names images of the source.

    The images must be in order, and their sizes must fit into the file.
    """
    shapes, indices = np.array(index["shapes"]), np.array(index["indices"])  # (n, 3), (n,)
    return (
        all(index[name] == value for name, value in key.items())
        and index["sha256"] == _digest(index)
        and isinstance(index["broken"], dict)
        and shapes.dtype.kind == indices.dtype.kind == "i"
        and shapes.shape == (len(indices), 3)
        and bool((shapes > 0).all() and (shapes[:, 2] == key["channels"]).all())
        # In float64: the product of a damaged shape could overflow int64, to a small number.
        and shapes.astype("float64").prod(axis=1).sum() <= index["bytes"]
        and bool(indices[0] >= 0 and indices[-1] < count and (np.diff(indices) > 0).all())
    )


def _digest(index):
    text = json.dumps({name: value for name, value in index.items() if name != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _own_name(key):
    """Name the subfolder of a pack that is not the first."""
    return f"images-{_digest(key)[:16]}"


def _place(folder, key):
    """Choose where to make a pack: the folder itself, unless its index.json is the user's or of another pack."""
    if not os.path.lexists(folder / INDEX):
        return folder
    index = _read_index(folder)
    same = index is not None and all(index.get(name) == value for name, value in key.items() if name != "version")
    another = index is not None and not same and _is_complete(folder, index)
    ours = any(RECORDS.fullmatch(name) for name in os.listdir(folder)) and not (folder / INDEX).is_dir()
    return folder if ours and not another else folder / _own_name(key)


def _write(place, key, source, images, locked):
    """Write the records, then the index that makes them valid. The previous pack stays valid until then."""
    if locked:
        _remove(place, PART)  # left by a process that was killed
    # A new name each time: the previous index keeps its own records until it is replaced.
    name = f"images-{key['fingerprint'][:12]}-{time.time_ns()}"
    records, aside = place / f"{name}.array_record.part", place / f"{name}.json.part"
    index = {**key, "file": f"{name}.array_record", "indices": [], "shapes": []}
    try:
        with _writing(records) as write:
            for i, image in images:
                write(image.tobytes())
                index["indices"].append(i)
                index["shapes"].append(image.shape)
        if not index["indices"]:
            raise ValueError(
                f"Expected images to pack, received {len(source)} that cannot be read; is the disk still there?"
            )
        index |= {"bytes": _flush(records), "broken": source.broken}
        index["sha256"] = _digest(index)
        aside.write_text(json.dumps(index), encoding="ascii")
        _flush(aside)
        os.replace(records, place / index["file"])
        os.replace(aside, place / INDEX)
    except BaseException:
        for path in (records, aside, place / index["file"]):
            path.unlink(missing_ok=True)
        if place.name == _own_name(key):
            with contextlib.suppress(OSError):
                place.rmdir()
        raise
    if locked:
        _remove(place, RECORDS, but=index["file"])


@contextlib.contextmanager
def _writing(path):
    """Open a new file, and yield a function that appends a record to it."""
    module = optional("array_record.python.array_record_module", "data")
    try:
        writer = module.ArrayRecordWriter(str(path), WRITING)
    except RuntimeError as error:
        raise _unwritable(path.parent, str(error)) from error

    def write(record):
        try:
            writer.write(record)
        except RuntimeError as error:
            raise _unwritable(path.parent, str(error)) from error

    try:
        yield write
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        raise
    try:
        writer.close()
    except RuntimeError as error:  # a full disk may be noticed only here
        raise _unwritable(path.parent, str(error)) from error


def _unwritable(folder, reason, full=True):
    """An error for a folder that cannot be written to; `full`: whether the disk may be full."""
    reason, room = " ".join(reason.split(";")[0].split()), "make room, or " if full else ""
    return ValueError(f"Expected to write into {folder}, received {reason}; {room}choose another folder.")


def _flush(path):
    """Wait until a file is on the disk, and return its size."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _remove(place, pattern, but=None):
    for name in os.listdir(place):
        if pattern.fullmatch(name) and name != but:
            with contextlib.suppress(OSError):
                os.unlink(place / name)


@contextlib.contextmanager
def _alone(folder, report):
    """Keep other processes from packing into the folder. Yield whether that is certain: some systems have no locks."""
    path = folder / LOCK
    descriptor = _lock(path, report)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                # Removed while it is still locked: once it is not, it may be another's.
                os.unlink(path)
            os.close(descriptor)


def _lock(path, report):
    """Lock a file for this process, until it is closed or the process ends. Return None if there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    waited = False
    while True:
        # Neither through a link nor into a pipe, which could wait for ever.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waited else fcntl.LOCK_NB))
            # The file may have been removed while this process waited, and a lock on a removed file keeps nobody out.
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        except BlockingIOError:
            waited = True
            report(f"waiting for another run, which packs images into {path.parent}")
        except FileNotFoundError:  # the run that held the lock has removed the file
            pass
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)
