"""Images of a folder: flat, nested or by class."""

import collections
import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from keras_splitmask.data import bounds
from keras_splitmask.data.decoding import keeps_depth, read_pixels
from keras_splitmask.data.scan import printable, scan
from keras_splitmask.data.sources import NoSuchSplit, Source
from keras_splitmask.data.split_folders import split_folders, what_is_beside

BEGINNING = 4096  # bytes of a file that are compared before all of it is read


class FolderSource(Source):
    """The images of a folder that `scan` has read. They have labels if each lies in one of several class folders.

    Args:
        found: a `Scan`.
        channels: number of channels; by default that of most images, and colour if grey and colour are mixed. Images
            with another number are left out.
        record: path of the JSON file of the scan, for `save_record`.
        beside: {name: description} of what lies beside the folder of this split and is not used.
    """

    def __init__(self, found, channels=None, record=None, beside=None):
        super().__init__()
        depths = collections.Counter(shape[2] for shape in found.images.values())
        self.channels = channels or _channels(depths)
        self.scan = _of_depth(found, self.channels)
        self.record = record
        self.beside = beside or {}
        # The record of the scan does not know yet what this number of channels leaves out.
        if self.scan is not found:
            self.save_record()
        self.paths = list(self.scan.images)
        self.left_out = {printable(path): reason for path, reason in self.scan.left_out.items()}
        self.unlabelled = _without_labels(self.paths)
        if self.unlabelled is None:
            self._label()

    def _label(self):
        """Number the classes by the sorted names of their folders."""
        folders = sorted({os.path.dirname(path) for path in self.paths})
        self.classes = [printable(name) for name in folders]
        self.labels = np.array([folders.index(os.path.dirname(path)) for path in self.paths], "int32")

    def number_by(self, classes, place="the data set"):
        if self.labels is None and all(path.count(os.sep) == 1 for path in self.paths):  # all images lie in one folder
            self._label()
        super().number_by(classes, place)

    def __len__(self):
        return len(self.paths)

    def name(self, i):
        return printable(self.paths[i])

    def read_pixels(self, i, plan=None):
        return read_pixels(self._content(i), self.name(i), plan)

    def keeps_depth(self, i):
        return keeps_depth(self._content(i))

    def by_depth(self):
        deep, groups = set(self.scan.deep), ([], [])
        for i, path in enumerate(self.paths):
            groups[path in deep].append(i)
        return [group for group in groups if group]

    def _content(self, i):
        path = os.path.join(self.scan.root, self.paths[i])
        if os.path.exists(path) and not os.path.isfile(path):  # opening a FIFO would wait forever
            raise ValueError(
                f"Expected a readable image, received {self.name(i)} (no file any more); restore the file."
            )
        try:
            bounds.check_file(os.path.getsize(path))
            with open(path, "rb") as file:
                return file.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"Expected a readable image, received {self.name(i)} ({reason}); restore the file."
            ) from error

    def content_keys(self):
        def beginning(i):
            path = os.path.join(self.scan.root, self.paths[i])
            if not os.path.isfile(path):  # opening a FIFO would wait forever
                raise FileNotFoundError(path)
            with open(path, "rb") as file:
                return file.read(BEGINNING)

        return [
            lambda i: self.scan.files[self.paths[i]][0],
            beginning,
            lambda i: hashlib.sha256(self._content(i)).digest(),
        ]

    def identity(self):
        # Sizes and times of change: reading every file would take too long.
        return [(path, *self.scan.files[path]) for path in self.paths]

    @property
    def image_shape(self):
        """Return (height, width, channels) of the first image as stored; other images may have other sizes."""
        return *self.scan.images[self.paths[0]][:2], self.channels

    @property
    def typical_size(self):
        """(height, width) of all images; if they differ, twice the median of their short sides."""
        sizes = {shape[:2] for shape in self.scan.images.values()}
        short = int(np.median([min(shape[:2]) for shape in self.scan.images.values()]))
        return sizes.pop() if len(sizes) == 1 else (short, short)

    def summary(self):
        beside = "; ".join(f"{printable(name)}: {what}" for name, what in self.beside.items())
        return self.scan.summary() + (f"; not used ({beside})" if beside else "") + self._doubt()

    def _doubt(self):
        """The part of `summary` about images without labels, though most lie in class folders."""
        shallow = {path for path in self.paths if path.count(os.sep) == 1}
        spoilt = (
            self.labels is None and 2 * len(shallow) > len(self.paths) and len(set(map(os.path.dirname, shallow))) > 1
        )
        return f"; without labels, since {self.unlabelled.partition(';')[0]}" if spoilt else ""

    def facts_to_record(self):
        return {**self.scan.facts(), "not_used": self.beside, "broken": self.broken}


def _channels(depths):
    """Choose the number of channels: that of most images, and colour if grey and colour are mixed.

    Args:
        depths: {number of channels: count of images}.
    """
    # Grey and colour can be converted into each other, so they count together.
    grey_and_colour = depths[1] + depths[3]
    most = max(depths, key=lambda depth: (grey_and_colour if depth in (1, 3) else depths[depth], depth))
    return most if most not in (1, 3) else 3 if depths[3] else 1


def _of_depth(found, channels):
    """The scan without the images that cannot be converted to this number of channels."""
    fitting = {1, 3} if channels in (1, 3) else {channels}
    others = {
        path: f"{shape[2]} channels, not {channels}" for path, shape in found.images.items() if shape[2] not in fitting
    }
    if not others:
        return found
    images = {path: shape for path, shape in found.images.items() if path not in others}
    return dataclasses.replace(found, images=images, left_out=dict(sorted({**found.left_out, **others}.items())))


def _without_labels(paths):
    """The reason why images have no labels, by their paths, and what to do; None if they have labels."""
    by_depth = {depth: [path for path in paths if min(path.count(os.sep), 2) == depth] for depth in range(3)}
    wrong = by_depth[0] or by_depth[2]
    if not by_depth[1] and by_depth[0]:
        return "the images do not lie in folders of classes; put the images of each class into a folder of its own"
    if wrong:
        where = "outside of a class folder" if by_depth[0] else "more than one folder deep"
        lie = "image lies" if len(wrong) == 1 else "images lie"
        return (
            f"{len(wrong)} {lie} {where} ({printable(wrong[0])}); put the images of each class directly into a folder"
            " of its own"
        )
    if len(folders := set(map(os.path.dirname, paths))) == 1:
        return (
            f"all images lie in one folder ({printable(folders.pop())}); put the images of each class into a folder of"
            " its own"
        )
    return None


def open_folder(
    place, split, channels=None, record=None, max_bad_fraction=0.1, report=None, frozen=False, value_range=None
):
    """Open a folder, or its subfolder for the split: a `FolderSource`. See `opening.open_source`."""
    root = Path(os.path.expanduser(place))
    if not root.is_dir():
        found = "This is a file, not a folder" if root.exists() else "Folder not found"
        raise ValueError(f"{found}: {place}. Check the path after folder:.")
    folders = split_folders(root, report if split == "train" else None)
    if folders and split not in folders:
        raise NoSuchSplit(
            f"Expected a folder {split} in {place}, received {', '.join(folders)} only; make one, or use another split."
        )
    if not folders and split != "train":
        raise NoSuchSplit(
            f"Expected a folder {split} in {place}, received one that is not divided into splits; use the split train."
        )
    found = scan(folders.get(split, root), record, report, frozen, value_range)
    if folders and not found.images and not found.left_out:
        raise NoSuchSplit(
            f"Expected images in {printable(found.root)}, received none; add some, or use another split than {split}."
        )
    found.check(max_bad_fraction)
    # Once, with the first of the splits, since it is the same for all.
    beside = what_is_beside(root, folders) if split == next(iter(folders), None) else {}
    source = FolderSource(found, channels, record, beside)
    source.scan.check(max_bad_fraction)  # again, without the images of other depths
    return source
