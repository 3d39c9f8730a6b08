"""Draw a two-dimensional map of features, and the nearest neighbours of a few images."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keras_splitmask.backend.optional import optional
from keras_splitmask.backend.typing import Array, Float
from keras_splitmask.evaluation.overlays import palette
from keras_splitmask.evaluation.sheets import framed, save_figure, save_sheet, thumbnail
from keras_splitmask.evaluation.similarity import directions, most_similar

COLOURED = 12  # groups that have a colour of their own
LONGEST = 28  # characters of a group's name in the legend
SIDE = 120  # pixels of a picture of a neighbour


def principal_components(
    features: npt.ArrayLike, count: int = 2
) -> tuple[Float[Array, "N count"], Float[Array, " count"]]:
    """Project features (N, D) onto the directions in which they vary most.

    Returns:
        The projections (N, count) float64, zeros where there are fewer directions; and the fraction of the variance
        along each of them, (count,).
    """
    centred = np.asarray(features, "float64")
    centred = centred - centred.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centred, full_matrices=False)  # (N, r) and (r,), r = min(N, D)
    found = min(count, len(lengths))
    points, fractions = np.zeros((len(centred), count)), np.zeros(count)
    # The sign of a component is arbitrary, so the maps of two runs may be mirrored.
    points[:, :found] = left[:, :found] * lengths[:found]
    # The features of all images may be equal.
    fractions[:found] = lengths[:found] ** 2 / max(float((lengths**2).sum()), 1e-300)
    return points, fractions


def save_feature_map(path: str | os.PathLike, features: npt.ArrayLike, groups: Sequence[str] | None = None) -> None:
    """Draw features as points on their two principal components into a PNG file.

    Features are centred and scaled, and compared by their direction, as a kNN compares them.

    Args:
        path: file to write.
        features: (N, D) float.
        groups: (N,) names, such as labels or folders, that colour the points. The twelve most frequent ones have a
            colour, the others are grey.

    Raises:
        ImportError: without matplotlib.
    """
    optional("matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points, fractions = principal_components(directions(features))
    group_of = np.array(["images"] * len(points) if groups is None else list(groups), dtype=object)
    names = [name for name, _ in collections.Counter(group_of.tolist()).most_common(COLOURED)]
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    others = ~np.isin(group_of, names)
    # First, so that the coloured points lie above.
    if others.any():
        axes.scatter(*points[others].T, s=9, c="#b8b8b8", label=f"{len(set(group_of[others]))} other groups")
    for name, colour in zip(names, palette(len(names)) / 255, strict=True):
        axes.scatter(
            *points[group_of == name].T, s=18, color=colour, linewidth=0.3, edgecolor="#404040", label=_short(name)
        )
    labels = [f"principal component {i + 1}, {fraction:.0%} of the variance" for i, fraction in enumerate(fractions)]
    axes.set(xlabel=labels[0], ylabel=labels[1])
    coloured = "" if groups is None else ", coloured by class or folder"
    axes.set_title(f"Features of {len(points):,} images{coloured}. Near points are often similar images.", fontsize=10)
    axes.grid(alpha=0.25)
    if len(set(group_of)) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    save_figure(figure, path, format="png", dpi=110)


def save_neighbours(
    path: str | os.PathLike,
    images: np.ndarray,
    features: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    count: int = 6,
    nearest: int = 7,
) -> None:
    """Draw a few images, each with its nearest neighbours by the cosine of their features, into a PNG file.

    Args:
        path: file to write.
        images: (N, H, W, C) uint8.
        features: (N, D) float.
        groups: (N,) names, such as labels or folders, that are written below the pictures.
        count: number of images, of different groups if possible.
        nearest: number of neighbours.
    """
    vectors = directions(features)
    # Spread over the images, which may be sorted.
    order = list(range(0, len(images), max(1, len(images) // count)))
    if groups is not None and len(set(groups)) > 1:
        # In reverse: of the images of a group, the dictionary keeps the last that it is given.
        first = list({group: i for i, group in reversed(list(enumerate(groups)))}.values())[::-1]
        order = [*first[:: max(1, len(first) // count)], *order]
    chosen = list(dict.fromkeys(order))[:count]
    # One more, since every image is nearest to itself.
    indices, cosines = most_similar(vectors, vectors[chosen], nearest + 1)

    def cell(i, words):
        return thumbnail(images[i], SIDE), [words] + ([] if groups is None else [str(groups[i])])

    rows = []
    for i, found, near in zip(chosen, indices, cosines, strict=True):
        picture, words = cell(i, "image")
        # By its index, not as the first: a copy of the image may come before it.
        others = [(j, cosine) for j, cosine in zip(found, near, strict=True) if j != i][:nearest]
        rows.append([(framed(picture), words), *(cell(j, f"{cosine:.2f}") for j, cosine in others)])
    save_sheet(path, rows, title="Images, and their nearest neighbours with the cosine of the features")


def _short(name):
    """Shorten a name for a legend. A dollar sign would begin a formula, and an underscore hide the entry."""
    name = str(name) if len(str(name)) <= LONGEST else f"{str(name)[: LONGEST - 1]}…"
    return name.replace("$", r"\$").lstrip("_") or "?"
