"""Open a data set of images with objects by its name."""

import os
from pathlib import Path

from keras_splitmask.data import coco_files, detection_formats
from keras_splitmask.data.annotated import annotated_images, check_left_out, kind_and_place
from keras_splitmask.data.coco import CocoSource, TfdsDetectionSource
from keras_splitmask.data.image_names import paths_of
from keras_splitmask.data.published import open_tfds
from keras_splitmask.data.ranges import report_range
from keras_splitmask.data.scan import printable
from keras_splitmask.data.split_folders import drawn, note_of_division
from keras_splitmask.data.values import check_range

FORMS = {"folder": "PATH", "coco": "PATH", "voc": "PATH", "yolo": "PATH", "tfds": "NAME"}


def open_detection(
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
    """Open a data set of images with objects by its name; images are read when they are needed.

    * `coco:PATH`: COCO's own PATH/annotations/instances_SPLIT2017.json with PATH/SPLIT2017/* (of any year, the last if
      there are several), or PATH/SPLIT/instances.json with PATH/SPLIT/images/*; exports of CVAT, Label Studio and
      Roboflow, see `coco_files.splits`.
    * `voc:PATH`: XML files of Pascal VOC, see `voc.splits`.
    * `yolo:PATH`: text files of YOLO, see `yolo.splits`; PATH may be its data.yaml.
    * `folder:PATH`: one of these, whichever is there. `report` receives a line that says which.
    * `tfds:NAME`: a data set of tensorflow-datasets such as coco/2017, with the features "image" and "objects", which
      has "bbox" and "label". It has no masks.

    Boxes are cut to their images. Annotations without a box in the image, or of an unknown image or category, are left
    out; so are missing images. `summary()` counts them and `left_out` names each. Images without objects stay. If an
    outline cannot be used, its box stays. An image may be listed under several ids: their objects are joined.
    Categories of the same name are one class. A file whose boxes are fractions, or [left, top, right, bottom], is
    refused.

    Args:
        dataset: one of the above.
        split: "train", "val" or "test".
        data_dir: where tensorflow-datasets keeps its files.
        channels: the wanted number of channels; 1 and 3 convert between grey and RGB.
        report: a function that receives a line about the progress, and later about each image that is broken.
        classes: the names in order of their numbers, or a source that has them, such as the train split. Some may be
            missing here.
        max_bad_fraction: largest fraction of the annotated images that may be unusable.
        value_range: (low, high), the stored values that become 0 and 255; see `opening.open_source`.
        val_fraction: fraction of the images of a data set that is not divided to take as its split val. They are drawn
            by their names. By default all are the split train.

    Returns:
        A `DetectionSource`.

    Raises:
        NoSuchSplit: if the data set exists, but not the split.
        ValueError: if there is no such data set, or it has no usable objects or other classes.
    """
    value_range = check_range(value_range)
    kind, place = kind_and_place(dataset, split, FORMS)
    if kind == "tfds":
        source = _open_objects(place, split, channels, data_dir)
    else:
        root = Path(os.path.expanduser(place))
        listing = detection_formats.read(kind, root, split, report, classes, divide=val_fraction is not None)
        source = _open_listed(listing, split, channels, report, max_bad_fraction, val_fraction)
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


def _open_listed(listing, split, channels, report, max_bad_fraction, val_fraction):
    """Open the images and objects of a `Listing`."""
    found, path = listing.found, listing.place
    # With the files that were left out, so that an unreadable image is not called missing.
    entries, twice = _by_path(coco_files.images_by_id(listing.images, path), {*found.images, *found.left_out})
    kept = entries if listing.divided or val_fraction is None else _part(entries, split, val_fraction, found, report)
    # The first entry of a file stands for all: `_by_path` has left out those of another size.
    sizes = {path: (of_path[0]["height"], of_path[0]["width"]) for path, of_path in entries.items() if path in kept}
    pictures, turned, left_out, others = annotated_images(found, sizes, channels, report)
    known = listing.unannotated | entries.keys() if listing.complete else found.images
    known = set(map(printable, known))
    others = {name: reason for name, reason in others.items() if name not in known}
    unread = listing.unread if kept is entries or split == "train" else {}
    unusable, total = {**unread, **left_out}, len(sizes) + len(unread)
    check_left_out(len(unusable), total, {**unusable, **others}, found.root, max_bad_fraction)
    images = [entries[path][0] for path in pictures.paths]
    places = {entry["id"]: i for i, path in enumerate(pictures.paths) for entry in entries[path]}
    turns = {i: turned[path] for i, path in enumerate(pictures.paths) if path in turned}
    unused = {
        entry["id"] for of_path in entries.values() for entry in of_path if entry["id"] not in places
    } | twice.keys()
    twice = {f"the image of id {number}": reason for number, reason in twice.items()}
    source = CocoSource(pictures, images, places, turns, listing, unused, {**unusable, **others, **twice})
    source.check_boxes()
    if not any(source.annotations(i) for i in range(len(source))):
        raise ValueError(
            f"Expected objects in {path}, received none that can be used: {source.summary()}; correct the file."
        )
    return source


def _part(entries, split, fraction, found, report):
    """Draw the images of a split from those of a data set that is not divided: relative paths."""
    val = drawn([path for path in entries if path in found.images], fraction)
    if report and split == "train":
        report(note_of_division(found.root, len(val), len(entries)))
    return val if split == "val" else entries.keys() - val


def _by_path(images, there):
    """Group the entries of images by file, and find those whose size differs from the first entry of their file.

    Args:
        images: {id: entry}.
        there: relative paths of the existing files.

    Returns:
        {relative path: entries}, and {id: reason} of the entries that differ.
    """
    entries, unfit, paths = {}, {}, paths_of({entry["file_name"] for entry in images.values()}, there)
    for number, entry in images.items():
        path = paths[entry["file_name"]]
        of_path = entries.setdefault(path, [])
        if of_path and any(entry[side] != of_path[0][side] for side in ("height", "width")):
            unfit[number] = f"another size than {printable(path)} has under id {of_path[0]['id']}"
        else:
            of_path.append(entry)
    return entries, unfit
