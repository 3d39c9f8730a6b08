"""Measure a classifier on labelled images, and draw its confusions and mistakes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_splitmask.backend.optional import optional
from keras_splitmask.backend.typing import Array, UInt8
from keras_splitmask.evaluation.segmentation import ConfusionMatrix
from keras_splitmask.evaluation.sheets import save_figure

MOST_CLASSES = 40  # in a picture of confusions
TILE = 1.7  # inches of a side of a picture of a mistake
LONGEST = 24  # characters of a name in a picture


def classification_metrics(
    labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: int, commonest: int | None = None
) -> dict[str, Any]:
    """Compute metrics of predicted classes.

    Args:
        labels: (B,) int, the true classes.
        predicted: (B,) int.
        classes: number of classes.
        commonest: class to compare with, such as that of most training images; by default that of most `labels`.

    Returns:
        A dictionary: "top1", the accuracy; "balanced_accuracy", the mean recall of the classes in `labels`; "recall"
        (classes,) float64, NaN for a class that is not in `labels`; "commonest_class_top1", the accuracy of always
        predicting `commonest`; and "confusion" (classes, classes) int64, [true, predicted].
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    # No class is called -1, so no image is ignored; for label maps that number is 255.
    matrix = ConfusionMatrix(classes, ignore=-1)
    matrix.add(labels, predicted)
    counts = matrix.counts.sum(axis=1)
    commonest = int(counts.argmax()) if commonest is None else commonest
    return {
        "top1": matrix.pixel_accuracy,
        "balanced_accuracy": matrix.mean_accuracy,
        "recall": np.where(counts > 0, np.diag(matrix.counts) / np.maximum(counts, 1), np.nan),
        "commonest_class_top1": float(np.mean(labels == commonest)),
        "confusion": matrix.counts,
    }


def save_confusion(path: str | os.PathLike, counts: npt.ArrayLike, class_names: Sequence[str], title: str = "") -> None:
    """Draw a confusion matrix as a PNG: a row is a true class, a column what was predicted for it.

    Cells are coloured by the fraction of the row and show the number of images. Of more than 40 classes, those with
    the most images missed or wrongly found are drawn.

    Args:
        path: file to write.
        counts: (classes, classes) int, [true, predicted].
        class_names: names of the classes.
        title: what it is of.

    Raises:
        ImportError: without matplotlib.
    """
    figure, axes = _figure()
    counts = np.asarray(counts)
    # A class that neither occurs nor is predicted would be an empty row.
    shown = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    if len(shown) > MOST_CLASSES:
        wrong = counts.sum(axis=1) + counts.sum(axis=0) - 2 * np.diag(counts)  # missed, and falsely found
        # In the order of the classes again, so that pictures of two runs can be compared.
        shown = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
        title = f"{title}: of {len(counts)} classes the {MOST_CLASSES} with most images missed or wrongly found"
    # Of all images of the class, those that are predicted as a class that is not drawn included.
    fractions = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
    side = max(4.0, 1.8 + 0.34 * len(shown))
    figure.set_size_inches(side + 1, side)
    drawn = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    # Only cells with images: forty classes make 1,600 cells.
    for row, column in np.argwhere(counts[np.ix_(shown, shown)]):
        colour = "white" if fractions[row, column] > 0.5 else "black"
        number = counts[shown[row], shown[column]]
        axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=7)
    names = [_short(class_names[int(i)]) for i in shown]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title, fontsize=10)
    figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02, label="fraction of the true class")
    save_figure(figure, path, format="png", dpi=120)


def save_mistakes(
    path: str | os.PathLike,
    images: UInt8[Array, "B H W C"],
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    class_names: Sequence[str],
    limit: int = 24,
    title: str = "",
) -> int:
    """Draw the images of the surest mistakes as a PNG, each with its true class, its predicted class and the score.

    Args:
        path: file to write.
        images: (B, H, W, C) uint8.
        labels: (B,) int, the true classes.
        scores: (B, classes) float, probabilities.
        class_names: names of the classes.
        limit: largest number of images.
        title: what it is of.

    Returns:
        The number of images drawn; without any mistake none, and no file is written.

    Raises:
        ImportError: without matplotlib.
    """
    optional("matplotlib", "report")
    labels, scores = np.asarray(labels), np.asarray(scores)
    predicted, best = scores.argmax(axis=1), scores.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-best[wrong], kind="stable")][:limit]
    if not len(chosen):
        return 0
    columns = min(6, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, _ = _figure(rows, columns)
    figure.set_size_inches(columns * TILE + 0.3, rows * (TILE + 0.55) + 0.4)
    for axes in figure.axes:
        # Also where the last row stays empty.
        axes.axis("off")
    for axes, i in zip(figure.axes, chosen, strict=False):
        shape = images.shape[-1]
        # Fixed limits: by default matplotlib would stretch the grey values of each image.
        axes.imshow(images[i] if shape == 3 else images[i][..., 0], cmap="gray", vmin=0, vmax=255)
        heading = f"{_short(class_names[labels[i]])}\n{_short(class_names[predicted[i]])} {best[i]:.0%}"
        axes.set_title(heading, fontsize=7, loc="left", pad=2)
    shown = f"the {len(chosen)} surest of {len(wrong)}" if len(chosen) < len(wrong) else f"{len(wrong)}"
    count = f"{shown} mistake{'s' * (len(wrong) > 1)}"
    figure.suptitle(f"{title}{count}; true class, then predicted class and score", fontsize=9, ha="left", x=0.01)
    save_figure(figure, path, format="png", dpi=120)
    return len(chosen)


def _figure(rows=1, columns=1):
    """A figure of matplotlib that no window and no other figure knows of, and its first axes."""
    optional("matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.ravel(figure.subplots(rows, columns))[0]


def _short(name):
    """A name that fits over a picture. A dollar sign would begin a formula."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return short.replace("$", r"\$")
