"""Open images with label maps: folders of images and PNG files, and scene_parse150 of tensorflow-datasets."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

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
from keras_splitmask.data.scan import INTERVAL, THREADS, printable, scan
from keras_splitmask.data.sources import SPLITS, NoSuchSplit
from keras_splitmask.data.split_folders import SPLIT_OF, named_as_splits
from keras_splitmask.data.stored_numbers import LARGEST, PART, look, read_file, read_numbers
from keras_splitmask.data.turning import turn_labels, upright
from keras_splitmask.data.values import check_range

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
        return turn_labels(read_file(self.root / self.paths[i], self.label_name(i)), self.turns.get(i, 1))

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
    dataset, split, data_dir=None, channels=3, report=None, classes=None, max_bad_fraction=0.5, value_range=None
):
    """Open a data set of images with label maps by its name; both are read when they are needed.

    * `masks:PATH`: PATH/SPLIT/images/* with PATH/SPLIT/labels/*.png of the same names but for the extension. A label
      map holds the number of the class of each pixel, as grey value of up to 16 bits or as index in a palette. It may
      also be a TIFF, BMP, GIF or .npy file. PATH/classes.json names the classes: {"classes": [names], "void": 255},
      where void is a number to ignore or a list of such, and the other numbers are those of the classes in their order;
      or {"0": name, "7": name}. 255 is ignored unless it is the number of a class. Without that file, the classes are
      those given here, or "0" to the largest number in the label maps of the train split. Label maps of 0 and 255 only
      are read as 0 and 1, unless classes.json says otherwise. Where half of them hold 0 and 255 only but others more,
      classes.json must say what 255 is.
    * `tfds:scene_parse150`: ADE20k's 150 classes, "0" to "149"; other pixels are ignored.

    All label maps are read once when the data set is opened. Left out are images without a label map, and label maps
    that have no image, are unreadable or in colour, hold an unknown number, or differ from their image in size.
    `summary()` counts them and `left_out` names each.

    Args:
        dataset: one of the above.
        classes: names that the data set must have; or the source of the train split, whose classes and numbers it must
            have.
        max_bad_fraction: largest fraction of the label maps that may be unusable, themselves or their images.
        split, data_dir, channels, report, value_range: as in `detection_sets.open_detection`.

    Returns:
        A `SegmentationSource`.

    Raises:
        NoSuchSplit: if the data set exists, but not the split.
        ValueError: if there is no such data set, or it has no usable label maps or other classes.
    """
    value_range = check_range(value_range)
    kind, place = kind_and_place(dataset, split, {"masks": "PATH", "tfds": "scene_parse150"})
    if kind == "masks":
        source = _open_masks(Path(os.path.expanduser(place)), split, channels, report, classes, max_bad_fraction)
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


def _open_masks(root, split, channels, report, expected, max_bad_fraction):
    folders = _folders(root)
    name = next((name for name in SPLITS[split] if name in folders), None)
    if name is None:
        raise NoSuchSplit(f"Expected split to be one of {', '.join(folders)}, which are in {root}, received {split!r}.")
    folder = folders[name]
    looked, unread, twice = _look_at_labels(folder / "labels", report)
    found = scan(folder / "images", report=report)
    if not (looked or unread or found.images or found.left_out):
        raise NoSuchSplit(
            f"Expected images and label maps in {folder}, received none; add some, or use another split than {split}."
        )
    if unread and not looked:
        check_left_out(len(unread), len(unread), unread, folder, max_bad_fraction)
    numbered = _numbering(root, folders, name, looked, expected, report)
    numbered.check_ignored([numbers for _, _, numbers in looked.values()], folder)
    for stem, (path, _, numbers) in list(looked.items()):  # a copy, since entries are removed
        if unknown := numbered.unknown(numbers):
            unread[f"labels/{path}"] = f"the number {unknown[-1]}, which is none of the {len(numbered.classes)} classes"
            del looked[stem]
    stems = {path: os.path.splitext(path)[0] for path in (*found.images, *found.left_out)}
    sizes = {path: looked[stem][1] for path, stem in stems.items() if stem in looked}
    pictures, turned, unfit, others = annotated_images(found, sizes, channels, report)
    # The reason of a label map that is left out counts for its image, too.
    unread_stems = {os.path.splitext(path.removeprefix("labels/"))[0] for path in unread}
    others = {
        name: others[name]
        for path, stem in stems.items()
        if (name := printable(path)) in others and stem not in unread_stems
    }
    others.update(
        {printable(f"labels/{looked[stem][0]}"): "no image" for stem in sorted(looked.keys() - set(stems.values()))}
    )
    left_out = {printable(path): reason for path, reason in {**unread, **unfit, **twice, **others}.items()}
    check_left_out(len(unread) + len(unfit), len(unread) + len(sizes), left_out, folder, max_bad_fraction)
    used = [looked[stems[path]] for path in pictures.paths]
    if not any(numbered.labelled(numbers) for _, _, numbers in used):
        raise ValueError(
            f"Expected label maps with pixels of a class in {folder / 'labels'}, received pixels to ignore only; label"
            " some."
        )
    paths, stored, numbers = zip(*used, strict=True)
    with_255 = sum(IGNORE in of_map for of_map in numbers)
    turns = {i: turned[path] for i, path in enumerate(pictures.paths) if path in turned}
    return FolderSegmentationSource(pictures, numbered, left_out, folder / "labels", paths, stored, turns, with_255)


def _folders(root):
    """Find the splits: {name: path}."""
    found = {
        name: path
        for name, path in named_as_splits(root).items()
        if (path / "images").is_dir() and (path / "labels").is_dir()
    }
    found = {name: found[name] for name in SPLIT_OF if name in found}
    if not found:
        raise ValueError(
            f"Expected train/images and train/labels in {root}, or the same of val or test, received neither; correct"
            " the path."
        )
    return found


def _look_at_labels(folder, report):
    """Read all label maps of a folder.

    Returns:
        {stem: (path relative to the folder, (height, width), numbers in it)}, and two dictionaries {"labels/path":
        reason}: of unreadable label maps, and of those with the stem of another.
    """
    found = scan(folder, report=report, value_range=(0, LARGEST))  # so that an array may be of any integers
    unread = {
        f"labels/{path}": reason
        for path, reason in found.left_out.items()
        if not os.path.basename(path).startswith(".")
    }
    looked, twice = {}, {}
    started = said = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(lambda path: look(folder / path, found.images[path]), found.images)
        for i, (path, answer) in enumerate(zip(found.images, answers, strict=True)):
            stem = os.path.splitext(path)[0]
            if isinstance(answer, str):
                unread[f"labels/{path}"] = answer
            elif stem in looked:
                twice[f"labels/{path}"] = f"a second label map beside {looked[stem][0]}"
            else:
                looked[stem] = path, *answer
            if report and time.monotonic() - said > INTERVAL:
                said = time.monotonic()
                report(
                    f"looking at {printable(str(folder))}: {i + 1} of {len(found.images)} label maps,"
                    f" {said - started:.0f} s"
                )
    return looked, unread, twice


def _numbering(root, folders, name, looked, expected, report):
    """Find the `Numbering`: by classes.json, by the `expected` source or names, or by the train split's label maps."""
    if isinstance(expected, FolderSegmentationSource):
        return expected.numbered
    path = root / "classes.json"
    if "train" not in folders and expected is None and not path.exists():
        raise ValueError(
            f"Expected {path} or the labels of a train split in {root}, received neither; write down the classes."
        )
    if name != "train" and "train" in folders:
        looked, *_ = _look_at_labels(folders["train"] / "labels", report)
    return numbering(path, expected, set().union(*(numbers for _, _, numbers in looked.values())))
