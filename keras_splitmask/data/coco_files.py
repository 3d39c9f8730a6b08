"""Read COCO's JSON files, and check each entry: images, categories, and objects with their boxes."""

import hashlib
import json
import re

import numpy as np

from keras_splitmask.data.listing import Listing
from keras_splitmask.data.scan import scan
from keras_splitmask.data.segmentations import finite, usable
from keras_splitmask.data.split_folders import SPLIT_OF, choose_split, named_as_splits

LISTS = ("images", "annotations", "categories")
# Of data sets that are not divided, as CVAT, Label Studio and Roboflow call them.
UNDIVIDED = (
    "annotations/instances_default.json",
    "result.json",
    "instances_default.json",
    "annotations.json",
    "_annotations.coco.json",
)


def splits(root):
    """Find the files of a data set: {name of a split: (path of the JSON file, folder of its images)}.

    The name is empty if the data set is not divided. There are none if this is no data set of COCO's form.
    """
    found = {}
    for name, path in named_as_splits(root).items():
        for file, images in (("instances.json", path / "images"), ("_annotations.coco.json", path)):
            if (path / file).is_file():
                found.setdefault(name, (path / file, images))
    for path in sorted(root.glob("annotations/instances_*.json")):  # by year: the last stays
        match = re.fullmatch(r"instances_([a-z]+)(\d*)", path.stem, re.IGNORECASE)
        folder = match and path.is_file() and _folder_of_images(root, match[1] + match[2])
        if folder and match[1].lower() in SPLIT_OF:
            found[match[1].lower()] = path, folder
    if found:
        return found
    paths = [path for path in map(root.joinpath, UNDIVIDED) if path.is_file()]
    folder = paths and (_folder_of_images(root, "default") or root)
    return {"": (paths[0], folder)} if paths else {}


def _folder_of_images(root, name):
    """The folder of a split's images: ROOT/NAME, ROOT/images/NAME or ROOT/images; None if there is none."""
    return next((path for path in (root / name, root / "images" / name, root / "images") if path.is_dir()), None)


def read(root, split, report=None):
    """Read the annotations of a split: a `Listing`."""
    found = splits(root)
    if not found:
        raise ValueError(
            f"Expected annotations/instances_{split}2017.json with {split}2017, or {split}/instances.json with "
            f"{split}/images, in {root}, received neither; correct the path."
        )
    path, folder = choose_split(found, split, root)
    content, file = load(path)
    # Before the scan, which may take minutes: an error of the file should come first.
    categories_by_id(file["categories"], path)
    return Listing(
        path,
        scan(folder, report=report),
        *(file[name] for name in LISTS),
        digest=hashlib.sha256(content).hexdigest(),
        complete=[images for _, images in found.values()].count(folder) == 1,
        divided="" not in found,
    )


def load(path):
    """Read one of COCO's files: its bytes, and its parsed content."""
    try:
        content = path.read_bytes()
        file = json.loads(content)
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"Expected a JSON file, received {path} ({error}); write it again.") from error
    missing = [
        key for key in LISTS if not isinstance(file, dict) or not isinstance(file.get(key), list) or not file[key]
    ]
    if missing:
        raise ValueError(
            f"Expected COCO's lists of {', '.join(LISTS)} in {path}, received no {' and no '.join(missing)}; correct"
            " the file."
        )
    _check_unit(file["annotations"], path)
    return content, file


def _check_unit(annotations, path):
    """Raise ValueError if most boxes are in fractions of their images' sides instead of pixels."""
    boxes = [box for box in (box_of(annotation) for annotation in annotations) if box]
    parts = sum(0 < max(box) <= 1 for box in boxes)
    # By the majority: a single box above 1 must not let the others pass.
    if 2 * parts > len(boxes):
        which = f"all {parts} boxes" if parts == len(boxes) else f"{parts} of {len(boxes)} boxes"
        raise ValueError(
            f"Expected boxes in pixels, received numbers of at most 1 in {which} of {path}, as of parts of "
            "an image; multiply them by the width and the height of their image."
        )


def number(value):
    """Convert an id or a length, or its text, to an int. Other text stays; anything else becomes None."""
    if isinstance(value, str):
        # 64 bits have up to 19 digits; more would be no id.
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else value or None
    # Above 2**53, a float stands for more than one integer.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def reference(annotation, key):
    """Return the id that an annotation has under this name, or None."""
    return number(annotation.get(key)) if isinstance(annotation, dict) else None


def images_by_id(entries, path):
    """Collect the entries of images: {id: entry with file_name, height and width}. Ids must be unique."""
    found = {}
    for entry in entries:
        facts = entry if isinstance(entry, dict) else {}
        sides = [number(facts.get(side)) for side in ("height", "width")]
        own, name = number(facts.get("id")), facts.get("file_name")
        if own is None or not isinstance(name, str) or not all(isinstance(side, int) for side in sides):
            raise ValueError(
                f"Expected each image with an id, file_name, height and width, received {str(entry)[:200]} in {path}; "
                "correct it."
            )
        _check_new(own, found, "image", path)
        found[own] = {**entry, "id": own, "height": sides[0], "width": sides[1]}
    return found


def categories_by_id(entries, path):
    """Collect the names of categories: {id: name}. Ids must be unique integers."""
    found = {}
    for entry in entries:
        facts = entry if isinstance(entry, dict) else {}
        own, name = number(facts.get("id")), facts.get("name")
        if not isinstance(own, int) or not isinstance(name, str):
            raise ValueError(
                f"Expected each category with an integer id and name, received {str(entry)[:200]} in {path};"
                " correct it."
            )
        _check_new(own, found, "category", path)
        found[own] = name
    return found


def _check_new(own, found, kind, path):
    if own in found:
        raise ValueError(
            f"Expected one {kind} of each id, received two of id {own} in {path}; give each an id of its own."
        )


def box_of(annotation):
    """Read the four numbers of an annotation's box, or None."""
    given = annotation.get("bbox") if isinstance(annotation, dict) else None
    box = finite(given) if isinstance(given, list) else None
    return box if box and len(box) == 4 else None


def clean(annotation, known, height, width):
    """Copy a COCO annotation without its ids and with its box cut to the image.

    Args:
        annotation: a dictionary from the file, of unknown content.
        known: {id: id} of the categories; all ids of a class map to the same id.
        height, width: size of the image.

    Returns:
        The copy, and the reason why it has no outline, or None.

    Raises:
        ValueError: with the reason, if the annotation cannot be used.
    """
    category = reference(annotation, "category_id")
    if category not in known:
        raise ValueError("an unknown category")
    box = box_of(annotation)
    if box is None:
        raise ValueError("a box that is not four finite numbers")
    if min(box[2:]) <= 0:
        raise ValueError("an empty box")
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if min(left, top) < 0 or right > width or bottom > height:
        left, right = (min(max(x, 0.0), float(width)) for x in (left, right))
        top, bottom = (min(max(y, 0.0), float(height)) for y in (top, bottom))
        box = [left, top, right - left, bottom - top]
    # In float32, as targets are: a box of 1e-9 pixels would be empty there.
    if not (np.float32(left) < np.float32(right) and np.float32(top) < np.float32(bottom)):
        raise ValueError("a box outside its image")
    # The metrics sort objects by area, and some programs write none or 0.
    (area,) = finite([annotation.get("area")]) or [0]
    cleaned = {
        "category_id": known[category],
        "bbox": box,
        "area": area if area > 0 else box[2] * box[3],
        "iscrowd": int(annotation.get("iscrowd") in (1, "1")),
    }
    try:
        outline = usable(annotation.get("segmentation"), height, width)
        # An outline elsewhere belongs to another object, so it is no mask for this box.
        if isinstance(outline, list) and not _meets(outline, left, top, right, bottom):
            raise ValueError("an outline outside its box")
    except ValueError as error:  # the box can still be used
        return cleaned, str(error)
    return ({**cleaned, "segmentation": outline} if outline else cleaned), None


def _meets(polygons, left, top, right, bottom):
    """Return whether part of the polygons may lie in a box, or less than a pixel beside it."""
    return any(
        min(p[0::2]) < right + 1 and max(p[0::2]) > left - 1 and min(p[1::2]) < bottom + 1 and max(p[1::2]) > top - 1
        for p in polygons
    )
