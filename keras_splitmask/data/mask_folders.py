"""Find the images and label maps of a data set in folders, and look at the label maps."""

import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keras_splitmask.data.listing import read_content, restricted
from keras_splitmask.data.scan import INTERVAL, THREADS, printable, scan
from keras_splitmask.data.split_folders import SPLIT_OF, choose_split, drawn, named_as_splits, note_of_division
from keras_splitmask.data.stored_numbers import LARGEST, look

LABELS = ("labels", "masks", "annotations")  # folders of label maps that may lie beside images
BESIDE = ("_labels", "_masks", "annot")  # what may follow the name of a split
ENDINGS = ("_L", "_mask", "_labels", "_label", "_gt")  # that the name of a label map may have besides its image's
MAX_LIST = 100_000_000  # bytes of a list of names


@dataclasses.dataclass
class Part:
    """Where the files of a split are.

    Attributes:
        images, labels: paths of the folders.
        names: names of the images without extension, or None for all.
        hidden: names that belong to another split.
    """

    images: Path
    labels: Path
    names: set | None = None
    hidden: set = dataclasses.field(default_factory=set)

    @property
    def place(self):
        """The folder to name in errors."""
        return Path(os.path.commonpath([self.images, self.labels]))

    def holds(self, path):
        """Return whether an image or a label map belongs to the split."""
        stems = {stem := os.path.splitext(path)[0], *without_ending(stem)}
        return not stems & self.hidden and (self.names is None or bool(stems & self.names))

    def scan_images(self, report):
        return restricted(scan(self.images, report=report), self.holds)

    def scan_labels(self, report=None):
        # So that an array may be of any integers.
        return restricted(scan(self.labels, report=report, value_range=(0, LARGEST)), self.holds)

    def look_at_labels(self, report, colours=None):
        """Read all label maps.

        Returns:
            {stem: (path relative to the folder, (height, width), numbers in it)}, and two dictionaries {"labels/path":
            reason}: of unreadable label maps, and of those with the stem of another.
        """
        found, folder = self.scan_labels(report), self.labels.name
        unread = {
            f"{folder}/{path}": reason
            for path, reason in found.left_out.items()
            if not os.path.basename(path).startswith(".")
        }
        looked, twice = {}, {}
        started = said = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            answers = pool.map(lambda path: look(self.labels / path, found.images[path], colours), found.images)
            for i, (path, answer) in enumerate(zip(found.images, answers, strict=True)):
                stem = os.path.splitext(path)[0]
                if isinstance(answer, str):
                    unread[f"{folder}/{path}"] = answer
                elif stem in looked:
                    twice[f"{folder}/{path}"] = f"a second label map beside {looked[stem][0]}"
                else:
                    looked[stem] = path, *answer
                if report and time.monotonic() - said > INTERVAL:
                    said = time.monotonic()
                    report(
                        f"looking at {printable(str(self.labels))}: {i + 1} of {len(found.images)} label maps,"
                        f" {said - started:.0f} s"
                    )
        return looked, unread, twice


def splits(root):
    """Find the splits of a data set: {name: `Part`}, train first. The name is empty if it is not divided.

    * ROOT/SPLIT/images with ROOT/SPLIT/labels;
    * ROOT/images/SPLIT with ROOT/labels/SPLIT;
    * ROOT/SPLIT with ROOT/SPLIT_labels, as CamVid has them;
    * ROOT/JPEGImages with ROOT/SegmentationClass, divided by ROOT/ImageSets/Segmentation/SPLIT.txt, as Pascal VOC has;
    * ROOT/images with ROOT/labels.

    The folder of label maps may be called masks or annotations, too.
    """
    named = named_as_splits(root)
    voc = Part(root / "JPEGImages", root / "SegmentationClass")
    if voc.images.is_dir() and voc.labels.is_dir():
        lists = {path.stem.lower(): path for path in sorted(root.glob("ImageSets/Segmentation/*.txt"))}
        found = {name: dataclasses.replace(voc, names=_names(path)) for name, path in lists.items() if name in SPLIT_OF}
        return _in_order(found) or {"": voc}
    candidates = [
        {name: _pair(path / "images", path) for name, path in named.items()},
        {name: _pair(path, root, path.name) for name, path in named_as_splits(root / "images").items()},
        {name: _beside(path) for name, path in named.items()},
        {"": _pair(root / "images", root)},
    ]
    for found in candidates:
        if found := {name: part for name, part in found.items() if part}:
            return _in_order(found)
    return {}


def choose(parts, split, root, val_fraction, report):
    """The `Part` of a split, of those that `splits` found.

    If the data set is not divided, `val_fraction` of its images are drawn by their names for the split val.
    """
    if "" not in parts or val_fraction is None or split == "test":
        return choose_split(parts, split, root)
    part = parts[""]
    stems = {os.path.splitext(path)[0] for path in part.scan_images(report).images}
    val = drawn(stems, val_fraction)
    if split == "val":
        return dataclasses.replace(part, names=val)
    if report:
        report(note_of_division(root, len(val), len(stems)))
    return dataclasses.replace(part, hidden=val)  # with what belongs to no image


def _in_order(found):
    return {name: found[name] for name in ("", *SPLIT_OF) if name in found}


def _pair(images, folder, inside=""):
    labels = next((path for name in LABELS if (path := folder / name / inside).is_dir()), None)
    return Part(images, labels) if images.is_dir() and labels else None


def _beside(path):
    labels = next((path.with_name(path.name + end) for end in BESIDE if path.with_name(path.name + end).is_dir()), None)
    return Part(path, labels) if labels else None


def _names(path):
    lines = os.fsdecode(read_content(path, MAX_LIST)).splitlines()
    return {line.strip() for line in lines if line.strip()}


def without_ending(stem):
    """The names without an extension that the image of a label map may have, if not its own."""
    return [stem.removesuffix(ending) for ending in ENDINGS if stem.endswith(ending)]


def by_image(looked, stems):
    """Rename the keys of {stem of a label map: anything} to the stems of their images, where these have another."""
    names = {}
    for stem in looked:
        others = [other for other in without_ending(stem) if other in stems and other not in looked]
        names[stem] = others[0] if others and stem not in stems else stem
    return {names[stem]: value for stem, value in looked.items()}
