import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.transfer import regions

pytestmark = pytest.mark.backend
SIDES = {"P2": (16, 20), "P3": (8, 10), "P4": (4, 5), "P5": (2, 3)}


def interpolated(x, row, column):
    """Of a map (h, w, D) at a place in pixels of the map, whose centres are at halves."""
    places = [min(max(place - 0.5, 0), side - 1) for place, side in zip((row, column), x.shape, strict=False)]
    answer = 0
    for i in (0, 1):
        for j in (0, 1):
            corner = [min(int(place) + k, side - 1) for place, k, side in zip(places, (i, j), x.shape, strict=False)]
            share = np.prod(
                [place - int(place) if k else 1 - (place - int(place)) for place, k in zip(places, (i, j), strict=True)]
            )
            answer = answer + share * x[tuple(corner)]
    return answer


def test_align_is_the_mean_of_points_in_each_bin(rng):
    maps = {level: rng.standard_normal((2, *side, 3)).astype("float32") for level, side in SIDES.items()}
    found = np.array(
        [[[3, 5, 40, 61], [0, 0, 7, 9], [10, 10, 10, 10]], [[-5, -5, 90, 99], [30, 2, 33, 70], [1, 1, 2, 2]]], "float32"
    )
    levels = ops.convert_to_numpy(regions.levels_of(ops.convert_to_tensor(found)))
    answer = ops.convert_to_numpy(
        regions.align({k: ops.convert_to_tensor(x) for k, x in maps.items()}, ops.convert_to_tensor(found), 3)
    )
    assert answer.shape == (2, 3, 3, 3, 3)
    for i, r, row, column in np.ndindex(2, 3, 3, 3):
        level = list(SIDES)[levels[i, r]]
        stride = 2 ** int(level[1])
        top, left, bottom, right = found[i, r] / stride
        points = [
            interpolated(maps[level][i], top + (bottom - top) * (row + a) / 3, left + (right - left) * (column + b) / 3)
            for a in (0.25, 0.75)
            for b in (0.25, 0.75)
        ]
        np.testing.assert_allclose(answer[i, r, row, column], np.mean(points, axis=0), atol=1e-5)


def test_points_of_half_precision_are_added_up_in_float32(rng):
    """The answer is that of float32, rounded once: within half of the last of 8 bits."""
    half = {
        level: ops.cast(ops.convert_to_tensor(rng.uniform(1, 2, (1, *side, 3)).astype("float32")), "bfloat16")
        for level, side in SIDES.items()
    }
    found = ops.convert_to_tensor(rng.uniform(0, 30, (1, 20, 4)).astype("float32"))
    answer = regions.align(half, found, 3)
    exact = regions.align({level: ops.cast(x, "float32") for level, x in half.items()}, found, 3)
    difference = ops.convert_to_numpy(ops.abs(ops.cast(answer, "float32") - exact))
    assert keras.backend.standardize_dtype(answer.dtype) == "bfloat16" and difference.max() <= 2**-8


def test_a_region_is_looked_at_on_the_level_of_its_size():
    sides = np.array([1, 111, 113, 223, 225, 447, 449, 5000], "float32")
    found = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1)[None]
    assert ops.convert_to_numpy(regions.levels_of(ops.convert_to_tensor(found))).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]


def test_samples_keep_their_quota_and_fill_up_with_background(rng):
    kind = np.full((3, 40), -1, "int32")
    kind[0, :20], kind[0, 20:35] = 1, 0  # too many objects
    kind[1, 3], kind[1, 10:15] = 1, 0  # too few of all
    kind[2, :40] = 0
    keys = rng.random((3, 40)).astype("float32")
    chosen, there = (
        ops.convert_to_numpy(x) for x in regions.sample(ops.convert_to_tensor(kind), ops.convert_to_tensor(keys), 12, 4)
    )
    kinds = np.where(there, np.take_along_axis(kind, chosen, axis=1), -9)
    assert kinds.tolist() == [[1] * 4 + [0] * 8, [1] + [0] * 5 + [-9] * 6, [0] * 12]
    assert all(len(set(row[ok])) == ok.sum() for row, ok in zip(chosen, there, strict=True))
    assert set(chosen[0, :4]) == set(np.argsort(-np.where(kind[0] > 0, keys[0], -1))[:4])


def test_masks_are_cut_to_regions():
    mask = np.zeros((4, 4), "uint8")
    mask[:, :2] = 1  # the left half of an object
    objects = np.array([[[10, 10, 18, 18]] * 4], "float32")
    found = np.array([[[10, 10, 18, 18], [10, 10, 18, 14], [10, 6, 18, 14], [30, 30, 40, 40]]], "float32")
    arguments = [ops.convert_to_tensor(x) for x in (found, objects, np.tile(mask, (1, 4, 1, 1)))]
    answer = ops.convert_to_numpy(regions.masks_in(*arguments, 4))
    left, right = [1, 1, 0, 0], [0, 0, 1, 1]
    assert answer[0].tolist() == [[left] * 4, [[1] * 4] * 4, [right] * 4, [[0] * 4] * 4]
