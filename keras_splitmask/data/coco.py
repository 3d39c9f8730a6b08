"""Images with objects, their boxes and perhaps their masks: COCO's JSON files, and tensorflow-datasets of that kind."""

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np

from keras_splitmask.data.annotated import AnnotatedSource, annotated_images, check_classes, told
from keras_splitmask.data.published import open_tfds
from keras_splitmask.data.scan import scan
from keras_splitmask.data.segmentations import finite, usable
from keras_splitmask.data.sources import SPLITS, NoSuchSplit


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Attributes:
        boxes: (n, 4) float32, [top, left, bottom, right] in pixels, none empty, all inside the image.
        labels: (n,) int32, from 0 on.
        crowd: (n,) bool, whether a box is around many objects.
        segmentations: of each object a list of polygons or a dict of run lengths, as COCO has them, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    segmentations: list


class DetectionSource(AnnotatedSource):
    """Images and their objects, of which a kind of source gives the annotations.

    Args:
        pictures: a `Source` of the images.
        categories: id: name.
        left_out: name: reason, of what cannot be used besides what `pictures` leaves out.

    Attributes:
        classes: the names of the categories in order of their ids; a label is a place among them.
        category_ids: the ids in order.
    """

    def __init__(self, pictures, categories, left_out):
        self.category_ids = sorted(categories)
        super().__init__(pictures, [categories[number] for number in self.category_ids], left_out)
        self._labels = {number: label for label, number in enumerate(self.category_ids)}

    def annotations(self, i):
        """The annotations of image `i` as COCO has them, without those that cannot be used and without ids: a list of dicts."""
        raise NotImplementedError

    def image_id(self, i):
        """The id of image `i` in `truth`."""
        return i

    def objects(self, i):
        """The `Objects` of image `i`, of which there may be none."""
        annotations = self.annotations(i)
        boxes = np.array([a["bbox"] for a in annotations], "float64").reshape(-1, 4)[:, [1, 0, 3, 2]]
        boxes[:, 2:] += boxes[:, :2]
        return Objects(
            boxes.astype("float32"),
            np.array([self._labels[a["category_id"]] for a in annotations], "int32"),
            np.array([a["iscrowd"] for a in annotations], bool),
            [a.get("segmentation") for a in annotations],
        )

    def truth(self):
        """What is there, as COCO has it, for pycocotools to compare with: a dict of "images", "annotations" and "categories"."""
        images, annotations = [], []
        for i in range(len(self)):
            height, width = self.size(i)
            images.append({"id": self.image_id(i), "file_name": self.name(i), "height": height, "width": width})
            for annotation in self.annotations(i):
                # Numbered from 1, whatever the file says: pycocotools takes an object of id 0 for one that nobody found.
                annotations.append({"id": len(annotations) + 1, "image_id": self.image_id(i), **annotation})
        categories = [{"id": number, "name": name} for number, name in zip(self.category_ids, self.classes, strict=True)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def clean(annotation, known, height, width):
    """A copy of a COCO annotation, without its ids and with its box cut to the image.

    Args:
        annotation: a dict of anything.
        known: the ids of the categories.
        height, width: of the image.

    Raises:
        ValueError: with the reason, if it cannot be used.
    """
    category = _reference(annotation, "category_id")
    if category not in known:
        raise ValueError("an unknown category")
    box = finite(annotation.get("bbox"))
    if box is None or len(box) != 4:
        raise ValueError("a box that is not four finite numbers")
    if min(box[2:]) <= 0:
        raise ValueError("an empty box")
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if min(left, top) < 0 or right > width or bottom > height:
        left, right = (min(max(x, 0.0), float(width)) for x in (left, right))
        top, bottom = (min(max(y, 0.0), float(height)) for y in (top, bottom))
        box = [left, top, right - left, bottom - top]
    if not (np.float32(left) < np.float32(right) and np.float32(top) < np.float32(bottom)):
        raise ValueError("a box outside its image")
    (area,) = finite([annotation.get("area")]) or [0]
    return {
        "category_id": category,
        "bbox": box,
        "area": area if area > 0 else box[2] * box[3],
        "iscrowd": int(bool(annotation.get("iscrowd"))),
        **({"segmentation": outline} if (outline := usable(annotation.get("segmentation"), height, width)) else {}),
    }


def _reference(annotation, key):
    """The id that an annotation has there, or None."""
    value = annotation.get(key) if isinstance(annotation, dict) else None
    return value if isinstance(value, (int, float, str)) else None


class CocoSource(DetectionSource):
    """The images that one of COCO's files names, and that are in a folder. See `open_detection`.

    Args:
        pictures: a `FolderSource`.
        images: the file's entry of each of them.
        annotations: all that the file has.
        categories: id: name.
        others: ids of images that the file names, but that are left out, and their annotations with them.
        left_out: name: reason.
        digest: of the file's content.
    """

    def __init__(self, pictures, images, annotations, categories, others, left_out, digest):
        super().__init__(pictures, categories, left_out)
        self.images, self.digest, self.clipped = images, digest, 0
        self._annotations = [[] for _ in images]
        places = {image["id"]: i for i, image in enumerate(images)}
        for number, annotation in enumerate(annotations):
            image = _reference(annotation, "image_id")
            if image in others:
                continue
            try:
                self._add(annotation, places.get(image))
            except ValueError as error:
                of_image = f" of {self.name(places[image])}" if image in places else ""
                self.left_out[f"annotations[{number}]{of_image}"] = str(error)

    def _add(self, annotation, i):
        if i is None:
            raise ValueError("an unknown image")
        cleaned = clean(annotation, self._labels, *self.size(i))
        self.clipped += cleaned["bbox"] != annotation["bbox"]
        self._annotations[i].append(cleaned)

    def size(self, i):
        return self.images[i]["height"], self.images[i]["width"]

    def annotations(self, i):
        return self._annotations[i]

    def image_id(self, i):
        return self.images[i]["id"]

    def _identity(self):
        return [self.pictures.fingerprint, self.digest]

    def summary(self):
        """How many images and objects there are, and what was left out and why, in a line."""
        counts = [len(annotations) for annotations in self._annotations]
        return (
            f"{len(self)} images, {counts.count(0)} of them without objects; {sum(counts)} objects of {len(self.classes)} classes, "
            f"{self.clipped} of them cut at the border{told(self.left_out)}"
        )


class TfdsDetectionSource(DetectionSource):
    """Records of tensorflow-datasets with "objects". What is wrong with one is noticed when it is read; the ids are places and labels."""

    def __init__(self, pictures):
        label = pictures.features["objects"]["label"]
        super().__init__(pictures, dict(enumerate(label.names or map(str, range(label.num_classes)))), {})

    def size(self, i):
        return self.pictures.size(i)

    def annotations(self, i):
        objects, (height, width) = self.pictures.record(i)["objects"], self.size(i)
        crowd = objects.get("is_crowd", np.zeros(len(objects["label"])))
        annotations = []
        for n, (box, label, is_crowd) in enumerate(zip(objects["bbox"], objects["label"], crowd, strict=True)):
            top, left, bottom, right = np.asarray(box, "float64") * (height, width, height, width)
            annotation = {"category_id": int(label), "bbox": [left, top, right - left, bottom - top], "iscrowd": bool(is_crowd)}
            try:
                annotations.append(clean(annotation, self._labels, height, width))
            except ValueError as error:
                self._leave_out(f"objects[{n}] of {self.name(i)}", str(error))
        return annotations

    def _leave_out(self, name, reason):
        if name not in self.left_out:
            self.report(f"Expected objects that can be used, received {reason} ({name}). It is left out.")
            self.left_out[name] = reason

    def _identity(self):
        return self.pictures._identity()


def open_detection(dataset, split, data_dir=None, channels=3, report=None, classes=None):
    """Opens a set of images with objects by its name; images are read when they are asked for.

    * `coco:PATH`: COCO's own PATH/annotations/instances_SPLIT2017.json with PATH/SPLIT2017/* (of any year, the last if there are several),
      or PATH/SPLIT/instances.json with PATH/SPLIT/images/*.
    * `tfds:NAME`: a data set of tensorflow-datasets with the features "image" and "objects", of these "bbox" and "label", such as
      coco/2017. It has no masks.

    Boxes are cut to their images. Annotations without a box in the image or of no known image or category are left out, as are images that
    are not there; `summary()` counts them and `left_out` names each. Images without objects stay.

    Args:
        dataset: one of the above.
        split: "train", "val" or "test".
        data_dir: where tensorflow-datasets keeps its files.
        channels: the wanted number of channels; 1 and 3 convert between grey and RGB.
        report: told of the scan's progress, and later of each image that turns out to be broken, in a line each.
        classes: names that the data set must have, such as those of the training split.

    Returns:
        A `DetectionSource`.

    Raises:
        NoSuchSplit: if there is the data set, but not that split.
        ValueError: if there is nothing of that name, or it holds no objects, or other classes.
    """
    kind, _, place = dataset.partition(":")
    if kind not in ("coco", "tfds") or not place:
        raise ValueError(f"Expected a dataset coco:PATH or tfds:NAME, received {dataset!r}.")
    if split not in SPLITS:
        raise ValueError(f"Expected split to be one of {', '.join(SPLITS)}, received {split!r}.")
    source = _open_coco(place, split, channels, report) if kind == "coco" else _open_objects(place, split, channels, data_dir)
    check_classes(source.classes, classes, dataset)
    if report:
        source.report = report
    return source


def _open_objects(name, split, channels, data_dir):
    pictures = open_tfds(name, split, channels, data_dir)
    objects = pictures.features["objects"] if "objects" in pictures.features else {}
    if not all(feature in getattr(objects, "feature", {}) for feature in ("bbox", "label")):
        raise ValueError(
            f"Expected a feature objects of bbox and label, received {', '.join(pictures.features)} in tfds:{name}; choose another."
        )
    return TfdsDetectionSource(pictures)


def _open_coco(place, split, channels, report):
    path, folder = _find(Path(place).expanduser(), split)
    content, file = _load(path)
    categories = _by_id(file["categories"], {"name": str}, path, "category")
    entries = _by_id(file["images"], {"file_name": str, "height": int, "width": int}, path, "image")
    paths = {}  # relative path: entry
    for entry in entries.values():
        paths.setdefault(os.path.normpath(entry["file_name"]), entry)
    sizes = {path: (entry["height"], entry["width"]) for path, entry in paths.items()}
    pictures, left_out = annotated_images(scan(folder, report=report), sizes, channels, report)
    images = [paths[path] for path in pictures.paths]
    names = {number: category["name"] for number, category in categories.items()}
    others = set(entries) - {image["id"] for image in images}
    source = CocoSource(pictures, images, file["annotations"], names, others, left_out, hashlib.sha256(content).hexdigest())
    if not any(source.annotations(i) for i in range(len(source))):
        raise ValueError(f"Expected objects in {path}, received none that can be used: {source.summary()}; correct the file.")
    return source


def _find(root, split):
    """Paths of the file of annotations and of the folder of images of a split."""
    found = {name: (root / name / "instances.json", root / name / "images") for names in SPLITS.values() for name in names}
    found = {name: paths for name, paths in found.items() if paths[0].is_file()}
    for path in sorted(root.glob("annotations/instances_*.json")):  # by year: the last stays
        match = re.fullmatch(r"instances_([a-z]+)(\d*)\.json", path.name)
        if match and (root / "".join(match.groups())).is_dir():
            found[match[1]] = path, root / "".join(match.groups())
    if not found:
        raise ValueError(
            f"Expected annotations/instances_{split}2017.json with {split}2017, or {split}/instances.json with {split}/images, in {root}, "
            "received neither; correct the path."
        )
    name = next((name for name in SPLITS[split] if name in found), None)
    if name is None:
        raise NoSuchSplit(f"Expected split to be one of {', '.join(found)}, which are in {root}, received {split!r}.")
    return found[name]


def _load(path):
    """The content of one of COCO's files, bytes, and what it says."""
    try:
        content = path.read_bytes()
        file = json.loads(content)
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"Expected a JSON file, received {path} ({error}); write it anew.") from error
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(file, dict) or not isinstance(file.get(key), list) or not file[key]]
    if missing:
        raise ValueError(f"Expected COCO's lists of {', '.join(keys)} in {path}, received no {' and no '.join(missing)}; correct the file.")
    return content, file


def _by_id(entries, needed, path, kind):
    """id: entry, of images or categories, of which each must have an id of its own."""
    found = {}
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(number, int) or not all(isinstance(entry.get(key), type_) for key, type_ in needed.items()):
            raise ValueError(
                f"Expected each {kind} with an integer id and {', '.join(needed)}, received {str(entry)[:200]} in {path}; correct it."
            )
        if number in found:
            raise ValueError(f"Expected one {kind} of each id, received two of id {number} in {path}; number them anew.")
        found[number] = entry
    return found
