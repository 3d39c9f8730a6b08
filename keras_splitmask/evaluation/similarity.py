"""Compare images by their features: near-duplicates, outliers and the most similar images.

Similarity is the cosine of two feature vectors, centred and scaled as `standardise` does. Blocks of the matrix of all
pairs are computed one after the other, so that 100,000 images need no more memory than their features and one block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from keras_splitmask.backend.typing import Array, Float, Int
from keras_splitmask.evaluation.neighbours import standardise

BLOCK = 1 << 24  # similarities that are computed at once, 64 MB
FEWEST = 16  # images; of fewer, mean and standard deviation say little, and vectors are compared as they are


def directions(features: npt.ArrayLike, *others) -> Any:
    """Prepare features (N, D) for comparison: (N, D) float32 of length 1; and others (M, D) likewise.

    The mean and the standard deviation are those of the first. With fewer than 16 images they are not used.
    """
    vectors = [np.asarray(x, "float32") for x in (features, *others)]
    if len(vectors[0]) >= FEWEST:
        vectors = standardise(*vectors)
    vectors = [_unit(x) for x in vectors]
    return vectors if others else vectors[0]


def _unit(vectors):
    """Vectors (N, D) at length 1. Zeros, as of images that are all the same, become one direction."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > 0, vectors / np.maximum(lengths, 1e-30), vectors.shape[1] ** -0.5).astype("float32")


def _blocks(rows, columns):
    """Yield the first row and the similarities (n, M) of some rows (N, D) to all columns (M, D)."""
    step = max(1, BLOCK // max(1, len(columns)))
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step] @ columns.T


def near_duplicates(
    vectors: Float[Array, "N D"], threshold: float
) -> tuple[list[list[int]], Int[Array, " N"], Float[Array, " N"]]:
    """Group images whose similarity is `threshold` or more. Of a chain of such pairs all are in one group.

    Args:
        vectors: (N, D), see `directions`.
        threshold: least cosine, up to 1.

    Returns:
        The groups, a list of lists of indices in order, largest first; and for each image the index of the most similar
        other image (N,) and that similarity (N,) float32.
    """
    count = len(vectors)
    group = np.arange(count)  # the smallest index in the group of each image
    nearest, best = np.zeros(count, int), np.full(count, -np.inf, "float32")
    for start, block in _blocks(vectors, vectors):
        rows = np.arange(len(block))
        block[rows, start + rows] = -np.inf  # each image is not its own duplicate
        nearest[start + rows], best[start + rows] = block.argmax(axis=1), block.max(axis=1)
        for row in np.flatnonzero(best[start + rows] >= threshold):
            # All groups that these images are in become one, named by its smallest index; `np.unique` sorts.
            joined = np.unique(group[np.append(np.flatnonzero(block[row] >= threshold), start + row)])
            if len(joined) > 1:
                group[np.isin(group, joined)] = joined[0]
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if count else []
    groups = sorted((part.tolist() for part in parts if len(part) > 1), key=len, reverse=True)
    # Rounding may give a cosine above 1.
    return groups, nearest, np.minimum(best, 1)


def oddness(vectors: Float[Array, "N D"], k: int = 10) -> Float[Array, " N"]:
    """Mean distance, 1 - cosine, of each image to its k nearest neighbours: (N,) float32. Outliers have the largest.

    Raises:
        ValueError: if there are fewer than two images.
    """
    k = min(k, len(vectors) - 1)
    if k < 1:
        raise ValueError(f"Expected at least two images and one neighbour, received {len(vectors)} images; add some.")
    odd = np.empty(len(vectors), "float32")
    for start, block in _blocks(vectors, vectors):
        rows = np.arange(len(block))
        block[rows, start + rows] = -np.inf  # no image is its own neighbour
        # The k largest in any order: their mean needs no sort.
        odd[start + rows] = 1 - np.partition(block, -k, axis=1)[:, -k:].mean(axis=1)
    return odd


def most_similar(
    vectors: Float[Array, "N D"], query: Float[Array, "Q D"], count: int
) -> tuple[Int[Array, "Q _"], Float[Array, "Q _"]]:
    """Find the images that are most similar to each query.

    Args:
        vectors: (N, D), see `directions`.
        query: (Q, D), likewise.
        count: number of images to find; at most N are.

    Returns:
        Their indices (Q, count), the most similar first, and similarities (Q, count).
    """
    count = min(count, len(vectors))
    indices, similarities = [], []
    for _, block in _blocks(query, vectors):
        order = np.argsort(-block, axis=1, kind="stable")[:, :count]
        indices.append(order)
        similarities.append(np.take_along_axis(block, order, axis=1))
    return np.concatenate(indices), np.minimum(np.concatenate(similarities), 1)
