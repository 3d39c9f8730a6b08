"""Which of RetinaNet's anchors suit the objects of a training set."""

import numpy as np

from keras_splitmask.transfer.retinanet import anchor_sizes

# From cheap to expensive, and from large anchors to small ones.
CHOICES = (("P3-P7", 4.0), ("P3-P7", 2.0), ("P2-P6", 4.0), ("P2-P6", 2.0), ("P2-P6", 1.0))
ENOUGH = 0.5  # overlap of an anchor that stands for an object
MARGIN = 0.05  # share of a class that may have no anchor for the sake of a cheaper choice
RATIOS = (0.5, 1.0, 2.0)


def best_overlaps(boxes, image_shape, levels, anchor_scale):
    """The intersection over union of each box with the anchor that is nearest to it.

    Args:
        boxes: (n, 4) [top, left, bottom, right] in pixels of the images that the detector sees.
        image_shape: (H, W, ...) of those.
        levels, anchor_scale: see `RetinaNet`.

    Returns:
        (n,) float64.
    """
    boxes = np.asarray(boxes, "float64")
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    best = np.zeros(len(boxes))
    for stride, sizes in zip(*anchor_sizes(levels, anchor_scale), strict=True):
        # Of anchors of one size, none overlaps a box more than that with the nearest centre.
        last = np.array([-(-side // stride) - 1 for side in image_shape[:2]])
        nearest = (np.clip(np.floor(centres / stride), 0, last) + 0.5) * stride
        for size in sizes:
            for ratio in RATIOS:
                half = np.array([size * ratio**0.5, size / ratio**0.5]) / 2
                shared = np.minimum(nearest + half, boxes[:, 2:]) - np.maximum(nearest - half, boxes[:, :2])
                shared = np.prod(np.maximum(shared, 0), axis=1)
                best = np.maximum(best, shared / (np.prod(sides, axis=1) + size**2 - shared))
    return best


def without_anchor(boxes, labels, classes, image_shape, levels, anchor_scale):
    """The fraction of each class's boxes that no anchor overlaps by a half: (classes,), NaN for a class without any."""
    missed = best_overlaps(boxes, image_shape, levels, anchor_scale) < ENOUGH
    counts = np.bincount(labels, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, missed, minlength=classes) / counts


def choose(boxes, labels, classes, image_shape, levels=None, anchor_scale=None):
    """Choose levels and scale of anchors: the cheapest of `CHOICES` by which every class has about the anchors that it
    can have.

    Args:
        boxes, labels, classes, image_shape: see `without_anchor`. Without boxes it is the first choice.
        levels, anchor_scale: a value to keep, or None to choose it.

    Returns:
        (levels, anchor_scale).
    """
    choices = [(own, anchor_scale or scale) for own, scale in CHOICES if levels in (None, own)]
    if not len(boxes):
        return choices[0]
    worst = [np.nanmax(without_anchor(boxes, labels, classes, image_shape, *choice)) for choice in choices]
    return next(choice for choice, share in zip(choices, worst, strict=True) if share <= min(worst) + MARGIN)
