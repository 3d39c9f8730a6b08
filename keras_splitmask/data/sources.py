"""The base class of all sources of images."""

import functools
import hashlib
import itertools
import json
import threading

import numpy as np

from keras_splitmask.data.conversion import fit_channels, to_uint8
from keras_splitmask.data.counting import counted
from keras_splitmask.data.decoding import part
from keras_splitmask.data.labels import some
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.record import write

# Names that a split may have in a folder, an array file or a tfds data set.
SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}
TRIES = 100  # other images to try in place of one that cannot be read


def check_split(split):
    """Raise ValueError unless `split` is "train", "val" or "test"."""
    if split not in SPLITS:
        raise ValueError(f"Expected split to be one of {', '.join(SPLITS)}, received {split!r}.")


class NoSuchSplit(ValueError):
    """The data set exists, but has no such split."""


class NoLabels(ValueError):
    """The data set exists, but has no labels."""


class Source:
    """Images in a fixed order. A subclass defines `__len__`, `name`, `read_pixels` and `identity`.

    Attributes:
        channels: C of every image.
        value_range: (low, high), the stored values that become 0 and 255, or None; see `conversion.to_uint8`.
        labels: the class of each image (B,) int32, or None.
        classes: the names of the classes, or None.
        left_out: {name: reason} of the files that are not among the images because they cannot be read.
        broken: {name: reason} of the images that could not be read when they were needed, and were replaced.
        report: a function that receives one line about each of these; silent by default.
        unlabelled: the reason why `labels` is None, and what to do.
        record: path of the JSON file for `save_record`, or None.
    """

    channels = value_range = labels = classes = record = None
    unlabelled = "the data set has none; choose another"

    def __init__(self):
        self.left_out = {}
        self.broken = {}
        self.report = lambda line: None
        # Several threads read the images of a batch, and may find the same one broken.
        self._lock = threading.Lock()

    def __len__(self):
        raise NotImplementedError

    def name(self, i):
        """The name of image `i`, printable on one line: a path relative to the folder, or train[12]."""
        raise NotImplementedError

    def read_pixels(self, i, plan=None):
        """Read the pixels (H, W, C) of image `i`, or of the planned part, of any dtype that `to_uint8` takes.

        See `decoding.read_pixels` for `plan`.
        """
        raise NotImplementedError

    def keeps_depth(self, i):
        """Return whether the pixels of image `i` are read with all bits of the file."""
        return True

    def content_keys(self):
        """Functions of the index of an image, each more exact and slower than the one before: images are the same if
        all keys are. See `division.copies`."""

        def of_pixels(i):
            pixels = np.ascontiguousarray(self.read_pixels(i))
            return pixels.shape, pixels.dtype.str, hashlib.sha256(pixels).digest()

        return [of_pixels]

    def by_depth(self):
        """Group the images by the depth of their stored values: lists of indices, none empty."""
        return [range(len(self))]

    def identity(self):
        """A JSON value for `fingerprint` that changes when the images do."""
        raise NotImplementedError

    def image(self, i, plan=None):
        """Read image `i`, or the planned part of it, before resizing: (H, W, C) uint8.

        See `decoding.read_pixels` for `plan`.

        Raises:
            ValueError: with the name, if the image cannot be read.
        """
        return fit_channels(
            to_uint8(self.read_pixels(i, plan), self.name(i), self.value_range), self.channels, self.name(i)
        )

    def label(self, i):
        """The class of image `i`, or None."""
        return None if self.labels is None else int(self.labels[i])

    def readable(self, i, read):
        """Return `read(i)` and `i`; if image `i` cannot be read, the same for another image.

        The other image depends only on `i`. So a file that breaks during a run changes no other image, and every
        process uses the same replacement.

        Raises:
            ValueError: if none of `TRIES` other images can be read.
        """
        for index in itertools.chain([i], self._others(i)):
            try:
                return read(index), index
            except ValueError as error:
                self.note_broken(index, str(error), "Another image is shown in its place.")
        raise ValueError(
            f"Expected a readable image in place of {self.name(i)}, received none in {TRIES} tries "
            f"({self.broken[self.name(i)]}); check that the disk is still there."
        )

    def _others(self, i):
        yield from generator("replacement", 0, i).permutation(len(self))[:TRIES].tolist()

    def note_broken(self, i, reason, consequence):
        """Remember that image `i` is broken, and report it the first time."""
        name = self.name(i)
        with self._lock:
            known = name in self.broken
            self.broken.setdefault(name, reason)
        if not known:
            self.report(f"{reason} {consequence}")

    def summary(self):
        """The number of images, and what was left out and why, in a line."""
        return counted(len(self), "image")

    def description(self):
        """The summary, what was left out and what broke: a dictionary for JSON."""
        return {"summary": self.summary(), "left_out": self.left_out, "broken": self.broken}

    def save_record(self, **more):
        """Write the facts about the source, and `more` facts by name, to its JSON file, if it has one."""
        if self.record:
            write({**self.facts_to_record(), **more}, self.record)

    def facts_to_record(self):
        return self.description()

    @property
    def class_count(self):
        """The number of classes: that of their names, or one more than the largest label."""
        return len(self.classes or ()) or int(self.labels.max()) + 1

    def number_by(self, classes, place="the data set"):
        """Number the labels by the names of classes, such as those of another split. Some may have no image here.

        Args:
            classes: names of the classes in order.
            place: description of the source, for errors.

        Raises:
            ValueError: if an image is of another class.
        """
        self.check_labelled(place)
        if self.classes == classes:
            return
        names = self.classes or [str(label) for label in range(self.class_count)]
        if unknown := [names[label] for label in np.unique(self.labels) if names[label] not in classes]:
            raise ValueError(
                f"Expected only classes of the train split in {place}, received images of {some(unknown)}; "
                "rename these classes as in the train split, or remove their images."
            )
        number = {name: i for i, name in enumerate(classes)}
        # A table from old to new numbers. -1 is for classes without an image here, so no label becomes -1.
        self.labels = np.array([number.get(name, -1) for name in names], "int32")[self.labels]
        self.classes = list(classes)

    def check_labelled(self, place="the source"):
        """Raise NoLabels if there are no labels."""
        if self.labels is None:
            raise NoLabels(f"Expected labels in {place}, received none: {self.unlabelled}.")

    @functools.cached_property
    def image_shape(self):
        """Return (height, width, channels) of the first readable image; other images may have other sizes."""
        return self.readable(0, self.image)[0].shape

    @property
    def typical_size(self):
        """(height, width) in pixels that stands for all images."""
        return self.image_shape[:2]

    @functools.cached_property
    def fingerprint(self):
        """64 hexadecimal digits that change when the images do."""
        identity = self.identity() if self.value_range is None else [self.identity(), self.value_range]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


class Selection(Source):
    """The images of another source at `indices`. What is learned about an image is shared by both."""

    def __init__(self, source, indices):
        super().__init__()
        self.source = source
        self.indices = indices
        for name in ("channels", "value_range", "classes", "left_out", "broken", "report", "unlabelled", "_lock"):
            # The dictionaries themselves, not copies: what one of both finds broken, the other knows.
            setattr(self, name, getattr(source, name))

    def __len__(self):
        return len(self.indices)

    def name(self, i):
        return self.source.name(self.indices[i])

    @property
    def record(self):
        return self.source.record

    @record.setter
    def record(self, path):
        self.source.record = path

    def content_keys(self):
        return [lambda i, key=key: key(self.indices[i]) for key in self.source.content_keys()]

    @functools.cached_property
    def labels(self):
        return None if self.source.labels is None else self.source.labels[self.indices]

    @property
    def typical_size(self):
        return self.source.typical_size

    @property
    def class_count(self):
        return self.source.class_count  # the selection may have no image of some

    def facts_to_record(self):
        return self.source.facts_to_record()


def part_of(pixels, plan):
    """The planned part of pixels (H, W, C), or all of them without a plan."""
    return part(pixels, plan(*pixels.shape[:2])[0]) if plan else pixels
