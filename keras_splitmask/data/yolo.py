"""Read boxes and outlines from text files in the form of YOLO, as Ultralytics, CVAT and Label Studio write them."""

import os

from keras_splitmask.data.image_names import before_upload
from keras_splitmask.data.listing import Listing, read_content, restricted, upright_size, with_progress
from keras_splitmask.data.scan import printable, scan
from keras_splitmask.data.segmentations import finite
from keras_splitmask.data.split_folders import choose_split
from keras_splitmask.data.yolo_layouts import (
    NO_LABELS,
    check_together,
    class_names,
    home_of,
    labels_of,
    settings,
    splits,
)

__all__ = ["read", "splits"]

MAX_LABELS, MAX_LINES = 2_000_000, 50_000  # bytes and lines of the labels of an image
ROUNDING = 1e-5  # of a side


def read(root, split, report=None):
    """Read the annotations of a split: a `Listing`.

    A line is `class x y width height`, the centre and the sides as fractions of the image as it is shown, or
    `class x y x y x y...`, the corners of an outline, whose box is around it. An image without a text file has no
    objects.
    """
    found = splits(root)
    if not found:
        raise ValueError(
            f"Expected data.yaml, or images with labels/*.txt, in {printable(str(root))}, received neither; correct the"
            " path."
        )
    part = choose_split(found, split, home_of(root))
    check_together(part, root)
    names = class_names(root, part)
    images = scan(part.root, report=report)
    images = restricted(images, part.holds)
    reading = _Reading(images, part.root, names, has_points="kpt_shape" in settings(root))
    there = {*images.images, *images.left_out}
    missing = {os.path.relpath(file, part.root) for file in part.files} - there
    for path in with_progress([*images.images, *images.left_out, *sorted(missing)], part.root, report):
        reading.add(path)
    unused = reading.unused() if part.folders == [part.root] else {}  # else they may belong to other splits
    return Listing(
        labels_of(part.root),
        images,
        reading.images,
        reading.objects,
        [{"id": number, "name": str(name)} for number, name in names.items()],
        names=reading.names,
        unread=reading.unread,
        unannotated=reading.unannotated,
        left_out={**reading.left_out, **unused},
        divided="" not in found,
        boxes="class, x and y of the centre, width and height, in fractions of the image",
    )


class _Reading:
    """What the text files say, collected image by image.

    Args:
        found: `Scan` of the images.
        root: `pathlib.Path` of the images.
        classes: {number: name}.
        has_points: whether points of a pose follow each box.
    """

    def __init__(self, found, root, classes, has_points):
        self.found, self.root, self.classes, self.has_points = found, root, classes, has_points
        self.images, self.objects, self.names = [], [], []
        self.unread, self.left_out, self.unannotated = {}, {}, set()
        self.folders = {}  # {folder of labels: {name of an image without its extension: path of its labels}}
        self.used = set()

    def _labels(self, path):
        """The path of the labels of an image: in the folder labels that corresponds to images, or beside it."""
        folder, name = (self.root / path).parent, os.path.splitext(os.path.basename(path))[0]
        found = (self._labels_in(place).get(name) for place in dict.fromkeys((labels_of(folder), folder)))
        return next(filter(None, found), None)

    def _labels_in(self, folder):
        if folder not in self.folders:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            names = [name for name in names if name.endswith(".txt") and name not in NO_LABELS and name[0] != "."]
            own = {os.path.splitext(name)[0]: os.path.join(folder, name) for name in names}
            self.folders[folder] = {plain: own[stem] for stem, plain in before_upload(own).items()} | own
        return self.folders[folder]

    def add(self, path):
        """Read the labels of the image of this relative path."""
        labels = self._labels(path)
        self.used.add(labels)
        try:
            text = read_content(labels, MAX_LABELS).decode("utf-8-sig") if labels else ""
            if text.count("\n") > MAX_LINES:
                raise ValueError(f"more than {MAX_LINES:,} lines")
        except ValueError as error:
            reason = "no text" if isinstance(error, UnicodeDecodeError) else str(error)
            self.unread[self._name(labels)] = reason
            self.unannotated.add(path)
            return
        height, width = upright_size(self.found, path)
        self.images.append({"id": len(self.images), "file_name": path, "height": height, "width": width})
        name = self._name(labels) if labels else ""
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                self._add_line(line.split(), f"line {number} of {name}", height, width)

    def _name(self, labels):
        return printable(os.path.relpath(labels, labels_of(self.root)))

    def _add_line(self, words, name, height, width):
        label = _whole(words[0])
        if label not in self.classes:
            self.left_out[name] = f"a class that is none of the {len(self.classes)} named"
            return
        numbers = finite(words[1:5] if self.has_points else words[1:])
        if numbers is None:
            self.left_out[name] = "values that are not finite numbers"
            return
        if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
            self.left_out[name] = f"{len(words)} values, not 5 of a box or an odd number from 7 on of an outline"
            return
        self.names.append(name)
        shape = _box(numbers, height, width) if len(numbers) == 4 else _outline(numbers, height, width)
        self.objects.append({"image_id": len(self.images) - 1, "category_id": label, **shape})

    def unused(self):
        """{name: reason} of labels that have no image."""
        labels = (path for folder in self.folders.values() for path in folder.values())
        return {self._name(path): "no image" for path in labels if path not in self.used}


def _whole(word):
    """The whole number that a word is, such as 2 or 2.0, or None."""
    numbers = finite([word])
    return int(numbers[0]) if numbers and numbers[0].is_integer() else None


def _box(numbers, height, width):
    """COCO's box of one in fractions."""
    x, y, across, down = numbers
    left, right = (_pixels(edge, width) for edge in (x - across / 2, x + across / 2))
    top, bottom = (_pixels(edge, height) for edge in (y - down / 2, y + down / 2))
    return {"bbox": [left, top, right - left, bottom - top]}


def _pixels(fraction, side):
    """A fraction of a side in pixels. Six digits, as are usual, may end just beyond the image."""
    near = min(max(fraction, 0.0), 1.0)
    return round((near if abs(near - fraction) < ROUNDING else fraction) * side, 6)


def _outline(numbers, height, width):
    """An outline in pixels, and COCO's box around it."""
    xs, ys = [x * width for x in numbers[0::2]], [y * height for y in numbers[1::2]]
    corners = [value for corner in zip(xs, ys, strict=True) for value in corner]
    return {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], "segmentation": [corners]}
