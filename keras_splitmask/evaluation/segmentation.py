"""Evaluate label maps by their overlap with the truth, and predict label maps of images of any size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from keras_splitmask.backend.typing import Array, Float, UInt8
from keras_splitmask.data.resizing import resize


class ConfusionMatrix:
    """Count pixels by true and predicted class over label maps, and compute metrics from the counts.

    As mmsegmentation counts: all pixels of all images together, without those that the truth ignores, whatever is
    predicted there; and a mean is over the classes for which the figure exists. ADE20K's own script differs in the IoU
    of a class that occurs nowhere: 0.

    Args:
        classes: how many there are.
        ignore: the number in the truth of pixels that do not count.

    Attributes:
        counts: (classes, classes) int64, [true, predicted]. The sum of two such matrices is that of both sets of
            images.
    """

    def __init__(self, classes: int, ignore: int = 255):
        self.classes = classes
        self.ignore = ignore
        self.counts = np.zeros((classes, classes), "int64")

    def add(self, truth: npt.ArrayLike, predicted: npt.ArrayLike) -> None:
        """Count the pixels of label maps, arrays of integers of one shape."""
        truth, predicted = np.asarray(truth), np.asarray(predicted)
        if truth.shape != predicted.shape:
            raise ValueError(
                f"Expected label maps of one shape, received {truth.shape} and {predicted.shape}; resize the"
                " prediction."
            )
        asked = truth != self.ignore
        for name, labels in (("predicted", predicted), ("true", truth[asked])):
            if not np.issubdtype(labels.dtype, np.integer) or (
                labels.size and not 0 <= labels.min() <= labels.max() < self.classes
            ):
                found = (
                    f"{labels.min()} to {labels.max()} of {labels.dtype}"
                    if labels.size
                    else f"an array of {labels.dtype}"
                )
                raise ValueError(
                    f"Expected {name} classes to be integers from 0 to {self.classes - 1}, received {found}; correct"
                    " them."
                )
        # One number for each pair of classes, so that one bincount fills the matrix.
        pairs = truth[asked].astype("int64") * self.classes + predicted[asked]
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)

    @property
    def iou(self) -> Float[Array, " K"]:
        """Intersection over union of each class (classes,) float64, NaN of those that are neither in the truth nor
        predicted."""
        # True plus predicted pixels, minus those that are counted twice.
        return _ratio(np.diag(self.counts), self.counts.sum(axis=0) + self.counts.sum(axis=1) - np.diag(self.counts))

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that are in the truth or predicted."""
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """Mean over the classes in the truth of the fraction of their pixels that are correct."""
        return _mean(_ratio(np.diag(self.counts), self.counts.sum(axis=1)))

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of all pixels that are correct."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))


def _ratio(part, whole):
    # `where` computes both of its values, and 0 / 0 would warn.
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def segment_whole(
    predict: Callable, image: UInt8[Array, "height width C"], image_shape: Sequence[int]
) -> UInt8[Array, "height width"]:
    """Predict a label map of an image in one pass, resized to the input of the model.

    Args:
        predict: maps images (B, H, W, C) uint8 to logits (B, H, W, classes) float32 NumPy.
        image: (height, width, C) uint8.
        image_shape: (H, W, ...) that `predict` takes.

    Returns:
        (height, width) uint8.
    """
    logits = predict(resize(image, image_shape[:2])[None])[0]  # (H, W, classes)
    return best_class(logits, image.shape[:2])


def segment_sliding(
    predict: Callable,
    image: UInt8[Array, "height width C"],
    image_shape: Sequence[int],
    stride: int | Sequence[int] | None = None,
    batch_size: int = 4,
) -> UInt8[Array, "height width"]:
    """Predict a label map of an image with overlapping windows, whose probabilities are averaged.

    The image is resized, its aspect kept, so that it just covers one window.

    Args:
        predict: maps images (B, H, W, C) uint8 to logits (B, H, W, classes) float32 NumPy; it always gets B =
            `batch_size` images.
        image: (height, width, C) uint8.
        image_shape: (H, W, ...) of a window.
        stride: between windows, in pixels, or one (rows, columns); two thirds of a window's sides by default. The last
            windows are moved inside.
        batch_size: windows at a time.

    Returns:
        (height, width) uint8.
    """
    window = tuple(image_shape[:2])
    strides = (
        tuple(max(1, side * 2 // 3) for side in window)
        if stride is None
        else tuple(np.broadcast_to(stride, 2).tolist())
    )
    if not all(1 <= step <= side for step, side in zip(strides, window, strict=True)):
        raise ValueError(
            f"Expected stride to be at least 1 and at most the window's {window}, received {stride}; correct it."
        )
    # Of both factors the larger: the other side then has room for more than one window.
    factor = max(side / given for side, given in zip(window, image.shape, strict=False))
    # Not less than a window: rounding may make the other side one pixel too short.
    sides = tuple(max(side, round(given * factor)) for side, given in zip(window, image.shape, strict=False))
    image, original = resize(image, sides), image.shape[:2]

    # The last window of a row or column ends at the border, so it may overlap more than the others.
    starts = (
        [*range(0, side - part, step), side - part] for side, part, step in zip(sides, window, strides, strict=True)
    )
    places = [
        tuple(slice(start, start + part) for start, part in zip(corner, window, strict=True))
        for corner in itertools.product(*starts)
    ]
    total: Array = None  # made when the number of classes is known
    looks = np.zeros((*sides, 1), "float32")  # how many windows show a pixel
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        full = batch + batch[-1:] * (batch_size - len(batch))  # of one shape, so that a compiling backend compiles once
        logits = predict(np.stack([image[place] for place in full]))  # (batch_size, H, W, classes)
        if first == 0:
            total = np.zeros((*sides, logits.shape[-1]), "float32")
        for place, of_window in zip(batch, logits, strict=False):
            total[place] += _softmax(of_window)
            looks[place] += 1
    total /= looks
    return best_class(total, original)


def _softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))  # the largest is 0, so no exponential overflows
    return shares / shares.sum(axis=-1, keepdims=True)


def best_class(logits: Float[Array, "H W classes"], size: Sequence[int]) -> UInt8[Array, "height width"]:
    """Find the class with the highest of the logits (H, W, classes), bilinearly resized to `size`: (*size) uint8.

    Row by row: all logits of a large image with many classes would take gigabytes.
    """
    if logits.shape[:2] == tuple(size):
        return logits.argmax(axis=-1).astype("uint8")
    (above, below, down), (left, right, across) = (
        _neighbours(*sides) for sides in zip(logits.shape, size, strict=False)
    )
    best = np.empty(size, "uint8")
    for i in range(size[0]):
        line = logits[above[i]] + (logits[below[i]] - logits[above[i]]) * down[i]  # (W, classes)
        start = line[left]  # (width, classes)
        best[i] = (start + (line[right] - start) * across[:, None]).argmax(axis=-1)
    return best


def _neighbours(old, new):
    """For each of `new` pixels of a line the two of `old` that it lies between, and how far towards the second."""
    # Pixel i has its centre at i + 1/2. So corners are not aligned, as in the heads' own resizing.
    places = np.clip((np.arange(new, dtype="float32") + 0.5) * (old / new) - 0.5, 0, old - 1)
    first = np.minimum(places.astype(int), max(old - 2, 0))
    return first, np.minimum(first + 1, old - 1), (places - first).astype("float32")
