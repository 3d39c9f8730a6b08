"""What a source of images is, whatever they come from."""

import functools
import hashlib
import itertools
import json
import threading

import numpy as np

from keras_splitmask.data.decoding import fit_channels, part, to_uint8

# What a split may be called in a folder, an array file or a tfds data set.
SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}
TRIES = 100  # images that may take the place of one that cannot be read


class NoSuchSplit(ValueError):
    """The data set is there, but has no split of that name."""


class Source:
    """Images in a fixed order. A kind of source says how many there are, and how to read the pixels and the label of one.

    Attributes:
        channels: C of every image.
        labels: the class of each image (B,) int32, or None.
        classes: the names of the classes, or None.
        left_out: name: reason, of the files that are not among the images because they cannot be read.
        broken: name: reason, of the images that could not be read when they were needed, and others were shown.
        report: a function that is told of each of these once, in a line; silent by default.
    """

    channels = labels = classes = None

    def __init__(self):
        self.left_out = {}
        self.broken = {}
        self.report = lambda line: None
        self._lock = threading.Lock()

    def __len__(self):
        raise NotImplementedError

    def name(self, i):
        """What image `i` is called, printable on one line: a path relative to the folder, or train[12]."""
        raise NotImplementedError

    def _read(self, i, plan=None):
        """Pixels (H, W, C) of image `i`, or of its part, of any dtype that `to_uint8` takes. See `decoding.read_pixels`."""
        raise NotImplementedError

    def _identity(self):
        """What changes when the images do, for `fingerprint`; anything that JSON can hold."""
        raise NotImplementedError

    def image(self, i, plan=None):
        """Image `i`, or the part of it that is planned (see `decoding.read_pixels`), not yet resized: (H, W, C) uint8.

        Raises:
            ValueError: with its name, if it cannot be read.
        """
        return fit_channels(to_uint8(self._read(i, plan), self.name(i)), self.channels, self.name(i))

    def label(self, i):
        """The class of image `i`, or None."""
        return None if self.labels is None else int(self.labels[i])

    def readable(self, i, read):
        """`read(i)` and `i`; or if image `i` cannot be read, the same of another image, which depends on `i` alone.

        So a file that breaks during a run changes no other image, and whoever asks gets the same one in its place.

        Raises:
            ValueError: if none of `TRIES` others can be read either.
        """
        for index in itertools.chain([i], self._others(i)):
            try:
                return read(index), index
            except ValueError as error:
                self._note(index, str(error), "Another image is shown in its place.")
        raise ValueError(
            f"Expected an image that is readable in place of {self.name(i)}, received none in {TRIES} tries "
            f"({self.broken[self.name(i)]}); is the disk still there?"
        )

    def _others(self, i):
        yield from np.random.default_rng(i).permutation(len(self))[:TRIES].tolist()

    def _note(self, i, reason, consequence):
        """Remembers that image `i` is broken, and says so the first time."""
        name = self.name(i)
        with self._lock:
            known = name in self.broken
            self.broken.setdefault(name, reason)
        if not known:
            self.report(f"{reason} {consequence}")

    def summary(self):
        """How many images there are, and what was left out and why, in a line."""
        return f"{len(self)} images"

    def save_record(self):
        """Writes what was left out and what broke into the record of the scan; other sources than folders have none."""

    @functools.cached_property
    def image_shape(self):
        """(height, width, channels) of the first image that can be read; the others may have other sides."""
        return self.readable(0, self.image)[0].shape

    @functools.cached_property
    def fingerprint(self):
        """64 hexadecimal digits that change when the images do."""
        return hashlib.sha256(json.dumps(self._identity()).encode()).hexdigest()


def part_of(pixels, plan):
    """The part of pixels (H, W, C) that a plan names; all of them without a plan."""
    return part(pixels, plan(*pixels.shape[:2])[0]) if plan else pixels


def check_labels(labels, count, place):
    """Labels (B,) or (B, 1) of any integer type, one for each of `count` images, to (B,) int32."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise ValueError(f"Expected a label for each of the {count} images, received labels {labels.shape} in {place}; align them.")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"Expected labels as integers from 0 on, received {labels.dtype} from {labels.min()} in {place}.")
    return labels.astype("int32")
