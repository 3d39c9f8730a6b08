"""Images with objects, boxes and optional masks: COCO's JSON files, and tensorflow-datasets with "objects"."""

import dataclasses
import itertools

import numpy as np

from keras_splitmask.data import coco_files
from keras_splitmask.data.annotated import (
    AnnotatedSource,
    check_classes,
    left_out_text,
)
from keras_splitmask.data.counting import counted
from keras_splitmask.data.segmentations import turn_outline
from keras_splitmask.data.turning import turn_points, upright

FEW_BOXES = 8  # fewer say nothing about the form of all
BEYOND = 0.5  # smallest fraction of boxes beyond their image at which a file is refused
BEYOND_AS_CORNERS = 0.25  # the same where the boxes lie inside their image as [left, top, right, bottom]
CORNERS = 0.98  # fraction of the boxes that must do so


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of an image.

    Attributes:
        boxes: (n, 4) float32, [top, left, bottom, right] in pixels, none empty, all inside the image.
        labels: (n,) int32, from 0 on.
        crowd: (n,) bool, whether the box is around many objects.
        segmentations: for each object COCO's list of polygons or dictionary of run lengths, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    segmentations: list


class DetectionSource(AnnotatedSource):
    """Images and their objects. A subclass provides the annotations.

    Args:
        pictures: a `Source` of the images.
        categories: {id: name}. Categories of the same name are one class.
        left_out: {name: reason} of what cannot be used, besides what `pictures` leaves out.

    Attributes:
        classes: the names of the categories in order of their ids; a label is an index into them.
        category_ids: the first id of each class, in order.
        merged: names that more than one category has.
        most_objects: the largest number of objects in an image, or None if it is not known.
        outlined, unoutlined: number of objects, except crowds, with and without an outline; 0 and None if the data
            set has no outlines.
        unused: a text for the summary about objects that are not used as targets; see `detection_batches`.
    """

    most_objects, outlined, unoutlined, unused = None, 0, None, ""

    def __init__(self, pictures, categories, left_out):
        first = {}  # name: id
        for number in sorted(categories):
            first.setdefault(categories[number], number)  # the lowest id of a name stands for its class
        self.category_ids = list(first.values())
        self.merged = sorted({name for number, name in categories.items() if first[name] != number})
        super().__init__(pictures, list(first), left_out)
        self._known = {number: first[name] for number, name in categories.items()}
        self._labels = {number: label for label, number in enumerate(self.category_ids)}

    def number_by(self, classes, place="the data set"):
        """Number the classes in the order of these names, or of a source that has them.

        Every class of this source must be among them; some of them may have no category here.
        """
        classes = list(getattr(classes, "classes", classes))
        if not set(self.classes) <= set(classes):
            check_classes(self.classes, classes, place)
        ids = dict(zip(self.classes, self.category_ids, strict=True))
        # Classes without a category here need ids that no category has.
        unused = itertools.count(max(self.category_ids) + 1)
        self.classes, self.category_ids = classes, [ids[name] if name in ids else next(unused) for name in classes]
        self._labels = {number: label for label, number in enumerate(self.category_ids)}

    def annotations(self, i):
        """The usable annotations of image `i` in COCO's form, without ids: a list of dictionaries."""
        raise NotImplementedError

    def image_id(self, i):
        """The id of image `i` in `truth`."""
        return i

    def objects(self, i):
        """The `Objects` of image `i`; there may be none."""
        annotations = self.annotations(i)
        # COCO's boxes are [left, top, width, height]; ours are [top, left, bottom, right].
        boxes = np.array([a["bbox"] for a in annotations], "float64").reshape(-1, 4)[:, [1, 0, 3, 2]]
        boxes[:, 2:] += boxes[:, :2]  # (n, 4), the second corner instead of the sides
        return Objects(
            boxes.astype("float32"),
            np.array([self._labels[a["category_id"]] for a in annotations], "int32"),
            np.array([a["iscrowd"] for a in annotations], bool),
            [a.get("segmentation") for a in annotations],
        )

    def truth_of(self, i):
        """Image `i` in COCO's form, a dictionary, and its annotations, a list of dictionaries."""
        (height, width), number = self.size(i), self.image_id(i)
        image = {"id": number, "file_name": self.name(i), "height": height, "width": width}
        return image, [{"image_id": number, **annotation} for annotation in self.annotations(i)]

    def truth(self, parts=None):
        """The ground truth in COCO's form for pycocotools: a dictionary of "images", "annotations" and "categories".

        Args:
            parts: results of `truth_of`, to include only these images.
        """
        parts = parts if parts is not None else [self.truth_of(i) for i in range(len(self))]
        # Number from 1, whatever the file says: pycocotools takes an object of id 0 for one that was not detected.
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
    """The images of a folder that a `Listing` annotates. See `open_detection`.

    Args:
        pictures: a `FolderSource`.
        images: the entry of each image in the listing.
        index_of: {id: index} of the images; an image may have several ids.
        turns: {index: EXIF orientation} of the images that were annotated as stored, but are turned when they are
            read.
        listing: the `Listing`.
        others: ids of images in the listing that are left out, with their annotations.
        left_out: {name: reason} of images and files.
    """

    def __init__(self, pictures, images, index_of, turns, listing, others, left_out):
        categories = coco_files.categories_by_id(listing.categories, listing.place)
        super().__init__(pictures, categories, {**left_out, **listing.left_out})
        self.images, self.index_of, self.turns, self.listing = images, index_of, turns, listing
        self.clipped = self.boxes = self.beyond = self.corners = 0
        self._annotations = [[] for _ in images]
        for number, annotation in enumerate(listing.annotations):
            image = coco_files.reference(annotation, "image_id")
            if image in others:
                continue
            name = f"annotations[{number}]{f' of {self.name(index_of[image])}' if image in index_of else ''}"
            name = listing.names[number] if listing.names else name
            try:
                self._add(annotation, index_of.get(image), name)
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
        # All boxes are counted, also those that `clean` refuses.
        self._count(coco_files.box_of(annotation), *size)
        cleaned, flaw = coco_files.clean(annotation, self._known, *size)
        if flaw:
            self.left_out[f"the outline of {name}"] = f"{flaw}; its box is kept"
        self.clipped += cleaned["bbox"] != annotation["bbox"]
        self._annotations[i].append(_turned(cleaned, size, self.turns[i]) if i in self.turns else cleaned)

    def _count(self, box, height, width):
        """Count a box of the file, whether it reaches beyond its image, and whether it would not if it were [left,
        top, right, bottom]. One pixel more is rounding."""
        if box is None or min(box[2:]) <= 0:
            return
        self.boxes += 1
        self.beyond += box[0] + box[2] > width + 1 or box[1] + box[3] > height + 1
        self.corners += 0 <= box[0] < box[2] <= width + 1 and 0 <= box[1] < box[3] <= height + 1

    def check_boxes(self):
        """Raise ValueError if many boxes of the file reach beyond their images, and so are no boxes of COCO's form.

        Those of people who are partly outside of the picture may do so. Hence half of the boxes must, or a quarter if
        all would be good corners.
        """
        corners = self.listing.of_coco and self.corners >= CORNERS * self.boxes
        if self.boxes < FEW_BOXES or self.beyond < (BEYOND_AS_CORNERS if corners else BEYOND) * self.boxes:
            return
        remedy = (
            "they seem to be [left, top, right, bottom]; write right - left and bottom - top as the last two numbers"
            if corners
            else "correct the boxes, or the width and height of the images"
        )
        raise ValueError(
            f"Expected boxes as {self.listing.boxes}, received {self.beyond} of {self.boxes} boxes that reach beyond"
            f" their images in {self.listing.place}; {remedy}."
        )

    def size(self, i):
        return upright((self.images[i]["height"], self.images[i]["width"]), self.turns.get(i, 1))

    def annotations(self, i):
        return self._annotations[i]

    def image_id(self, i):
        return self.images[i]["id"]

    def identity(self):
        return [self.pictures.fingerprint, self.listing.digest]  # the same images with other objects are other data

    def summary(self):
        """The number of images and objects, and what was left out and why, in a line."""
        counts = [len(annotations) for annotations in self._annotations]
        line = (
            f"{counted(len(self), 'image')}, {counts.count(0)} of them without objects;"
            f" {counted(sum(counts), 'object')} of {counted(len(self.classes), 'class')},"
            f" {self.clipped} of them cut at the border"
        )
        return "; ".join([line, *self._remarks()]) + left_out_text(self.left_out)

    def _remarks(self):
        """Phrases about the file that a user should know."""
        remarks = {
            f"categories of one name are one class ({', '.join(self.merged[:3])})": self.merged,
            f"{len(self.index_of) - len(self)} ids are of images listed before, to which their objects are added": (
                len(self.index_of) > len(self)
            ),
            f"{counted(len(self.turns), 'annotation')} of images turned as their EXIF tags say": self.turns,
            f"{counted(self.crowds, self.listing.ignored)}, ignored": self.crowds,
            f"{self.beyond} boxes reach beyond their image, although they are read as {self.listing.boxes}": (
                2 * self.beyond > self.boxes
            ),
            self.listing.note: self.listing.note,
            self.unused: self.unused,
        }
        return [remark for remark, holds in remarks.items() if holds]


def _turned(annotation, size, turn):
    """Turn an annotation of an image as stored, with this (height, width), to the upright image."""
    left, top, width, height = annotation["bbox"]
    # Of a turned box, the first corner need not be the one at the top left.
    corners = turn_points([(left, top), (left + width, top + height)], size, turn)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    annotation = {**annotation, "bbox": [left, top, right - left, bottom - top]}
    if "segmentation" in annotation:
        annotation["segmentation"] = turn_outline(annotation["segmentation"], size, turn)
    return annotation


class TfdsDetectionSource(DetectionSource):
    """Records of tensorflow-datasets with "objects". The id of an image is its index, that of a category its label.

    A bad object is found only when its record is read.
    """

    def __init__(self, pictures):
        label = pictures.features["objects"]["label"]
        super().__init__(pictures, dict(enumerate(label.names or map(str, range(label.num_classes)))), {})

    def size(self, i):
        return self.pictures.size(i)

    def annotations(self, i):
        objects, (height, width) = self.pictures.example(i)["objects"], self.size(i)
        # Only COCO has crowds.
        crowd = objects.get("is_crowd", np.zeros(len(objects["label"])))
        annotations = []
        for n, (box, label, is_crowd) in enumerate(zip(objects["bbox"], objects["label"], crowd, strict=True)):
            # tensorflow-datasets stores corners as fractions of the sides, rows first.
            top, left, bottom, right = np.asarray(box, "float64") * (height, width, height, width)  # in pixels
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
