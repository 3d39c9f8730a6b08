"""Images with objects, their boxes and perhaps their masks: COCO's JSON files, and tensorflow-datasets of that kind."""

import dataclasses
import hashlib
import itertools
import os
from pathlib import Path

import numpy as np

from keras_splitmask.data import coco_files
from keras_splitmask.data.annotated import AnnotatedSource, annotated_images, check_classes, check_left_out, told
from keras_splitmask.data.published import open_tfds
from keras_splitmask.data.ranges import report_range
from keras_splitmask.data.scan import printable, scan
from keras_splitmask.data.segmentations import turn_outline
from keras_splitmask.data.sources import SPLITS
from keras_splitmask.data.turning import turn_points, upright
from keras_splitmask.data.values import check_range


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
        categories: id: name. Categories of one name are one class.
        left_out: name: reason, of what cannot be used besides what `pictures` leaves out.

    Attributes:
        classes: the names of the categories in order of their ids; a label is an index into them.
        category_ids: the first id of each class, in order.
        merged: names that more than one category has.
        most_objects: the largest number of objects in an image, or None if it is not known.
        outlined, unoutlined: how many objects, but for crowds, have an outline and have none; 0 and None if they cannot
            have any.
        unused: what of the objects is not learnt, in words, for the summary; see `detection_batches`.
    """

    most_objects, outlined, unoutlined, unused = None, 0, None, ""

    def __init__(self, pictures, categories, left_out):
        first = {}  # name: id
        for number in sorted(categories):
            first.setdefault(categories[number], number)
        self.category_ids = list(first.values())
        self.merged = sorted({name for number, name in categories.items() if first[name] != number})
        super().__init__(pictures, list(first), left_out)
        self._known = {number: first[name] for number, name in categories.items()}
        self._labels = {number: label for label, number in enumerate(self.category_ids)}

    def number_by(self, classes, place="the data set"):
        """Number the classes by these names, or as the source that has them. Some may have no category here, but none
        here may be missing there."""
        classes = list(getattr(classes, "classes", classes))
        if not set(self.classes) <= set(classes):
            check_classes(self.classes, classes, place)
        ids = dict(zip(self.classes, self.category_ids, strict=True))
        unused = itertools.count(max(self.category_ids) + 1)
        self.classes, self.category_ids = classes, [ids[name] if name in ids else next(unused) for name in classes]
        self._labels = {number: label for label, number in enumerate(self.category_ids)}

    def annotations(self, i):
        """The annotations of image `i` as COCO has them, without those that cannot be used and without ids: a list of
        dicts."""
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

    def truth_of(self, i):
        """Image `i` as COCO has it, a dict, and its annotations, a list of dicts."""
        (height, width), number = self.size(i), self.image_id(i)
        image = {"id": number, "file_name": self.name(i), "height": height, "width": width}
        return image, [{"image_id": number, **annotation} for annotation in self.annotations(i)]

    def truth(self, parts=None):
        """What is there, as COCO has it, for pycocotools to compare with: a dict of "images", "annotations" and
        "categories".

        Args:
            parts: what `truth_of` gave for some images, to have only these.
        """
        parts = parts if parts is not None else [self.truth_of(i) for i in range(len(self))]
        # Numbered from 1, whatever the file says: pycocotools takes an object of id 0 for one that nobody found.
        annotations = [
            {"id": n, **annotation} for n, annotation in enumerate((a for _, of_image in parts for a in of_image), 1)
        ]
        categories = [
            {"id": number, "name": name} for number, name in zip(self.category_ids, self.classes, strict=True)
        ]
        return {
            "info": {},
            "images": [image for image, _ in parts],
            "annotations": annotations,
            "categories": categories,
        }


class CocoSource(DetectionSource):
    """The images that one of COCO's files names, and that are in a folder. See `open_detection`.

    Args:
        pictures: a `FolderSource`.
        images: the file's entry of each of them.
        places: {id: index} of the images; an image may have several ids.
        turns: {index: EXIF orientation} of the images that are annotated as they are stored, and turned when they are
            read.
        file: what the file says.
        others: ids of images that the file names, but that are left out, and their annotations with them.
        left_out: name: reason.
        digest: of the file's content.
    """

    def __init__(self, pictures, images, places, turns, file, others, left_out, digest):
        super().__init__(pictures, coco_files.categories_by_id(file["categories"], "the file"), left_out)
        self.images, self.places, self.turns, self.digest = images, places, turns, digest
        self.clipped = self.beyond = 0
        self._annotations = [[] for _ in images]
        for number, annotation in enumerate(file["annotations"]):
            image = coco_files.reference(annotation, "image_id")
            if image in others:
                continue
            name = f"annotations[{number}]{f' of {self.name(places[image])}' if image in places else ''}"
            try:
                self._add(annotation, places.get(image), name)
            except ValueError as error:
                self.left_out[name] = str(error)
        objects = [annotation for of_image in self._annotations for annotation in of_image]
        self.crowds = sum(annotation["iscrowd"] for annotation in objects)
        self.outlined = sum("segmentation" in annotation and not annotation["iscrowd"] for annotation in objects)
        self.unoutlined = len(objects) - self.crowds - self.outlined
        self.most_objects = max(map(len, self._annotations))

    def _add(self, annotation, i, name):
        if i is None:
            raise ValueError("an unknown image")
        size = self.images[i]["height"], self.images[i]["width"]
        cleaned, flaw = coco_files.clean(annotation, self._known, *size)
        if flaw:
            self.left_out[f"the outline of {name}"] = f"{flaw}; its box is kept"
        left, top, width, height = coco_files.box_of(annotation)
        self.clipped += cleaned["bbox"] != annotation["bbox"]
        self.beyond += left + width > size[1] + 1 or top + height > size[0] + 1
        self._annotations[i].append(_turned(cleaned, size, self.turns[i]) if i in self.turns else cleaned)

    def size(self, i):
        return upright((self.images[i]["height"], self.images[i]["width"]), self.turns.get(i, 1))

    def annotations(self, i):
        return self._annotations[i]

    def image_id(self, i):
        return self.images[i]["id"]

    def identity(self):
        return [self.pictures.fingerprint, self.digest]

    def summary(self):
        """How many images and objects there are, and what was left out and why, in a line."""
        counts = [len(annotations) for annotations in self._annotations]
        line = (
            f"{len(self)} images, {counts.count(0)} of them without objects; {sum(counts)} objects of"
            f" {len(self.classes)} classes, {self.clipped} of them cut at the border"
        )
        return "; ".join([line, *self._remarks(sum(counts))]) + told(self.left_out)

    def _remarks(self, count):
        """What a user should know of the file, a phrase each."""
        remarks = {
            f"categories of one name are one class ({', '.join(self.merged[:3])})": self.merged,
            f"{len(self.places) - len(self)} ids are of images listed before, to which their objects are added": (
                len(self.places) > len(self)
            ),
            f"{len(self.turns)} annotations of images turned as their EXIF tags say": self.turns,
            f"{self.crowds} crowds, which are ignored": self.crowds,
            f"{self.beyond} boxes reach beyond their image, although COCO's are [left, top, width, height]": (
                2 * self.beyond > count
            ),
            self.unused: self.unused,
        }
        return [remark for remark, holds in remarks.items() if holds]


def _turned(annotation, size, turn):
    """A clean annotation of an image stored with this (height, width), as that of the upright image."""
    left, top, width, height = annotation["bbox"]
    corners = turn_points([(left, top), (left + width, top + height)], size, turn)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    annotation = {**annotation, "bbox": [left, top, right - left, bottom - top]}
    if "segmentation" in annotation:
        annotation["segmentation"] = turn_outline(annotation["segmentation"], size, turn)
    return annotation


class TfdsDetectionSource(DetectionSource):
    """Records of tensorflow-datasets with "objects". What is wrong with one is noticed when it is read; the ids are
    places and labels."""

    def __init__(self, pictures):
        label = pictures.features["objects"]["label"]
        super().__init__(pictures, dict(enumerate(label.names or map(str, range(label.num_classes)))), {})

    def size(self, i):
        return self.pictures.size(i)

    def annotations(self, i):
        objects, (height, width) = self.pictures.example(i)["objects"], self.size(i)
        crowd = objects.get("is_crowd", np.zeros(len(objects["label"])))
        annotations = []
        for n, (box, label, is_crowd) in enumerate(zip(objects["bbox"], objects["label"], crowd, strict=True)):
            top, left, bottom, right = np.asarray(box, "float64") * (height, width, height, width)
            annotation = {
                "category_id": int(label),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": bool(is_crowd),
            }
            try:
                annotations.append(coco_files.clean(annotation, self._known, height, width)[0])
            except ValueError as error:
                self._leave_out(f"objects[{n}] of {self.name(i)}", str(error))
        return annotations

    def _leave_out(self, name, reason):
        if name not in self.left_out:
            self.report(f"Expected objects that can be used, received {reason} ({name}). It is left out.")
            self.left_out[name] = reason

    def identity(self):
        return self.pictures.identity()


def open_detection(
    dataset, split, data_dir=None, channels=3, report=None, classes=None, max_bad_fraction=0.5, value_range=None
):
    """Opens a set of images with objects by its name; images are read when they are needed.

    * `coco:PATH`: COCO's own PATH/annotations/instances_SPLIT2017.json with PATH/SPLIT2017/* (of any year, the last if
      there are several), or PATH/SPLIT/instances.json with PATH/SPLIT/images/*.
    * `tfds:NAME`: a data set of tensorflow-datasets with the features "image" and "objects", of these "bbox" and
      "label", such as coco/2017. It has no masks.

    Boxes are cut to their images. Annotations without a box in the image or of no known image or category are left out,
    as are images that are not there; `summary()` counts them and `left_out` names each. Images without objects stay. An
    outline that cannot be used is left out, but not its box. Objects of an image that is listed under several ids are
    joined, and categories of one name are one class.

    Args:
        dataset: one of the above.
        split: "train", "val" or "test".
        data_dir: where tensorflow-datasets keeps its files.
        channels: the wanted number of channels; 1 and 3 convert between grey and RGB.
        report: a function that gets a line about the progress, and later about each image that turns out to be broken.
        classes: names to number the classes by, or the source that has them, such as that of the train split. Some may
            be missing here.
        max_bad_fraction: share of the annotated images that may be left out because they cannot be used.
        value_range: (low, high), the stored values that become 0 and 255; see `opening.open_source`.

    Returns:
        A `DetectionSource`.

    Raises:
        NoSuchSplit: if there is the data set, but not that split.
        ValueError: if there is nothing of that name, or it holds no objects that can be used, or other classes.
    """
    value_range = check_range(value_range)
    kind, _, place = dataset.partition(":")
    if kind not in ("coco", "tfds") or not place:
        raise ValueError(f"Expected a dataset coco:PATH or tfds:NAME, received {dataset!r}.")
    if split not in SPLITS:
        raise ValueError(f"Expected split to be one of {', '.join(SPLITS)}, received {split!r}.")
    if kind == "coco":
        source = _open_coco(place, split, channels, report, max_bad_fraction)
    else:
        source = _open_objects(place, split, channels, data_dir)
    if classes is not None:
        source.number_by(classes, dataset)
    source.value_range = value_range
    if report:
        source.report = report
        report_range(source, dataset)
    return source


def _open_objects(name, split, channels, data_dir):
    pictures = open_tfds(name, split, channels, data_dir)
    objects = pictures.features["objects"] if "objects" in pictures.features else {}
    if not all(feature in getattr(objects, "feature", {}) for feature in ("bbox", "label")):
        raise ValueError(
            f"Expected a feature objects of bbox and label, received {', '.join(pictures.features)} in tfds:{name};"
            " choose another."
        )
    return TfdsDetectionSource(pictures)


def _open_coco(place, split, channels, report, max_bad_fraction):
    path, folder = coco_files.find(Path(os.path.expanduser(place)), split)
    content, file = coco_files.load(path)
    coco_files.categories_by_id(file["categories"], path)
    found = scan(folder, report=report)
    entries, twice = _by_path(coco_files.images_by_id(file["images"], path), {*found.images, *found.left_out})
    sizes = {path: (of_path[0]["height"], of_path[0]["width"]) for path, of_path in entries.items()}
    pictures, turned, left_out, others = annotated_images(found, sizes, channels, report)
    check_left_out(len(left_out), len(sizes), {**left_out, **others}, folder, max_bad_fraction)
    images = [entries[path][0] for path in pictures.paths]
    places = {entry["id"]: i for i, path in enumerate(pictures.paths) for entry in entries[path]}
    turns = {i: turned[path] for i, path in enumerate(pictures.paths) if path in turned}
    unused = {
        entry["id"] for of_path in entries.values() for entry in of_path if entry["id"] not in places
    } | twice.keys()
    left_out = {**left_out, **others, **{f"the image of id {number}": reason for number, reason in twice.items()}}
    source = CocoSource(pictures, images, places, turns, file, unused, left_out, hashlib.sha256(content).hexdigest())
    if not any(source.annotations(i) for i in range(len(source))):
        raise ValueError(
            f"Expected objects in {path}, received none that can be used: {source.summary()}; correct the file."
        )
    return source


def _by_path(images, there):
    """{relative path: its entries} of images by id, and {id: reason} of those of another size than the first entry of
    their path.

    Args:
        images: entries by id.
        there: relative paths of the files that there are.
    """
    entries, unfit, paths = {}, {}, coco_files.paths_of({entry["file_name"] for entry in images.values()}, there)
    for number, entry in images.items():
        path = paths[entry["file_name"]]
        of_path = entries.setdefault(path, [])
        if of_path and any(entry[side] != of_path[0][side] for side in ("height", "width")):
            unfit[number] = f"another size than {printable(path)} has under id {of_path[0]['id']}"
        else:
            of_path.append(entry)
    return entries, unfit
