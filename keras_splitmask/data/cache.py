"""Images decoded and resized once, packed into one file, and read from there at the speed of memory."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_splitmask.data.arrays import ArraySource
from keras_splitmask.data.labels import some
from keras_splitmask.data.optional import optional
from keras_splitmask.data.resizing import resize
from keras_splitmask.data.sources import Selection, part_of

VERSION = 1
INDEX = "index.json"
# A group for each image, for random access; pixels hardly compress. Riegeli, the format below, has a checksum for each group.
WRITING = "group_size:1,uncompressed"
AT_ONCE = 256  # images in memory while packing
INTERVAL = 2.0  # seconds between two reports


class CachedSource(Selection):
    """The images of `source` as packed in a folder, those left out that were not readable then.

    A record that fails its checksum is read from the source instead, at the packed size, so it changes no batch.
    """

    def __init__(self, source, folder, index):
        super().__init__(source, np.array(index["indices"]))
        self.short_side = index["short_side"]
        self.shapes = index["shapes"]
        self.broken.update(index.get("broken", {}))
        reading = optional("array_record.python.array_record_data_source", "data")
        self.records = reading.ArrayRecordDataSource(str(Path(folder, index["file"])))

    def summary(self):
        return f"{self.source.summary()}; packed with a short side of {self.short_side} pixels"

    def _read(self, i, plan=None):
        try:
            pixels = np.frombuffer(self.records[i], "uint8").reshape(self.shapes[i])
        except Exception as error:  # a checksum that does not match, a shorter file: a RuntimeError of many lines
            reason = f"Expected the cached {self.name(i)} to be intact, received {' '.join(str(error).split())[:200]}."
            self._note(i, reason, "It is read from its own file instead; remove the cache to have it packed anew.")
            pixels = _small(self.source, self.indices[i], self.short_side)
        return part_of(pixels, plan)

    def _identity(self):
        return [self.source.fingerprint, self.short_side]


def cached(source, short_side, folder, report=None, workers=2):
    """The source with its images packed in a folder, as uint8, with a short side of `short_side` pixels, or less where they are smaller.

    Random crops are then cut from these. 256 for training at 224 pixels is usual; with more, small crops stay sharper, and the file
    is larger: 3 x 256 x 341 bytes are 0.26 MB for each photograph.

    What is in the folder is used if it is of the same images at the same size; if the images have changed, or an earlier attempt
    was interrupted, it is packed anew, and replaces what is there when it is complete.

    Args:
        source: a `Source`. Arrays are in memory anyway and are returned as they are.
        short_side: pixels.
        folder: path of a folder for this source alone.
        report: told how far it is, a line every few seconds.
        workers: threads that decode.

    Returns:
        A `Source` with the same names and labels. Images that cannot be read are not in it, but in the `broken` of `source`.

    Raises:
        ValueError: if no image can be read, or there is no room.
    """
    if short_side < 1:
        raise ValueError(f"Expected a short side of at least 1 pixel, received short_side={short_side}.")
    if isinstance(source, ArraySource):
        return source
    folder, report = Path(folder), report or (lambda line: None)
    key = {"version": VERSION, "fingerprint": source.fingerprint, "channels": source.channels, "short_side": short_side}
    index = _load(folder, key)
    if index is None:
        folder.mkdir(parents=True, exist_ok=True)
        index = _pack(source, folder, key, report, workers)
    elif missing := index.get("broken"):
        report(f"{len(missing)} images are not in {folder}, since they could not be read: {some(list(missing))}")
    return CachedSource(source, folder, index)


def _load(folder, key):
    """The index of the folder if it is complete and of this key, or None."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="ascii"))
        there = os.path.getsize(folder / index["file"]) == index["bytes"]
        return index if there and all(index[name] == value for name, value in key.items()) else None
    except (OSError, ValueError, KeyError):
        return None


def _pack(source, folder, key, report, workers):
    """Writes the records, then the index that makes them count; what was there before is valid until then, and removed after."""
    name = f"images-{source.fingerprint[:12]}-{time.time_ns()}.array_record"
    index = {**key, "file": name, "indices": [], "shapes": []}
    writer = optional("array_record.python.array_record_module", "data").ArrayRecordWriter(str(folder / name), WRITING)
    try:
        for i, image in _images(source, key["short_side"], report, workers):
            writer.write(image.tobytes())
            index["indices"].append(i)
            index["shapes"].append(image.shape)
        _close(writer, folder)
        if not index["indices"]:
            raise ValueError(f"Expected images to pack, received {len(source)} that cannot be read; is the disk still there?")
        index |= {"bytes": _flush(folder / name), "broken": source.broken}
        (folder / f"{INDEX}.part").write_text(json.dumps(index), encoding="ascii")
        _flush(folder / f"{INDEX}.part")
        os.replace(folder / f"{INDEX}.part", folder / INDEX)
    except BaseException:
        (folder / name).unlink(missing_ok=True)
        raise
    for other in folder.glob("images-*.array_record"):
        if other.name != name:
            other.unlink()
    return index


def _close(writer, folder):
    try:
        writer.close()
    except RuntimeError as error:  # a full disk is noticed here
        reason = " ".join(str(error).split(";")[0].split())
        raise ValueError(f"Expected to write into {folder}, received {reason}; make room, or choose another folder.") from error


def _flush(path):
    """Waits until a file is on the disk, and returns its size."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _images(source, short_side, report, workers):
    """(i, image i packed) of each that is readable, in order."""
    told = time.monotonic()

    def small(i):
        try:
            return _small(source, i, short_side)
        except ValueError as error:
            source._note(i, str(error), "It is left out.")
            return None

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(source), AT_ONCE):
            for i, image in enumerate(pool.map(small, range(start, min(start + AT_ONCE, len(source)))), start):
                if image is not None:
                    yield i, image
            if time.monotonic() - told > INTERVAL:
                told = time.monotonic()
                report(f"packing images: {i + 1} of {len(source)}")


def _small(source, i, short_side):
    """Image i (H, W, C) uint8, made smaller if its short side has more pixels than that."""

    size = []

    def plan(height, width):
        share = min(1.0, short_side / min(height, width))
        size[:] = max(1, round(height * share)), max(1, round(width * share))
        return (0, 0, height, width), size

    return resize(source.image(i, plan), size)
