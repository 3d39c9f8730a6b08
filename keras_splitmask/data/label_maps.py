"""Open images with label maps: folders of images and PNG files, and scene_parse150 of tensorflow-datasets."""

import os
from pathlib import Path

import numpy as np

from keras_splitmask.data import colours, mask_folders
from keras_splitmask.data.annotated import (
    AnnotatedSource,
    annotated_images,
    check_classes,
    check_left_out,
    check_size,
    kind_and_place,
)
from keras_splitmask.data.class_numbers import IGNORE, numbering
from keras_splitmask.data.published import open_tfds
from keras_splitmask.data.ranges import report_range
from keras_splitmask.data.scan import printable
from keras_splitmask.data.sources import NoSuchSplit
from keras_splitmask.data.stored_numbers import PART, is_coloured, read_file, read_numbers
from keras_splitmask.data.turning import turn_labels, upright
from keras_splitmask.data.values import check_range

LOOKED_AT = 8  # label maps, to see whether they hold colours
SCENES = 150  # classes of scene_parse150, which are 1 to 150 in its files


class SegmentationSource(AnnotatedSource):
    """Images and their label maps. A subclass reads the stored numbers.

    Args:
        pictures: a `Source` of the images.
        classes: names of the classes, at most 255.
        numbers: (65536,) int16: the class of each number that may be stored, 255 to ignore it, -1 if it has no meaning.
        left_out: {name: reason} of images and label maps that cannot be used, besides those of `pictures`.
    """

    def __init__(self, pictures, classes, numbers, left_out):
        super().__init__(pictures, classes, left_out)
        self._numbers = numbers

    @property
    def class_numbers(self):
        """The number of each class in label maps."""
        return [int(np.flatnonzero(self._numbers == label)[0]) for label in range(len(self.classes))]

    def _stored(self, i):
        """Read the numbers (H, W) that label map `i` stores, turned as the image is."""
        raise NotImplementedError

    def label_name(self, i):
        """Name label map `i`, for errors."""
        raise NotImplementedError

    def label_map(self, i):
        """Read the class of each pixel of image `i`, (H, W) uint8; 255 is ignored.

        Raises:
            ValueError: with its name, if it cannot be read, differs from its header in size or has unknown classes.
        """
        stored = self._stored(i)
        check_size(self.size(i), stored.shape, self.label_name(i))
        labels, rows = np.empty(stored.shape, "uint8"), max(1, PART // stored.shape[1])
        for start in range(0, len(stored), rows):  # in parts: as indices, each number takes eight bytes
            part = self._numbers[stored[start : start + rows]]
            if part.min() < 0:
                raise ValueError(
                    f"Expected a label map of numbers of the {len(self.classes)} classes, received"
                    f" {stored[start : start + rows][part < 0].max()} in {self.label_name(i)}; correct it or the"
                    " classes."
                )
            labels[start : start + rows] = part
        return labels


class FolderSegmentationSource(SegmentationSource):
    """Images of a folder and label maps of another folder. See `open_segmentation`.

    Args:
        pictures: a `FolderSource`.
        numbered: a `Numbering`.
        left_out: see `SegmentationSource`.
        root: path of the folder of label maps.
        paths: path of the label map of each image, relative to `root`.
        sizes: (height, width) of each label map, as stored.
        turns: {index: EXIF orientation} of images that are turned when they are read, but whose label maps are not.
        with_255: number of label maps in which 255 occurs.
    """

    def __init__(self, pictures, numbered, left_out, root, paths, sizes, turns, with_255=0):
        super().__init__(pictures, numbered.classes, numbered.meaning, left_out)
        self.numbered, self.root, self.paths, self.sizes, self.turns = numbered, root, paths, sizes, turns
        self.with_255 = with_255

    def size(self, i):
        return upright(self.sizes[i], self.turns.get(i, 1))

    def label_name(self, i):
        return printable(f"{self.root.name}/{self.paths[i]}")

    def _stored(self, i):
        stored = read_file(self.root / self.paths[i], self.label_name(i), self.numbered.colours)
        return turn_labels(stored, self.turns.get(i, 1))

    def identity(self):
        files = [(path, os.stat(self.root / path)) for path in self.paths]
        stamps = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]
        known = np.flatnonzero(self._numbers >= 0)
        return [self.pictures.fingerprint, stamps, self.classes, known.tolist(), self._numbers[known].tolist()]

    def summary(self):
        """Extend `AnnotatedSource.summary` by the notes on the numbers."""
        turned = f"; label maps turned as the EXIF tags of their images say: {len(self.turns)}" if self.turns else ""
        notes = self.numbered.note.rstrip("."), self.numbered.note_ignored(self.with_255)
        return ". ".join([f"{super().summary()}{turned}", *filter(None, notes)])


class TfdsSegmentationSource(SegmentationSource):
    """scene_parse150 of tensorflow-datasets. Its class 0, "other", is ignored."""

    def __init__(self, pictures):
        numbers = np.full(65536, -1, "int16")
        numbers[: SCENES + 1] = [IGNORE, *range(SCENES)]  # 0 is "other", 1 to 150 are the classes
        super().__init__(pictures, [str(k) for k in range(SCENES)], numbers, {})

    def size(self, i):
        return self.pictures.size(i, "annotation")

    def label_name(self, i):
        return f"the annotation of {self.name(i)}"

    def _stored(self, i):
        return read_numbers(self.pictures.example(i)["annotation"], self.label_name(i))

    def identity(self):
        return self.pictures.identity()


def open_segmentation(
    dataset,
    split,
    data_dir=None,
    channels=3,
    report=None,
    classes=None,
    max_bad_fraction=0.5,
    value_range=None,
    val_fraction=None,
):
    """Open a data set of images with label maps by its name; both are read when they are needed.

    * `masks:PATH`: PATH/SPLIT/images/* with PATH/SPLIT/labels/*.png of the same names but for the extension, or one of
      the other layouts of `mask_folders.splits`. A label map holds the number of the class of each pixel, as grey
      value of up to 16 bits or as index in a palette. It may also be a TIFF, BMP, GIF or .npy file.
      PATH/classes.json names the classes: {"classes": [names], "void": 255}, where void is a number to ignore or a
      list of such, and the other numbers are those of the classes in their order; or {"0": name, "7": name}.
      255 is ignored unless it is the number of a class. Without that file, the classes are those given here, or "0" to
      the largest number in the label maps of the train split. Label maps of 0 and 255 only are read as 0 and 1, unless
      classes.json says otherwise. Where half of them hold 0 and 255 only but others more, classes.json must say what
      255 is. Without classes.json, label maps may hold colours, which PATH/class_dict.csv (name,r,g,b), colours.csv or
      CVAT's labelmap.txt lists. The colours must be exact. Those called void are ignored.
    * `tfds:scene_parse150`: ADE20k's 150 classes, "0" to "149"; other pixels are ignored.

    All label maps are read once when the data set is opened. Left out are images without a label map, and label maps
    that have no image, are unreadable or in colour, hold an unknown number, or differ from their image in size.
    `summary()` counts them and `left_out` names each.

    Args:
        dataset: one of the above.
        classes: names that the data set must have; or the source of the train split, whose classes and numbers it must
            have.
        max_bad_fraction: largest fraction of the label maps that may be unusable, themselves or their images.
        split, data_dir, channels, report, value_range, val_fraction: as in `detection_sets.open_detection`.

    Returns:
        A `SegmentationSource`.

    Raises:
        NoSuchSplit: if the data set exists, but not the split.
        ValueError: if there is no such data set, or it has no usable label maps or other classes.
    """
    value_range = check_range(value_range)
    kind, place = kind_and_place(dataset, split, {"masks": "PATH", "tfds": "scene_parse150"})
    if kind == "masks":
        root = Path(os.path.expanduser(place))
        source = _open_masks(root, split, channels, report, classes, max_bad_fraction, val_fraction)
    elif place.split(":")[0] == "scene_parse150":
        source = TfdsSegmentationSource(open_tfds(place, split, channels, data_dir))
    else:
        raise ValueError(
            f"Expected tfds:scene_parse150, the only one supported, received {dataset}; convert it to masks:PATH."
        )
    check_classes(source.classes, classes, dataset)
    source.value_range = value_range
    if report:
        source.report = report
        report_range(source, dataset)
    return source


def _open_masks(root, split, channels, report, expected, max_bad_fraction, val_fraction):
    parts = mask_folders.splits(root)
    if not parts:
        raise ValueError(
            f"Expected train/images and train/labels in {root}, or the same of val or test, received neither; correct"
            " the path. Other layouts are images/train and labels/train, train and train_labels, or JPEGImages and"
            " SegmentationClass."
        )
    part = mask_folders.choose(parts, split, root, val_fraction, report)
    found, folder = part.scan_images(report), part.place
    table = _colours(root, part, expected)
    looked, unread, twice = part.look_at_labels(report, table)
    looked = mask_folders.by_image(looked, {os.path.splitext(path)[0] for path in (*found.images, *found.left_out)})
    if not (looked or unread or found.images or found.left_out):
        raise NoSuchSplit(
            f"Expected images and label maps in {folder}, received none; add some, or use another split than {split}."
        )
    if unread and not looked:
        check_left_out(len(unread), len(unread), unread, folder, max_bad_fraction)
    numbered = _numbering(root, parts, part, looked, expected, table, report)
    labels = part.labels.name
    numbered.check_ignored([numbers for _, _, numbers in looked.values()], part.labels)
    for stem, (path, _, numbers) in list(looked.items()):  # a copy, since entries are removed
        if unknown := numbered.unknown(numbers):
            unread[f"{labels}/{path}"] = (
                f"the number {unknown[-1]}, which is none of the {len(numbered.classes)} classes"
            )
            del looked[stem]
    stems = {path: os.path.splitext(path)[0] for path in (*found.images, *found.left_out)}
    sizes = {path: looked[stem][1] for path, stem in stems.items() if stem in looked}
    pictures, turned, unfit, others = annotated_images(found, sizes, channels, report)
    # The reason of a label map that is left out counts for its image, too.
    unread_stems = {os.path.splitext(path.removeprefix(f"{labels}/"))[0] for path in unread}
    unread_stems.update([other for stem in unread_stems for other in mask_folders.without_ending(stem)])
    others = {
        name: others[name]
        for path, stem in stems.items()
        if (name := printable(path)) in others and stem not in unread_stems
    }
    others.update(
        {printable(f"{labels}/{looked[stem][0]}"): "no image" for stem in sorted(looked.keys() - set(stems.values()))}
    )
    left_out = {printable(path): reason for path, reason in {**unread, **unfit, **twice, **others}.items()}
    check_left_out(len(unread) + len(unfit), len(unread) + len(sizes), left_out, folder, max_bad_fraction)
    used = [looked[stems[path]] for path in pictures.paths]
    if not any(numbered.labelled(numbers) for _, _, numbers in used):
        raise ValueError(
            f"Expected label maps with pixels of a class in {part.labels}, received pixels to ignore only; label some."
        )
    paths, stored, numbers = zip(*used, strict=True)
    with_255 = sum(IGNORE in of_map for of_map in numbers)
    turns = {i: turned[path] for i, path in enumerate(pictures.paths) if path in turned}
    return FolderSegmentationSource(pictures, numbered, left_out, part.labels, paths, stored, turns, with_255)


def _colours(root, part, expected):
    """The `Colours` of a data set, or None if its label maps hold numbers."""
    if isinstance(expected, FolderSegmentationSource):
        return expected.numbered.colours
    path = colours.find(root)
    if path is None or (root / "classes.json").exists():
        return None
    first = list(part.scan_labels().images)[:LOOKED_AT]
    return colours.read(path) if any(is_coloured(part.labels / name) for name in first) else None


def _numbering(root, parts, part, looked, expected, table, report):
    """Find the `Numbering`: by colours, classes.json, the `expected` source or names, or the train split's labels."""
    if isinstance(expected, FolderSegmentationSource):
        return expected.numbered
    if table:
        return table.numbering()
    path, train = root / "classes.json", parts.get("train", parts.get(""))
    if train is None and expected is None and not path.exists():
        raise ValueError(
            f"Expected {path} or the labels of a train split in {root}, received neither; write down the classes."
        )
    if train is not None and part is not train:
        looked, *_ = train.look_at_labels(report)
    return numbering(path, expected, set().union(*(numbers for _, _, numbers in looked.values())))
