"""Images of a folder: flat, nested or by class."""

import collections
import dataclasses
import os
from pathlib import Path

import numpy as np

from keras_splitmask.data.decoding import read_pixels
from keras_splitmask.data.scan import printable, save, scan
from keras_splitmask.data.sources import SPLITS, NoSuchSplit, Source


class FolderSource(Source):
    """The images of a folder that was looked at by `scan`.

    Args:
        found: a `Scan`.
        channels: of the images; by default that of most of them, where grey among colour becomes colour. Images of another depth
            are left out.
        record: path of the JSON file of the scan, for `save_record`.
    """

    def __init__(self, found, channels=None, record=None):
        super().__init__()
        depths = collections.Counter(shape[2] for shape in found.images.values())
        self.channels = channels or _channels(depths)
        self.scan = _of_depth(found, self.channels)
        self.record = record
        if self.scan is not found:
            self.save_record()
        self.paths = list(self.scan.images)
        self.left_out = {printable(path): reason for path, reason in self.scan.left_out.items()}
        directories = sorted({os.path.dirname(path) for path in self.paths})
        if len(directories) > 1 and all(name and os.sep not in name for name in directories):
            self.classes = [printable(name) for name in directories]
            number = {name: i for i, name in enumerate(directories)}
            self.labels = np.array([number[os.path.dirname(path)] for path in self.paths], "int32")

    def __len__(self):
        return len(self.paths)

    def name(self, i):
        return printable(self.paths[i])

    def _read(self, i, plan=None):
        path = os.path.join(self.scan.root, self.paths[i])
        if os.path.exists(path) and not os.path.isfile(path):  # opening a FIFO waits for ever
            raise ValueError(f"Expected a readable image, received {self.name(i)} (no file any more); restore the file.")
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise ValueError(f"Expected a readable image, received {self.name(i)} ({error.strerror}); restore the file.") from error
        return read_pixels(content, self.name(i), plan)

    def _identity(self):
        return [(path, *self.scan.files[path]) for path in self.paths]

    @property
    def image_shape(self):
        """(height, width, channels) of the first image as stored; the others may have other sides."""
        return *self.scan.images[self.paths[0]][:2], self.channels

    def summary(self):
        return self.scan.summary()

    def save_record(self):
        """Writes the scan, and which images broke since, into the JSON file that it was given, if any."""
        if self.record:
            save(self.scan, self.record, self.broken)


def _channels(depths):
    """The depth of most images, given how many there are of each; colour if some of grey and colour are in colour."""
    grey_and_colour = depths[1] + depths[3]
    most = max(depths, key=lambda depth: (grey_and_colour if depth in (1, 3) else depths[depth], depth))
    return most if most not in (1, 3) else 3 if depths[3] else 1


def _of_depth(found, channels):
    """A scan without the images that cannot be given in so many channels."""
    fitting = {1, 3} if channels in (1, 3) else {channels}
    others = {path: f"{shape[2]} channels, not {channels}" for path, shape in found.images.items() if shape[2] not in fitting}
    if not others:
        return found
    images = {path: shape for path, shape in found.images.items() if path not in others}
    return dataclasses.replace(found, images=images, left_out=dict(sorted({**found.left_out, **others}.items())))


def open_folder(place, split, channels=None, record=None, max_bad_fraction=0.1, report=None, frozen=False):
    """A `FolderSource` of the folder, or of its subfolder for the split. See `opening.open_source`."""
    root = Path(place).expanduser()
    if not root.is_dir():
        raise ValueError(f"Expected a folder, received {place}, which is not one; correct the path.")
    divided = {s: root / name for s, names in SPLITS.items() for name in names if (root / name).is_dir()}
    if divided and split not in divided:
        raise NoSuchSplit(f"Expected split to be one of {', '.join(divided)}, the subfolders of {place}, received {split!r}.")
    if not divided and split != "train":
        raise NoSuchSplit(f"Expected a subfolder {split} in {place}, received a folder that is not divided; use the split train.")
    found = scan(divided.get(split, root), record, report, frozen)
    found.check(max_bad_fraction)
    source = FolderSource(found, channels, record)
    source.scan.check(max_bad_fraction)  # again, without the images of other depths
    return source
