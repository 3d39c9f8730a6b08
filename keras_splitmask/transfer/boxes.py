"""Boxes (..., 4) of [top, left, bottom, right] in pixels: which anchors stand for which objects, and which answers are
kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_splitmask.backend.layers import argmax, take_along_axis, top_k
from keras_splitmask.backend.typing import Array, Float, Int, Num
from keras_splitmask.training.pixels import problem_of_classes, shape_text

MOST_ANCHORS = 2**22  # of 100 bytes each while they are made; 4096x4096 pixels have 2**20 positions of stride 4
LARGEST_SCALE = 1000 / 16  # by which a delta may enlarge a box, so that no exponential overflows
PART = 100  # boxes to ignore that are compared with all candidates at a time


def problem_of_targets(targets: Any, classes: int, names: Sequence[str] = ("boxes", "labels")) -> str | None:
    """What is wrong with the objects that a detector is to learn, in a line, or None: all of `names` must be there, and
    classes known."""
    missing = [name for name in names if not isinstance(targets, dict) or name not in targets]
    if missing:
        return (
            f"Expected labels as a dictionary of {', '.join(names)}, received none called {', '.join(missing)};"
            " data.detection_batches gives them."
        )
    boxes, labels = targets["boxes"], targets["labels"]
    if len(boxes.shape) != 3 or boxes.shape[-1] != 4 or tuple(labels.shape) != tuple(boxes.shape[:2]):
        return f"Expected boxes (B, M, 4) and labels (B, M), received {shape_text(boxes)} and {shape_text(labels)}."
    return problem_of_classes(labels, classes, (-1,))


def iou(a: Float[Array, "#B n 4"], b: Float[Array, "#B m 4"]) -> Float[Array, "#B n m"]:
    """Intersection over union of boxes (B, n, 4) and (B, m, 4): (B, n, m); 0 with boxes of no size."""
    overlap = intersection(a, b)
    union = area(a)[:, :, None] + area(b)[:, None, :] - overlap  # (B, n, m)
    # `where` computes both branches, so the divisor must not be 0 even where its result is not used.
    return ops.where(overlap > 0, overlap / ops.where(union > 0, union, 1.0), 0.0)


def intersection(a: Float[Array, "#B n 4"], b: Float[Array, "#B m 4"]) -> Float[Array, "#B n m"]:
    """Areas that boxes (B, n, 4) and (B, m, 4) have in common: (B, n, m)."""
    corner = ops.maximum(a[:, :, None, :2], b[:, None, :, :2])  # the top left of what they share, (B, n, m, 2)
    sides = ops.maximum(ops.minimum(a[:, :, None, 2:], b[:, None, :, 2:]) - corner, 0.0)  # 0 where they lie apart
    return sides[..., 0] * sides[..., 1]


def largest_share(candidates: Float[Array, "#B n 4"], boxes: Float[Array, "#B m 4"]) -> Float[Array, "#B n"]:
    """The share of each candidate (B, n, 4) that lies in that of the boxes (B, m, 4) which holds most of it: (B, n)."""
    most = 0.0
    # In parts: the intersections of all pairs take (B, n, m, 2) floats, and an image may have many boxes to ignore.
    for first in range(0, boxes.shape[1], PART):
        most = ops.maximum(most, ops.max(intersection(candidates, boxes[:, first : first + PART]), axis=-1))
    own = area(candidates)
    return ops.where(own > 0, most / ops.where(own > 0, own, 1.0), 0.0)


def area(boxes: Float[Array, "*axes 4"]) -> Float[Array, "*axes"]:
    """Areas (...) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Float[Array, "*axes 4"], image_shape: Sequence[int]) -> Float[Array, "*axes 4"]:
    """Boxes (..., 4) cut off at the borders of the image."""
    height, width = image_shape[:2]
    return ops.minimum(ops.maximum(boxes, 0.0), np.array([height, width, height, width], "float32"))


def anchors(
    image_shape: Sequence[int],
    strides: Iterable[int],
    sizes: Iterable[Sequence[float]],
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> Float[Array, "A 4"]:
    """The boxes that a detector's answers are relative to: (A, 4) float32, level by level, row by row, at each place
    size by size.

    Args:
        strides: of the levels, in pixels.
        sizes: for each level the square roots of the areas.
        ratios: height / width.

    Raises:
        ValueError: if there are more than `MOST_ANCHORS`.
    """
    # Rounded up, as the sides of the maps are.
    places = sum(
        len(own) * math.prod(-(-side // stride) for side in image_shape[:2])
        for stride, own in zip(strides, sizes, strict=True)
    )
    if places * len(ratios) > MOST_ANCHORS:
        raise ValueError(
            f"Expected images with at most {MOST_ANCHORS} anchors, received {image_shape=} with {places * len(ratios)};"
            " resize the images."
        )
    levels = []
    for stride, level_sizes in zip(strides, sizes, strict=True):
        # A position's anchors lie around the centre of its cell of the map, hence the half.
        grid = [(np.arange(-(-side // stride)) + 0.5) * stride for side in image_shape[:2]]
        centres = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, 1, 2)  # (h w, 1, 2)
        # Of every ratio the same area, size^2.
        sides = [(size * ratio**0.5 / 2, size / ratio**0.5 / 2) for size in level_sizes for ratio in ratios]
        halves = np.array(sides)[None]  # (1, sizes x ratios, 2)
        # By position, then size, then ratio. The channels of a trained head belong to this order.
        levels.append(np.concatenate([centres - halves, centres + halves], axis=-1).reshape(-1, 4))
    return np.concatenate(levels).astype("float32")


def match(
    candidates: Float[Array, "_ A 4"],
    boxes: Float[Array, "B M 4"],
    labels: Int[Array, "B M"],
    low: float,
    high: float,
    best_too: bool = False,
    ignored: Float[Array, "B I 4"] | None = None,
) -> tuple[Int[Array, "B A"], Int[Array, "B A"]]:
    """Match each candidate with an object.

    Args:
        candidates: boxes (B, A, 4).
        boxes: the objects' (B, M, 4).
        labels: (B, M) int32, -1 where there is no object.
        low, high: a candidate whose overlap with its nearest object is `high` or more stands for it, below `low` for
            background.
        best_too: let every object also have the candidates that are nearest to it, if they touch it (Faster R-CNN,
            section 3.1.2).
        ignored: boxes (B, I, 4) of what is there, but is not to be learnt, 0 where there are no more; a candidate of
            which a share of `low` or more lies in one is not background. So is every candidate whose intersection over
            union with it is `low` or more.

    Returns:
        The number of the object (B, A) int32, and +1, 0 or -1 (B, A) int32 for object, background and neither.
    """
    boxes, labels = ops.convert_to_tensor(boxes), ops.convert_to_tensor(labels)
    # -1 for rows that are padding: below every threshold, and below no overlap at all.
    overlap = ops.where((labels >= 0)[:, None, :], iou(candidates, boxes), -1.0)  # (B, A, M)
    nearest, best = ops.argmax(overlap, axis=-1), ops.max(overlap, axis=-1)  # (B, A) each; -1 without objects
    # So all of an image without objects is background.
    kind = ops.where(best >= high, 1, ops.where(best < low, 0, -1))
    if ignored is not None:
        kind = ops.where((kind == 0) & (largest_share(candidates, ops.convert_to_tensor(ignored)) >= low), -1, kind)
    if best_too:
        top = ops.max(overlap, axis=1, keepdims=True)  # of each object (B, 1, M)
        # Several candidates may be equally near, but for rounding.
        tops = (overlap >= top - 1e-6) & (top > 0)  # (B, A, M); none for an object that nothing touches
        chosen = ops.any(tops, axis=-1)
        # A candidate that is the nearest to several objects stands for the one that it overlaps most.
        nearest = ops.where(chosen, ops.argmax(ops.where(tops, overlap, -2.0), axis=-1), nearest)
        kind = ops.where(chosen, 1, kind)
    return ops.cast(nearest, "int32"), ops.cast(kind, "int32")


def take(x: Num[Array, "B n *D"], indices: Int[Array, "B m"]) -> Num[Array, "B m *D"]:
    """Rows of x (B, n, ...) by number (B, m): (B, m, ...)."""
    return take_along_axis(x, ops.reshape(indices, (-1, indices.shape[1]) + (1,) * (len(x.shape) - 2)), axis=1)


def top(x: Float[Array, "B n"], count: int) -> tuple[Float[Array, "B K"], Int[Array, "B K"]]:
    """The largest of x (B, n), sorted, and their numbers: both (B, count)."""
    return top_k(x, count)


def encode(
    boxes: Float[Array, "B A 4"], anchors: Float[Array, "_ A 4"], variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2)
) -> Float[Array, "B A 4"]:
    """Boxes (B, A, 4) as deltas (B, A, 4) to anchors (B or 1, A, 4): of the centres and of the logarithms of the sides,
    over `variance`.

    Not by `keras.utils.bounding_boxes`, which takes TensorFlow's operations where JAX is exported to TensorFlow. A box
    of no size, which no anchor stands for, gives finite deltas.
    """
    centre, size = _centre_and_size(boxes)
    own_centre, own_size = _centre_and_size(anchors)
    # Ren et al., 2015, equation 2, rows before columns: (dy, dx, dh, dw).
    deltas = [(centre - own_centre) / own_size, ops.log(ops.maximum(size, 1e-3) / own_size)]
    # The variances bring the four deltas to about the same size.
    # By `ops`: NumPy's array would try to compute the quotient itself, which fails for a tensor on a GPU.
    return ops.divide(ops.concatenate(deltas, axis=-1), np.array(variance, "float32"))


def decode(
    deltas: Float[Array, "*axes 4"],
    anchors: Float[Array, "... 4"],
    image_shape: Sequence[int],
    variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
) -> Float[Array, "*axes 4"]:
    """The inverse of `encode`, cut off at the borders of the image."""
    deltas = ops.multiply(deltas, np.array(variance, "float32"))
    own_centre, own_size = _centre_and_size(anchors)
    centre = own_centre + deltas[..., :2] * own_size
    half = ops.exp(ops.minimum(deltas[..., 2:], math.log(LARGEST_SCALE))) * own_size / 2
    return clip(ops.concatenate([centre - half, centre + half], axis=-1), image_shape)


def _centre_and_size(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def suppress(
    boxes: Float[Array, "B n 4"], scores: Float[Array, "B n"], groups: Num[Array, "B n"], count: int, threshold: float
) -> tuple[Int[Array, "B K"], Float[Array, "B K"]]:
    """Non-maximum suppression: the best, then the best of those that overlap it by no more than `threshold`, and so on.

    Static in shape and without random access, so that it compiles on every backend and for every accelerator.

    Args:
        boxes: (B, n, 4).
        scores: (B, n); what is not above 0 is never chosen.
        groups: (B, n) int, such as classes; boxes of different groups do not suppress each other.
        count: K, how many to choose.
        threshold: of the intersection over union.

    Returns:
        Which (B, K) int32, best first, and their scores (B, K), 0 where there were no more.
    """
    boxes, scores = ops.stop_gradient(boxes), ops.stop_gradient(scores)  # there is nothing to learn from a choice
    places = ops.arange(count)

    def choose(k, state):
        left, chosen, best_scores = state
        best = argmax(left)[:, None]  # (B, 1)
        score = take_along_axis(left, best, axis=1)
        overlap = iou(take(boxes, best), boxes)[:, 0]  # (B, n)
        same = groups == take_along_axis(groups, best, axis=1)
        # By its number, too: a box of no size overlaps nothing, not even itself.
        itself = ops.arange(left.shape[1]) == ops.cast(best, "int32")
        left = ops.where(((overlap > threshold) & same) | itself, 0.0, left)
        here = places == k
        return left, ops.where(here, ops.cast(best, "int32"), chosen), ops.where(here, score, best_scores)

    left = ops.where(scores > 0, scores, 0.0)  # scores of the boxes that are neither chosen nor suppressed yet, (B, n)
    # Made from a tensor of the batch, whose size may be known only in the step.
    nothing = ops.zeros_like(left[:, :1]) * ops.zeros((1, count))  # (B, K)
    _, chosen, best_scores = ops.fori_loop(0, count, choose, (left, ops.cast(nothing, "int32"), nothing))
    return chosen, best_scores


def keep_best(
    boxes: Float[Array, "B A ..."],
    scores: Float[Array, "B A classes"],
    count: int,
    threshold: float,
    least: float,
    candidates: int = 1000,
) -> dict[str, Num[Array, "B K ..."]]:
    """What a detector answers: of its boxes and what each may be, the best that do not overlap others of their class.

    Args:
        boxes: (B, A, 4), or of each class its own (B, A, classes, 4).
        scores: (B, A, classes) in 0..1.
        count: K.
        threshold: largest intersection over union of two boxes of one class.
        least: score that a box must have.
        candidates: how many of the pairs of box and class are looked at, the best.

    Returns:
        "boxes" (B, K, 4), "scores" (B, K) and "labels" (B, K) int32, -1 where there were no more, and "indices" (B, K)
        int32 of the boxes among the A.
    """
    total, classes = scores.shape[1:]
    scores = ops.where(scores > least, scores, 0.0)
    # The best pairs are all of boxes whose best class is among the best; so no sort need see all pairs.
    _, rows = top(ops.max(scores, axis=-1), min(candidates, total))  # (B, R)
    pairs = ops.reshape(take(scores, rows), (-1, rows.shape[1] * classes))  # (B, R x classes)
    best, places = top(pairs, min(candidates, pairs.shape[1]))  # (B, n) each
    labels = ops.cast(places % classes, "int32")
    rows = take(rows, places // classes)  # (B, n) of A
    boxes = take(boxes, rows)  # (B, n, 4), or (B, n, classes, 4)
    if len(boxes.shape) == 4:
        boxes = take_along_axis(boxes, labels[..., None, None], axis=2)[:, :, 0]  # (B, n, 4)
    chosen, best = suppress(boxes, best, labels, count, threshold)
    there = best > 0
    return {
        "boxes": ops.where(there[..., None], take(boxes, chosen), 0.0),
        "scores": best,
        "labels": ops.where(there, take(labels, chosen), -1),
        "indices": ops.cast(take(rows, chosen), "int32"),
    }
