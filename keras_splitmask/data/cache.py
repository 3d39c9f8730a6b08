"""Decode and resize images once, pack them into one file, and read them from there."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_splitmask.data import packs
from keras_splitmask.data.arrays import ArraySource
from keras_splitmask.data.labels import some
from keras_splitmask.data.reasons import reason_of
from keras_splitmask.data.resizing import resize
from keras_splitmask.data.sources import Selection, part_of

AT_ONCE = 256  # images in memory while packing
INTERVAL = 2.0  # seconds between two reports


class CachedSource(Selection):
    """The images of `source` as packed in a folder, by its index and its records, without those that were not readable
    then.

    A record that fails its checksum is read from the source instead, at the packed size, so it changes no batch.
    """

    def __init__(self, source, index, records):
        super().__init__(source, np.array(index["indices"]))
        self.value_range = None  # what is packed is scaled already
        self.short_side = index["short_side"]
        self.shapes = index["shapes"]
        self.broken.update(index["broken"])
        self.records = records

    def summary(self):
        return f"{self.source.summary()}; packed with a short side of {self.short_side} pixels"

    def read_pixels(self, i, plan=None):
        try:
            pixels = np.frombuffer(self.records[i], "uint8").reshape(self.shapes[i])
        except Exception as error:  # a checksum that does not match, a shorter file: a RuntimeError of many lines
            reason = f"Expected the cached {self.name(i)} to be intact, received {reason_of(error)[:200]}."
            self.note_broken(
                i, reason, "It is read from its own file instead; remove the cache to have it packed again."
            )
            pixels = _small(self.source, self.indices[i], self.short_side)
        return part_of(pixels, plan)

    def identity(self):
        return [self.source.fingerprint, self.short_side]


def cached(source, short_side, folder, report=None, workers=2):
    """The source with its images packed in a folder, as uint8, with a short side of `short_side` pixels, or less where
    they are smaller.

    Random crops are then cut from these. 256 for training at 224 pixels is usual; with more, small crops stay sharper,
    and the file is larger: 3 x 256 x 341 bytes are 0.26 MB for each photograph.

    What is in the folder is used if it is whole, and of the same images at the same size. A cache of other images, or
    of another size, stays as it is, and this one is made in a folder within. Other files in the folder are never
    touched. While another process packs into the folder, this one waits.

    Args:
        source: a `Source`. Arrays are in memory anyway and are returned as they are.
        short_side: pixels.
        folder: path of a folder.
        report: called with a line about the progress every few seconds, and about what it waits for.
        workers: threads that decode.

    Returns:
        A `Source` with the same names and labels. Images that cannot be read are not in it, but in the `broken` of
        `source`.

    Raises:
        ValueError: if no image can be read, or the folder cannot be written to.
    """
    if short_side < 1:
        raise ValueError(f"Expected a short side of at least 1 pixel, received short_side={short_side}.")
    if isinstance(source, ArraySource):
        return source
    folder, report = Path(folder), report or (lambda line: None)
    key = {
        "version": packs.VERSION,
        "fingerprint": source.fingerprint,
        "channels": source.channels,
        "short_side": short_side,
    }

    def images():
        return _images(source, short_side, report, workers)

    found = packs.find(folder, key, len(source))
    if found and (missing := found[0]["broken"]):
        report(f"{len(missing)} images are not in {folder}, since they could not be read: {some(list(missing))}")
    return CachedSource(source, *found or packs.make(folder, key, source, images, report))


def _images(source, short_side, report, workers):
    """Yield (i, image i at the packed size) for each readable image, in order."""
    said = time.monotonic()

    def small(i):
        try:
            return _small(source, i, short_side)
        except ValueError as error:
            source.note_broken(i, str(error), "It is left out.")
            return None

    with ThreadPoolExecutor(workers) as pool:
        # A piece at a time: a pool begins with all that it is given, and would keep what is read too early.
        for start in range(0, len(source), AT_ONCE):
            for i, image in enumerate(pool.map(small, range(start, min(start + AT_ONCE, len(source)))), start):
                if image is not None:
                    yield i, image
            if time.monotonic() - said > INTERVAL:
                said = time.monotonic()
                report(f"packing images: {i + 1} of {len(source)}")


def _small(source, i, short_side):
    """Image i (H, W, C) uint8, made smaller if its short side has more pixels than that."""
    size = None

    def plan(height, width):
        nonlocal size  # the height and the width are known only while the file is read
        factor = min(1.0, short_side / min(height, width))  # never enlarged
        size = max(1, round(height * factor)), max(1, round(width * factor))
        return (0, 0, height, width), size

    return resize(source.image(i, plan), size)
