"""Read boxes from XML files in the form of Pascal VOC, as LabelImg, CVAT, Label Studio and Roboflow write them too."""

import dataclasses
import os
from pathlib import Path

from keras_splitmask.data import xml_files
from keras_splitmask.data.image_names import before_upload, paths_of
from keras_splitmask.data.listing import Listing, read_content, restricted, upright_size, with_progress
from keras_splitmask.data.scan import printable, scan
from keras_splitmask.data.segmentations import finite
from keras_splitmask.data.split_folders import SPLIT_OF, choose_split, named_as_splits

IMAGES = ("JPEGImages", "images", "Images")  # folders that may lie beside Annotations
CORNERS = ("xmin", "ymin", "xmax", "ymax")
MAX_LIST = 100_000_000  # bytes of a list of names
SHOWN = 200  # characters of a name that are shown
UNKNOWN_BOX = [None] * 4  # refused by name, as any box that is not four finite numbers


@dataclasses.dataclass
class Part:
    """Where the files of a split are.

    Attributes:
        annotations: folder of the XML files.
        images: folder of the images.
        names: relative paths of the XML files without .xml, or None for all.
    """

    annotations: Path
    images: Path
    names: list | None = None


def splits(root):
    """Find the splits of a data set: {name: `Part`}. The name is empty if the data set is not divided.

    * ROOT/Annotations/*.xml and ROOT/JPEGImages, divided by ROOT/ImageSets/Main/SPLIT.txt or by folders SPLIT in both;
    * ROOT/SPLIT with such folders, or with an XML file beside each image;
    * ROOT with an XML file beside each image.
    """
    if (root / "Annotations").is_dir():
        whole = _part(root)
        lists = {path.stem.lower(): path for path in sorted(root.glob("ImageSets/Main/*.txt"))}
        found = {
            name: dataclasses.replace(whole, names=_names(path)) for name, path in lists.items() if name in SPLIT_OF
        }
        inside = {name: path for name, path in named_as_splits(whole.annotations).items() if _has_xml(path)}
        return found or {name: Part(path, _beside(whole.images, path)) for name, path in inside.items()} or {"": whole}
    found = {name: _part(path) for name, path in named_as_splits(root).items()}
    found = {name: part for name, part in found.items() if _has_xml(part.annotations)}
    return found or ({"": _part(root)} if _has_xml(root, deep=False) else {})


def _part(folder):
    images = next((folder / name for name in IMAGES if (folder / name).is_dir()), folder)
    annotations = folder / "Annotations"
    return Part(annotations if annotations.is_dir() else folder, images)


def _beside(images, path):
    return images / path.name if (images / path.name).is_dir() else images


def _has_xml(folder, deep=True):
    return any(path.suffix.lower() == ".xml" for path in (folder.rglob("*") if deep else folder.glob("*")))


def _names(path):
    """Read the names in a list of ImageSets/Main."""
    lines = os.fsdecode(read_content(path, MAX_LIST)).splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def read(root, split, report=None, from_zero=None):
    """Read the annotations of a split: a `Listing`.

    Args:
        from_zero: whether coordinates are counted from 0, as in the split to train on; None to find out.
    """
    found = splits(root)
    if not found:
        raise ValueError(
            f"Expected Annotations/*.xml with JPEGImages, or an .xml file beside each image, in {root}, received"
            " neither; correct the path."
        )
    part = choose_split(found, split, root)
    files = {os.path.splitext(os.path.relpath(path, part.annotations))[0]: path for path in _xml_files(part)}
    names = list(files) if part.names is None else part.names
    images = scan(part.images, report=report)
    reading = _Reading(images, before_upload(names))
    for name in with_progress(names, part.annotations, report):
        reading.add(name, files.get(name))
    from_zero = _counted_from_zero(reading.boxes) if from_zero is None else from_zero
    complete = part.names is None and [other.images for other in found.values()].count(part.images) == 1
    return dataclasses.replace(reading.listing(part, from_zero, complete), divided="" not in found)


def _xml_files(part):
    return sorted(path for path in part.annotations.rglob("*") if path.suffix.lower() == ".xml" and path.name[0] != ".")


def _counted_from_zero(boxes):
    """Whether corners are counted from 0, to the edges of pixels; the standard counts pixels from 1.

    Then one of them is below 1, or most of them are fractions.
    """
    corners = [corner for box in boxes if (corner := finite(box))]
    fractions = sum(any(value % 1 for value in box) for box in corners)
    return any(min(box[:2]) < 1 for box in corners) or 2 * fractions > len(corners)


class _Reading:
    """What the files of annotations say, collected file by file.

    Args:
        found: `Scan` of the images.
        plain: {name of a file: name that its image had before Label Studio}.
    """

    def __init__(self, found, plain):
        self.found, self.plain = found, plain
        self.images, self.objects = [], []
        self.labels, self.boxes, self.names = [], [], []  # of each object
        self.unread, self.left_out, self.unannotated = {}, {}, set()
        self.there = {*found.images, *found.left_out}
        self.by_stem = {}  # {path without extension: paths}
        for path in sorted(self.there):
            self.by_stem.setdefault(os.path.splitext(path)[0], []).append(path)

    def add(self, name, path):
        """Read the file `path` of a name, or note why it cannot be read."""
        try:
            if path is None:
                raise ValueError("no such file")
            root = xml_files.parse(read_content(path, xml_files.MAX_XML))
            if root.tag != "annotation":
                raise ValueError(f"an element {root.tag[:SHOWN]} instead of annotation")
        except ValueError as error:
            self.unread[printable(f"{name}.xml")] = str(error)
            self.unannotated.update(self.by_stem.get(name, ()))
            return
        image = self._image(name, xml_files.text_of(root, "filename"))
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": image, **self._size(root, image)})
        for k, item in enumerate(root.findall("object"), 1):
            self._add_object(item, number, f"object {k} of {printable(name)}.xml")

    def _image(self, name, filename):
        """The relative path of the image of a file of annotations, or the name that it gives, see `paths_of`."""
        paths = self.by_stem.get(name) or self.by_stem.get(self.plain.get(name), [])
        if len(paths) > 1 and any(path.endswith(filename) for path in paths if filename):
            return next(path for path in paths if path.endswith(filename))
        # By its own name first: files are renamed, and what they say of themselves stays.
        return paths[0] if paths else filename or name

    def _size(self, root, image):
        given = [xml_files.text_of(root, f"size/{side}") for side in ("height", "width")]
        height, width = (int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0 for text in given)
        if not (height and width):  # some programs write none, or 0
            height, width = upright_size(self.found, paths_of([image], self.there)[image])
        return {"height": height, "width": width}

    def _add_object(self, item, image, name):
        label = xml_files.text_of(item, "name")
        if not label:
            self.left_out[name] = "an object without a name"
            return
        corners = [xml_files.text_of(item, f"bndbox/{corner}") for corner in CORNERS]
        self.boxes.append(corners)
        self.labels.append(label)
        self.names.append(name)
        difficult = xml_files.text_of(item, "difficult") in ("1", "true", "True")
        self.objects.append({"image_id": image, "iscrowd": int(difficult)})

    def listing(self, part, from_zero, complete):
        """Return the `Listing` of all files that were added."""
        numbers = {label: number for number, label in enumerate(sorted(set(self.labels)))}
        annotations = [
            {**each, "category_id": numbers[label], "bbox": _box(corners, from_zero)}
            for each, label, corners in zip(self.objects, self.labels, self.boxes, strict=True)
        ]
        paths = paths_of({entry["file_name"] for entry in self.images}, self.there)
        names = {*paths.values(), *self.unannotated}
        return Listing(
            part.annotations,
            self.found if complete else restricted(self.found, names.__contains__),
            self.images,
            annotations,
            [{"id": number, "name": label} for label, number in numbers.items()],
            names=self.names,
            unread=self.unread,
            unannotated=self.unannotated,
            left_out=self.left_out,
            complete=complete,
            boxes="xmin, ymin, xmax, ymax in pixels",
            ignored="difficult object",
            note="coordinates are counted from 0, since some are below 1 or most are fractions" if from_zero else "",
            from_zero=from_zero,
        )


def _box(corners, from_zero):
    """Convert the texts of corners to COCO's box."""
    values = finite(corners)
    if values is None:
        return UNKNOWN_BOX
    left, top, right, bottom = values
    # The standard counts pixels from 1, and the last one belongs to the box.
    left, top = (left, top) if from_zero else (left - 1, top - 1)
    return [left, top, right - left, bottom - top]
