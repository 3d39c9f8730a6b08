import numpy as np
import pytest
from keras import ops

from keras_splitmask.patches import normalise, to_patches
from keras_splitmask.resampling import (
    change_channels,
    resample_patches,
    resample_relative_positions,
    resample_table,
    resampling_matrix,
)

pytestmark = pytest.mark.backend


def tokens(images, kernel, bias, patch_size):
    """In float64: images (B, H, W, C) to (B, N, D)."""
    patches = ops.convert_to_numpy(to_patches(normalise(images), patch_size)).astype("float64")
    return patches @ kernel.astype("float64") + bias


def test_lines_are_resized_as_worked_out_by_hand():
    expected = [
        [1, 0],
        [3 / 4, 1 / 4],
        [1 / 4, 3 / 4],
        [0, 1],
    ]  # the new centres lie at -1/4, 1/4, 3/4 and 5/4 of the old pixels
    np.testing.assert_allclose(resampling_matrix(2, 4, "bilinear"), expected, atol=1e-7)
    expected = [
        [3 / 7, 3 / 7, 1 / 7, 0],
        [0, 1 / 7, 3 / 7, 3 / 7],
    ]  # a triangle of twice the width: 3/4, 3/4, 1/4 of 7/4
    np.testing.assert_allclose(resampling_matrix(4, 2, "bilinear"), expected, atol=1e-7)
    for method in ("bilinear", "bicubic"):
        for old, new in ((14, 9), (3, 5), (1, 4), (6, 1)):
            matrix = resampling_matrix(old, new, method)
            assert matrix.shape == (new, old)
            np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
            np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)
        np.testing.assert_array_equal(resampling_matrix(7, 7, method), np.eye(7))


def test_a_table_of_the_same_grid_is_the_same(rng):
    table = rng.standard_normal((15, 4), "float32")
    assert resample_table(table, (3, 5), [3, 5]) is table
    assert resample_table(table, (3, 5), (5, 3)).shape == (15, 4)  # as many patches, but another grid


@pytest.mark.parametrize("new", [(6, 10), (2, 3), (3, 9), (7, 2)])
def test_a_constant_table_stays_constant_and_directions_stay_apart(new):
    table = np.full((15, 2), 0.3, "float32")
    resized = resample_table(table, (3, 5), new)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, np.full((new[0] * new[1], 2), 0.3), rtol=1e-6)
    rows, columns = np.meshgrid(np.arange(3.0), np.arange(5.0), indexing="ij")
    places = np.stack([rows, columns], axis=-1).reshape(15, 2).astype("float32")
    row, column = np.moveaxis(resample_table(places, (3, 5), new).reshape(*new, 2), -1, 0)
    np.testing.assert_allclose(row, row[:, :1].repeat(new[1], axis=1), atol=1e-5)
    np.testing.assert_allclose(column, column[:1].repeat(new[0], axis=0), atol=1e-5)
    assert (np.diff(row[:, 0]) > 0).all() and (np.diff(column[0]) > 0).all()


def test_a_smooth_table_comes_back_from_a_finer_grid():
    rows, columns = np.meshgrid(np.arange(8), np.arange(12), indexing="ij")
    table = np.stack([np.sin(rows / 3), np.cos(columns / 4)], axis=-1).reshape(96, 2).astype("float32")
    finer = resample_table(table, (8, 12), (16, 24))
    np.testing.assert_allclose(resample_table(finer, (16, 24), (8, 12)), table, atol=0.05)


def test_relative_positions_are_resized_as_distances(rng):
    """Distances stay where they are in the image, and the rows of cls as they are."""
    table = rng.standard_normal((5 * 9 + 3, 4), "float32")
    assert resample_relative_positions(table, (3, 5), [3, 5]) is table
    down, right = np.meshgrid(np.arange(-2.0, 3), np.arange(-4.0, 5), indexing="ij")
    table[:-3, :2] = np.stack([down, right], axis=-1).reshape(-1, 2)
    finer = resample_relative_positions(table, (3, 5), (6, 10))
    assert finer.shape == (11 * 19 + 3, 4) and finer.dtype == np.float32
    np.testing.assert_array_equal(finer[-3:], table[-3:])
    new_down, new_right = np.moveaxis(finer[:-3, :2].reshape(11, 19, 2), -1, 0)
    # Two new patches are nearly as far apart as one old one; at the edge there is nothing further.
    np.testing.assert_allclose(new_down[:, 0], np.clip(np.arange(-5, 6) * 5 / 11, -2, 2), atol=1e-5)
    np.testing.assert_allclose(new_right[0], np.clip(np.arange(-9, 10) * 9 / 19, -4, 4), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(4, 8), (4, 6), (2, 16)])
def test_a_patch_resized_to_more_pixels_keeps_its_token(rng, old, new):
    kernel = rng.standard_normal((old * old * 2, 5), "float32")
    resized = resample_patches(kernel, old, new)
    assert resized.shape == (new * new * 2, 5) and resized.dtype == np.float32
    patch = rng.random((old, old, 2))
    matrix = resampling_matrix(old, new, "bilinear")
    larger = np.einsum("ri,cj,ijk->rck", matrix, matrix, patch)
    np.testing.assert_allclose(larger.reshape(-1) @ resized, patch.reshape(-1) @ kernel, rtol=1e-4, atol=1e-4)
    assert resample_patches(kernel, old, old) is kernel


def test_a_patch_resized_to_fewer_pixels_keeps_the_token_of_what_is_smooth(rng):
    """Of random weights, those that look at what smaller patches can hold."""
    matrix = resampling_matrix(8, 4, "bilinear")
    small = rng.standard_normal((4, 4, 1, 5))
    kernel = np.einsum("ri,cj,rckd->ijkd", matrix, matrix, small).reshape(64, 5).astype("float32")
    patch = rng.random((8, 8, 1))
    smaller = np.einsum("ri,cj,ijk->rck", matrix, matrix, patch)
    np.testing.assert_allclose(
        smaller.reshape(-1) @ resample_patches(kernel, 8, 4), patch.reshape(-1) @ kernel, rtol=1e-4
    )


@pytest.mark.parametrize(("old", "new"), [(3, 1), (1, 3), (3, 5), (2, 4), (5, 3)])
def test_images_of_equal_channels_keep_their_tokens_at_another_depth(rng, make_images, old, new):
    grey = make_images(2, (8, 12, 1))
    kernel, bias = rng.standard_normal((16 * old, 6), "float32"), rng.standard_normal(6, "float32")
    changed, new_bias = change_channels(kernel, bias, old, new)
    assert changed.shape == (16 * new, 6) and changed.dtype == new_bias.dtype == np.float32
    before = tokens(grey.repeat(old, axis=-1), kernel, bias, 4)
    np.testing.assert_allclose(tokens(grey.repeat(new, axis=-1), changed, new_bias, 4), before, rtol=1e-4, atol=1e-4)
    each = changed.reshape(16, new, 6)
    if new != 3:  # whose channels are normalised by numbers of their own
        np.testing.assert_array_equal(each, each[:, :1].repeat(new, axis=1))
    assert change_channels(kernel, bias, old, old)[0] is kernel and change_channels(kernel, bias, old, old)[1] is bias


def test_a_matrix_that_would_take_all_memory():
    for old, new in ((8192, 8), (8, 65536)):
        with pytest.raises(ValueError, match=f"lines of at most 4096 numbers, received {old} to {new}"):
            resampling_matrix(old, new, "bilinear")
