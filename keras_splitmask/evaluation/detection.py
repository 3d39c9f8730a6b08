"""Evaluate detections by COCO's average precision, and map them to the pixels of the original image."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_splitmask.backend.optional import optional
from keras_splitmask.backend.typing import Array, Bool, Float, Num

KINDS = {"boxes": "bbox", "masks": "segm"}  # and what pycocotools calls them
AREAS = {
    "ap_small": 1,
    "ap_medium": 2,
    "ap_large": 3,
}  # places of COCO's ranges of area: below 32 x 32 pixels, below 96 x 96, above


DETECTIONS = [1, 10, 100]  # of an image, the best; precision is of the last, recall of each


def average_precision(truth: dict, predictions: Iterable[dict], kind: str = "boxes") -> dict[str, Any]:
    """Compute COCO's average precision with pycocotools, of the 100 best detections per class and image.

    Args:
        truth: a COCO dictionary: images, annotations and categories. Boxes need no area and no iscrowd.
        predictions: for each image a dictionary of its "image_id", "boxes" (n, 4) in its pixels, "scores" (n,),
            "labels" (n,) int, which count the categories in the order of their ids, and for masks "masks", a list of n
            COCO RLEs. Images that have no dictionary have no detections.
        kind: compare "boxes" or "masks".

    Returns:
        Floats "ap", "ap50", "ap75", "ap_small", "ap_medium" and "ap_large", and average recall with the best 1, 10 and
        100 detections of a class and image, "ar_1", "ar_10" and "ar_100"; without those that nothing in the truth is
        asked for. And "per_class", {name: {"ap":, "ap50":}} of the classes that occur in the truth.
    """
    if kind not in KINDS:
        raise ValueError(f"Expected kind to be one of {', '.join(KINDS)}, received {kind!r}; correct it.")
    evaluator = optional("pycocotools.cocoeval", "coco").COCOeval
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    objects = _objects(truth, kind)
    detections = _detections(truth, predictions, [category["id"] for category in categories], kind)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        count = evaluator(_index(truth, objects), _index(truth, detections), KINDS[kind])
        count.params.maxDets = DETECTIONS
        count.evaluate()
        count.accumulate()
    # (overlaps 0.5, 0.55 .. 0.95, recalls, classes, areas), -1 where there is no truth
    precision = count.eval["precision"][..., -1]
    recall = count.eval["recall"][:, :, 0]  # (overlaps, classes, detections), of objects of all sizes
    everywhere = precision[..., 0]  # objects of all sizes: (10, 101, classes)
    parts = {"ap": everywhere, "ap50": everywhere[0], "ap75": everywhere[5]}  # index 5 is the overlap 0.75
    classes = {c["name"]: {"ap": everywhere[..., i], "ap50": everywhere[0, :, i]} for i, c in enumerate(categories)}
    per_class = {name: _means(of_class) for name, of_class in classes.items()}
    return {
        **_means({**parts, **{name: precision[..., place] for name, place in AREAS.items()}}),
        **_means({f"ar_{most}": recall[..., i] for i, most in enumerate(DETECTIONS)}),
        "per_class": {name: means for name, means in per_class.items() if means},
    }


def _means(parts):
    # As COCO's `summarize`: one mean over overlaps, recalls and classes, without the -1 of classes that do not occur.
    return {name: float(part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}


def _index(truth, annotations):
    """A pycocotools.coco.COCO of these annotations; those for masks get their area if they have none."""
    index = optional("pycocotools.coco", "coco").COCO()
    index.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}
    index.createIndex()
    for annotation in annotations:
        if "area" not in annotation:
            annotation["area"] = float(optional("pycocotools.mask", "coco").area(index.annToRLE(annotation)))
    return index


def _objects(truth, kind):
    """Copy the annotations, since pycocotools changes them, with ids from 1, since it takes id 0 for no match."""
    objects = [{"iscrowd": 0, **annotation, "id": i} for i, annotation in enumerate(truth["annotations"], start=1)]
    for annotation, given in zip(objects, truth["annotations"], strict=True):
        if kind == "masks" and not annotation.get("segmentation"):
            raise ValueError(
                f"Expected annotations with a segmentation, received annotation {given.get('id')} of image"
                f" {given['image_id']}, which has none; ask for kind='boxes', or use a data set with masks."
            )
        if kind == "boxes":
            annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    return objects


def _detections(truth, predictions, category_ids, kind):
    """Convert predictions to COCO annotations."""
    sizes = {image["id"]: [image.get("height"), image.get("width")] for image in truth["images"]}
    detections = []
    for prediction in predictions:
        image_id = prediction["image_id"]
        if image_id not in sizes:
            raise ValueError(
                f"Expected each image of the truth at most once, received image_id {image_id!r} once too often; leave"
                " it out."
            )
        size = sizes.pop(image_id)
        boxes, scores, labels = _checked(prediction, len(category_ids))
        corners, sides = boxes[:, 1::-1], boxes[:, 3:1:-1] - boxes[:, 1::-1]  # COCO's x before y
        of_image = [
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "score": score,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for box, score, label in zip(
                np.concatenate([corners, sides], axis=1).tolist(), scores.tolist(), labels.tolist(), strict=True
            )
        ]
        if kind == "masks":
            masks = prediction.get("masks")
            if masks is None or len(masks) != len(boxes) or any(list(mask["size"]) != size for mask in masks):
                raise ValueError(
                    f"Expected a mask of {size} for each of {len(boxes)} boxes of image {image_id!r}, received "
                    f"{'none' if masks is None else [list(mask['size']) for mask in masks]}; see `to_original`."
                )
            for detection, mask in zip(of_image, masks, strict=True):
                detection["segmentation"] = mask
                del detection["area"]  # which is the mask's, not the box's
        detections += of_image
    # From 1: pycocotools notes the id of the detection at each object that it has matched, and 0 would say none.
    for i, detection in enumerate(detections, start=1):
        detection["id"] = i
    return detections


def _checked(prediction, class_count):
    """Check a prediction: its boxes (n, 4), scores (n,) and labels (n,)."""
    boxes = np.asarray(prediction["boxes"], "float64").reshape(-1, 4)
    scores, labels = np.asarray(prediction["scores"], "float64"), np.asarray(prediction["labels"])
    if not len(boxes) == len(scores) == len(labels):
        problem = f"{len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels"
    elif not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        problem = "numbers that are not finite"
    elif len(labels) and not 0 <= labels.min() <= labels.max() < class_count:
        problem = f"labels from {labels.min()} to {labels.max()}"
    else:
        return boxes, scores, labels.astype(int)
    raise ValueError(
        f"Expected boxes with a finite score and a label from 0 to {class_count - 1} each, received {problem} for image"
        f" {prediction['image_id']!r}; see `to_original`."
    )


def to_original(
    answer: Mapping[str, Array], factor: float | Sequence[float] | Float[Array, " 2"], height: int, width: int
) -> dict[str, Any]:
    """Map the detections of one image to the pixels of the original image.

    Args:
        answer: "boxes" (K, 4), "scores" (K,), "labels" (K,), -1 where there is nothing, and maybe "masks" (K, S, S),
            each inside its box.
        factor: factor by which the original was resized, before padding at the bottom and at the right; or those of its
            height and its width.
        height, width: size of the original.

    Returns:
        "boxes" (n, 4) float32, "scores" (n,), "labels" (n,), and "masks", a list of n COCO RLEs, if there were any.
        Boxes are cut off at the borders of the original. Boxes that lie entirely in the padding are left out.
    """
    # The padding begins at the bottom and at the right, so the origin stays and a division is enough.
    boxes = (np.asarray(answer["boxes"], "float32") / np.tile(np.broadcast_to(factor, 2), 2)).astype("float32")
    cut = np.clip(boxes, 0, np.array([height, width, height, width], "float32"))
    kept = np.flatnonzero((np.asarray(answer["labels"]) >= 0) & (cut[:, 2:] > cut[:, :2]).all(axis=1))
    original: dict[str, Any] = {
        "boxes": cut[kept],
        **{name: np.asarray(answer[name])[kept] for name in ("scores", "labels")},
    }
    if "masks" in answer:
        # A mask fills its whole box, also what lies beyond the border.
        original["masks"] = [encode_mask(paste_mask(answer["masks"][i], boxes[i], height, width)) for i in kept]
    return original


def paste_mask(
    mask: Num[Array, "S S"], box: Num[Array, " 4"] | Sequence[float], height: int, width: int
) -> Bool[Array, "height width"]:
    """A mask (S, S) of probabilities inside a box (4,) as a mask (height, width) bool of the image that the box lies
    in.

    A pixel belongs to it if its centre lies in the box and the mask, interpolated between the centres of its cells and
    of cells of 0 around them, is at least 0.5 there. (Cells that go on beyond the box fit smooth shapes less well: an
    IoU of 0.985 with what was cut into 28 x 28 cells, against 0.989.)
    """
    mask, pixels, weights = np.asarray(mask, "float32"), [], []
    for start, end, side, cells in zip(box[:2], box[2:], (height, width), mask.shape, strict=True):
        # The pixels whose centres, i + 1/2, lie in the box.
        first, last = (int(np.clip(np.ceil(border - 0.5), 0, side)) for border in (start, end))
        # In cells of the mask, whose centres have whole numbers.
        places = (np.arange(first, last) + 0.5 - start) * (cells / max(end - start, 1e-6)) - 0.5
        weights.append(np.maximum(1 - np.abs(places[:, None] - np.arange(cells)), 0))  # (pixels, S)
        pixels.append(slice(first, last))
    pasted = np.zeros((height, width), bool)
    pasted[tuple(pixels)] = weights[0] @ mask @ weights[1].T >= 0.5  # (rows, S) @ (S, S) @ (S, columns)
    return pasted


def encode_mask(mask: Num[Array, "height width"] | Bool[Array, "height width"]) -> dict[str, Any]:
    """Encode a mask (height, width) bool as COCO's RLE, {"size": [height, width], "counts": str}, fit for JSON."""
    # COCO's RLE runs down the columns, so pycocotools takes Fortran's order only.
    encoded = optional("pycocotools.mask", "coco").encode(np.asfortranarray(mask, "uint8"))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def decode_mask(encoded: dict[str, Any]) -> Bool[Array, "height width"]:
    """Decode COCO's RLE to a mask (height, width) bool."""
    return optional("pycocotools.mask", "coco").decode(encoded).astype(bool)
