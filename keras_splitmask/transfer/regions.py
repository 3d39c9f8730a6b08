"""Regions of interest: which of many candidates to learn from, what a pyramid holds inside them, and the masks that
belong there."""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_splitmask.backend.typing import Array, Bool, Float, Int, Num
from keras_splitmask.transfer import boxes
from keras_splitmask.transfer.pyramid import STRIDES

CANONICAL = 224  # side of a region that is looked at on P4 (Lin et al., 2017, equation 1)


def sample(
    kind: Int[Array, "B n"], keys: Float[Array, "B n"], count: int, quota: int
) -> tuple[Int[Array, "B m"], Bool[Array, "B m"]]:
    """Draw `count` candidates at random, at most `quota` of them for objects.

    Args:
        kind: (B, n) int32, +1 for an object, 0 for background; others are not drawn.
        keys: (B, n) float32 in 0..1, random.
        count, quota: ints.

    Returns:
        Their indices (B, count) int32, objects first, and whether each is valid (B, count) bool.
    """
    objects, best = ops.where(kind > 0, keys, -1.0), min(quota, keys.shape[1])
    least = boxes.top(objects, best)[0][:, -1:]  # of the chosen objects (B, 1); -1 if there is room for all
    # From 2 up, so that the chosen objects come before all background, whose keys are at most 1.
    keys = ops.where((kind > 0) & (keys >= least), 2.0 + keys, ops.where(kind == 0, keys, -1.0))
    keys, chosen = boxes.top(keys, min(count, keys.shape[1]))
    return ops.cast(chosen, "int32"), keys >= 0


def levels_of(regions: Float[Array, "B R 4"]) -> Int[Array, "B R"]:
    """The level of the pyramid to look at for regions (B, R, 4): 0 for P2 to 3 for P5, (B, R) int32."""
    # Equation 1 of Lin et al., 2017: 4 + log2(side / 224), rounded down and kept within P2 to P5.
    side = ops.sqrt(ops.maximum(boxes.area(regions), 1e-6))
    return (
        ops.cast(
            ops.clip(ops.floor(4 + ops.log(side / CANONICAL + 1e-6) / np.log(2.0).astype("float32")), 2, 5), "int32"
        )
        - 2
    )


def align(
    maps: dict[str, Float[Array, "B _ _ D"]], regions: Float[Array, "B R 4"], size: int, samples: int = 2
) -> Float[Array, "B R s s D"]:
    """RoIAlign (He et al., 2017, section 3): resample each region of a pyramid to size x size bins.

    Each bin is the mean of `samples` x `samples` points, at which the map is interpolated. Regions have no gradient.
    The points are added up one by one, which takes no more memory than the output.

    Args:
        maps: {"P2": (B, h, w, D), ...} of all of `STRIDES`.
        regions: (B, R, 4) in pixels of the image.
        size: int.

    Returns:
        (B, R, size, size, D), of the type of the maps.
    """
    regions = ops.stop_gradient(regions)
    count, levels = regions.shape[1], levels_of(regions)
    sides = [maps[level].shape[1:3] for level in STRIDES]
    # Where each level begins in the table below; the last number is its length, N.
    starts = np.cumsum([0] + [height * width for height, width in sides])
    # The maps of all levels as one table, so that one look-up serves regions of every level.
    flat = ops.concatenate(
        [
            ops.reshape(maps[level], (-1, height * width, maps[level].shape[-1]))
            for level, (height, width) in zip(STRIDES, sides, strict=True)
        ],
        axis=1,
    )
    images, dtype = ops.shape(flat)[0], flat.dtype
    # In float32, in which the points of a bin, and the gradients of all bins that share a point, are added up.
    flat = ops.cast(ops.reshape(flat, (-1, flat.shape[-1])), "float32")  # (B x N, D)

    def of_level(values, dtype):
        return ops.take(ops.convert_to_tensor(np.array(values, dtype)), levels)[..., None]  # (B, R, 1)

    height, width, stride = (
        of_level(values, "float32") for values in (*zip(*sides, strict=True), list(STRIDES.values()))
    )
    # Where the level of a region begins among the maps of all images: (B, R, 1).
    first = of_level(starts[:-1], "int32") + ops.reshape(ops.arange(images) * int(starts[-1]), (-1, 1, 1))
    # Bilinear interpolation is separable: for rows, and for columns, two pairs of indices and weights.
    # Each is (B, R, size x samples).
    rows, columns = (
        _lines(regions[..., i], regions[..., i + 2], stride, limit, size * samples)
        for i, limit in ((0, height), (1, width))
    )
    row_length = ops.cast(width, "int32")[..., None]
    answer = 0.0
    for row, row_share in rows:
        for column, column_share in columns:
            for i in range(samples**2):
                # One point of every bin: steps of `samples` take the same point of each.
                part = (
                    (slice(None), slice(None), slice(i // samples, None, samples)),
                    (
                        slice(None),
                        slice(None),
                        slice(i % samples, None, samples),
                    ),
                )
                places = (
                    first[..., None] + row[part[0]][..., :, None] * row_length + column[part[1]][..., None, :]
                )  # (B, R, size, size)
                share = row_share[part[0]][..., :, None] * column_share[part[1]][..., None, :] / samples**2
                points = ops.take(flat, ops.reshape(places, (-1,)), axis=0)  # (B R size size, D)
                answer += ops.reshape(points, (-1, count, size, size, flat.shape[-1])) * share[..., None]
    return ops.cast(answer, dtype)


def _lines(low, high, stride, limit, count):
    """`count` lines at even distances between `low` and `high` (B, R): twice the line of the map next to each, and the
    share that it has."""
    steps = (ops.arange(count, dtype="float32") + 0.5) / count
    # The centre of pixel i lies at i + 0.5.
    places = (low[..., None] + (high - low)[..., None] * steps) / stride - 0.5
    # A point beyond the map gets the value at its border.
    places = ops.minimum(ops.maximum(places, 0.0), limit - 1)  # (B, R, count)
    before = ops.floor(places)
    after = ops.minimum(before + 1, limit - 1)
    share = places - before
    return (ops.cast(before, "int32"), 1 - share), (ops.cast(after, "int32"), share)


def masks_in(
    regions: Float[Array, "B R 4"],
    objects: Float[Array, "B R 4"],
    masks: Num[Array, "B R S S"] | Bool[Array, "B R S S"],
    size: int,
) -> Float[Array, "B R s s"]:
    """The part of objects' masks that is in regions, at another resolution.

    Args:
        regions: (B, R, 4).
        objects: (B, R, 4), the box of the object that each region stands for.
        masks: (B, R, S, S), of the object inside its box.
        size: int.

    Returns:
        (B, R, size, size) float32, 0 or 1; 0 outside of the object's box.
    """
    side = masks.shape[-1]
    pixels, steps = ops.arange(side, dtype="float32"), (ops.arange(size, dtype="float32") + 0.5) / size

    def shares(i):
        """Compute the fraction of each line of the mask in each line of the output: (B, R, size, S)."""
        low, high = regions[..., i], regions[..., i + 2]
        start, length = objects[..., i], ops.maximum(objects[..., i + 2] - objects[..., i], 1e-3)
        # In cells of the mask, whose centres have whole numbers.
        places = (low[..., None] + (high - low)[..., None] * steps - start[..., None]) / length[..., None] * side - 0.5
        # Linear interpolation as a matrix: the weight of a line falls to 0 within one line.
        return ops.maximum(1 - ops.abs(places[..., None] - pixels), 0.0)

    # (B, R, size, S) @ (B, R, S, S) @ (B, R, S, size): rows first, then columns.
    found = shares(0) @ ops.cast(masks, "float32") @ ops.swapaxes(shares(1), -1, -2)
    return ops.cast(found >= 0.5, "float32")
