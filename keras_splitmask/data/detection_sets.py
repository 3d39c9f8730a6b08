"""Open a data set of images with objects by its name."""

import hashlib
import os
from pathlib import Path

from keras_splitmask.data import coco_files
from keras_splitmask.data.annotated import annotated_images, check_left_out, kind_and_place
from keras_splitmask.data.coco import CocoSource, TfdsDetectionSource
from keras_splitmask.data.published import open_tfds
from keras_splitmask.data.ranges import report_range
from keras_splitmask.data.scan import printable, scan
from keras_splitmask.data.values import check_range


def open_detection(
    dataset, split, data_dir=None, channels=3, report=None, classes=None, max_bad_fraction=0.5, value_range=None
):
    """Open a data set of images with objects by its name; images are read when they are needed.

    * `coco:PATH`: COCO's own PATH/annotations/instances_SPLIT2017.json with PATH/SPLIT2017/* (of any year, the last if
      there are several), or PATH/SPLIT/instances.json with PATH/SPLIT/images/*.
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

    Returns:
        A `DetectionSource`.

    Raises:
        NoSuchSplit: if the data set exists, but not the split.
        ValueError: if there is no such data set, or it has no usable objects or other classes.
    """
    value_range = check_range(value_range)
    kind, place = kind_and_place(dataset, split, {"coco": "PATH", "tfds": "NAME"})
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
    # Before the scan, which may take minutes: an error of the file should come first.
    coco_files.categories_by_id(file["categories"], path)
    found = scan(folder, report=report)
    # With the files that were left out, so that an unreadable image is not called missing.
    entries, twice = _by_path(coco_files.images_by_id(file["images"], path), {*found.images, *found.left_out})
    # The first entry of a file stands for all: `_by_path` has left out those of another size.
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
    # The checksum is part of the fingerprint: the same images with other annotations are other data.
    source = CocoSource(pictures, images, places, turns, file, unused, left_out, hashlib.sha256(content).hexdigest())
    source.check_boxes(path)
    if not any(source.annotations(i) for i in range(len(source))):
        raise ValueError(
            f"Expected objects in {path}, received none that can be used: {source.summary()}; correct the file."
        )
    return source


def _by_path(images, there):
    """Group the entries of images by file, and find those whose size differs from the first entry of their file.

    Args:
        images: {id: entry}.
        there: relative paths of the existing files.

    Returns:
        {relative path: entries}, and {id: reason} of the entries that differ.
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
