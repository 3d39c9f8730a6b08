"""What a source of images is, whatever they come from."""

import functools
import hashlib
import itertools
import json
import threading

import numpy as np

from keras_splitmask.data.conversion import fit_channels, to_uint8
from keras_splitmask.data.decoding import part
from keras_splitmask.data.labels import some
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.record import write

# What a split may be called in a folder, an array file or a tfds data set.
SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid"), "test": ("test", "testing")}
TRIES = 100  # images that may take the place of one that cannot be read


class NoSuchSplit(ValueError):
    """The data set is there, but has no split of that name."""


class NoLabels(ValueError):
    """The data set is there, but without labels."""


class Source:
    """Images in a fixed order. A kind of source says how many there are, and how to read the pixels and the label of
    one.

    Attributes:
        channels: C of every image.
        value_range: (low, high), the stored values that become 0 and 255, or None; see `decoding.to_uint8`.
        labels: the class of each image (B,) int32, or None.
        classes: the names of the classes, or None.
        left_out: name: reason, of the files that are not among the images because they cannot be read.
        broken: name: reason, of the images that could not be read when they were needed, and others were shown.
        report: a function that is told of each of these once, in a line; silent by default.
        unlabelled: why `labels` is None, and what to do.
        record: path of the JSON file for `save_record`, or None.
    """

    channels = value_range = labels = classes = record = None
    unlabelled = "the data set has none; choose another"

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

    def read_pixels(self, i, plan=None):
        """Pixels (H, W, C) of image `i`, or of its part, of any dtype that `to_uint8` takes. See
        `decoding.read_pixels`."""
        raise NotImplementedError

    def keeps_depth(self, i):
        """Whether the pixels of image `i` are read with all the bits that they are stored with."""
        return True

    def identity(self):
        """What changes when the images do, for `fingerprint`; anything that JSON can hold."""
        raise NotImplementedError

    def image(self, i, plan=None):
        """Image `i`, or the part of it that is planned (see `decoding.read_pixels`), not yet resized: (H, W, C) uint8.

        Raises:
            ValueError: with its name, if it cannot be read.
        """
        return fit_channels(
            to_uint8(self.read_pixels(i, plan), self.name(i), self.value_range), self.channels, self.name(i)
        )

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
                self.note_broken(index, str(error), "Another image is shown in its place.")
        raise ValueError(
            f"Expected an image that is readable in place of {self.name(i)}, received none in {TRIES} tries "
            f"({self.broken[self.name(i)]}); is the disk still there?"
        )

    def _others(self, i):
        yield from generator("replacement", 0, i).permutation(len(self))[:TRIES].tolist()

    def note_broken(self, i, reason, consequence):
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

    def description(self):
        """The summary, what was left out and what broke: a dictionary that JSON can hold."""
        return {"summary": self.summary(), "left_out": self.left_out, "broken": self.broken}

    def save_record(self, **more):
        """Writes what is in the source, what was left out and what broke into its JSON file, if any, and `more` facts
        by name."""
        if self.record:
            write({**self.facts_to_record(), **more}, self.record)

    def facts_to_record(self):
        return self.description()

    @property
    def class_count(self):
        """The number of classes: that of their names, or one more than the largest label."""
        return len(self.classes or ()) or int(self.labels.max()) + 1

    def number_by(self, classes, place="the data set"):
        """Numbers the labels by the names of classes in this order, such as those of another split; some may have no
        image here.

        Args:
            classes: their names.
            place: what the source is, for messages.

        Raises:
            ValueError: if there is an image of another class.
        """
        self.check_labelled(place)
        if self.classes == classes:
            return
        names = self.classes or [str(label) for label in range(self.class_count)]
        if unknown := [names[label] for label in np.unique(self.labels) if names[label] not in classes]:
            raise ValueError(
                f"Expected only classes that are learnt in {place}, received images of {some(unknown)}; "
                "give them the name of a class in the train split, or remove them."
            )
        number = {name: i for i, name in enumerate(classes)}
        self.labels = np.array([number.get(name, -1) for name in names], "int32")[self.labels]
        self.classes = list(classes)

    def check_labelled(self, place="the source"):
        """Raises NoLabels if there are none."""
        if self.labels is None:
            raise NoLabels(f"Expected labels in {place}, received none: {self.unlabelled}.")

    @functools.cached_property
    def image_shape(self):
        """(height, width, channels) of the first image that can be read; the others may have other sides."""
        return self.readable(0, self.image)[0].shape

    @functools.cached_property
    def fingerprint(self):
        """64 hexadecimal digits that change when the images do."""
        identity = self.identity() if self.value_range is None else [self.identity(), self.value_range]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


class Selection(Source):
    """Images of another source at their `indices` there. What is known of an image is known in both."""

    def __init__(self, source, indices):
        super().__init__()
        self.source = source
        self.indices = indices
        for name in ("channels", "value_range", "classes", "left_out", "broken", "report", "unlabelled", "_lock"):
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

    @functools.cached_property
    def labels(self):
        return None if self.source.labels is None else self.source.labels[self.indices]

    @property
    def class_count(self):
        return self.source.class_count  # the selection may have no image of some

    def facts_to_record(self):
        return self.source.facts_to_record()


def part_of(pixels, plan):
    """The part of pixels (H, W, C) that a plan names; all of them without a plan."""
    return part(pixels, plan(*pixels.shape[:2])[0]) if plan else pixels
