"""Fit learned weights to images of another size: tables of positions and patch projections, resized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_splitmask.backend.typing import Array, Float
from keras_splitmask.patches import pixel_statistics

LONGEST = 4096  # the matrix of such a line takes 400 MB while it is computed


def resampling_matrix(old: int, new: int, method: str, antialias: bool = True) -> Float[Array, "new old"]:
    """The matrix (new, old) float64 that resizes a line of numbers; its rows sum to one.

    Args:
        method: "bilinear" or "bicubic".
        antialias: whether a shorter line is of weighted means of all old numbers, not only of the nearest.

    Raises:
        ValueError: if a line is longer than `LONGEST`.
    """
    if max(old, new) > LONGEST:
        raise ValueError(
            f"Expected to resize lines of at most {LONGEST} numbers, received {old} to {new}; take smaller images."
        )
    # The unit matrix is resized as one image, along its height. As `old` images of width 1, torch 2.13 would repeat the
    # first row.
    unit = np.eye(old, dtype="float32")[None, :, :, None]
    lines = ops.image.resize(unit, (new, old), method, antialias=antialias, data_format="channels_last")
    matrix = ops.convert_to_numpy(lines)[0, :, :, 0].astype("float64")
    return matrix / matrix.sum(axis=1, keepdims=True)


def resample_table(table: Float[Array, "N D"], old_grid: Sequence[int], new_grid: Sequence[int]) -> Float[Array, "M D"]:
    """Resize a position table (N, D) float32 from one grid (rows, columns) to another: bicubic, antialiased."""
    if tuple(old_grid) == tuple(new_grid):
        return table
    rows, columns = (resampling_matrix(old, new, "bicubic") for old, new in zip(old_grid, new_grid, strict=True))
    table = table.reshape(*old_grid, -1)  # (rows, columns, D)
    return (
        np.einsum("ri,cj,ijd->rcd", rows, columns, table, optimize=True).reshape(-1, table.shape[-1]).astype("float32")
    )


def resample_relative_positions(
    table: Float[Array, "L h"], old_grid: Sequence[int], new_grid: Sequence[int]
) -> Float[Array, "M h"]:
    """Resize a table of relative positions (L, heads) float32 from one grid (rows, columns) to another: bilinear, not
    antialiased, as `BeitModel` of Hugging Face does for images of another size."""
    if tuple(old_grid) == tuple(new_grid):
        return table
    old, new = ([2 * side - 1 for side in grid] for grid in (old_grid, new_grid))  # distances down, and to the right
    rows, columns = (resampling_matrix(*sides, "bilinear", antialias=False) for sides in zip(old, new, strict=True))
    # The last three rows are of cls, which has no distance.
    distances = np.einsum("ri,cj,ijh->rch", rows, columns, table[:-3].reshape(*old, -1), optimize=True)
    return np.concatenate([distances.reshape(-1, table.shape[-1]), table[-3:]]).astype("float32")


def resample_patches(kernel: Float[Array, "P D"], old_size: int, new_size: int) -> Float[Array, "Q D"]:
    """Resize the projection (P, D) float32 of patches from one side in pixels to another.

    By the pseudo-inverse of the bilinear resizing of a patch ("PI-resize" of FlexiViT, Beyer et al., 2023): if
    patches grow, a resized patch keeps its token exactly.
    """
    if old_size == new_size:
        return kernel
    # Where patches shrink it is the nearest there is. Measured on photographs with an untrained encoder: at twice the
    # size tokens differ by 4% of their deviation, at half the size by 24%, and pooled features correlate at 0.988.
    inverse = np.linalg.pinv(resampling_matrix(old_size, new_size, "bilinear"))  # (old, new)
    kernel = kernel.reshape(old_size, old_size, -1, kernel.shape[-1])  # (old, old, C, D)
    return (
        np.einsum("ir,jc,ijkd->rckd", inverse, inverse, kernel, optimize=True)
        .reshape(-1, kernel.shape[-1])
        .astype("float32")
    )


def change_channels(kernel, bias, old_count, new_count):
    """Convert a projection (P, D) and its bias (D,), float32, to another number of channels.

    Each new channel gets the sum of the old ones, divided by the number of new ones. So an image whose channels are all
    equal keeps its tokens exactly, such as a grey photograph read with three channels before and with one now.
    """
    if old_count == new_count:
        return kernel, bias
    (old_mean, old_std), (new_mean, new_std) = (pixel_statistics(count) for count in (old_count, new_count))
    # By way of the projection of pixels in 0..1, since the normalisation depends on the number of channels.
    # Per unit of a pixel in 0..1: x / std instead of x, and its mean moves into the bias.
    kernel = kernel.reshape(-1, old_count, kernel.shape[-1]) / old_std[:, None]  # (pixels, C, D)
    bias = bias - np.einsum("pcd,c->d", kernel, old_mean)
    kernel = np.repeat(kernel.sum(axis=1, keepdims=True) / new_count, new_count, axis=1)  # (pixels, C', D)
    bias = bias + np.einsum("pcd,c->d", kernel, new_mean)
    return (kernel * new_std[:, None]).reshape(-1, kernel.shape[-1]).astype("float32"), bias.astype("float32")
