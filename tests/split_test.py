import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.split import RECTANGLES, Split, gather, masked_count, words_at
from keras_splitmask.tokenizers import RandomProjection

pytestmark = pytest.mark.backend

GRIDS = [(7, 7), (3, 5), (14, 14), (1, 9)]
DRAWS = 2000


def draw(split, count=DRAWS):
    return ops.convert_to_numpy(split(np.zeros((count, 1), "float32")))


def branch_of_patch(split, order):
    """(draws, rows, columns): 0 and 1 for the branch that sees a patch, 2 for neither."""
    n = split.seen_count
    owner = np.full(order.shape, 2)
    np.put_along_axis(owner, order[:, :n], 0, axis=1)
    np.put_along_axis(owner, order[:, n : 2 * n], 1, axis=1)
    return owner.reshape(-1, *split.grid)


@pytest.mark.parametrize("kind", ["random", "block"])
@pytest.mark.parametrize("keep", [0.5, 0.25])
@pytest.mark.parametrize("grid", GRIDS)
def test_halves_have_exactly_n_patches_and_are_disjoint(grid, keep, kind):
    split = Split(grid, keep, kind)
    order = draw(split)
    count = grid[0] * grid[1]
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(count), (DRAWS, 1)))
    assert split.seen_count == math.floor(count * keep)
    owner = branch_of_patch(split, order).reshape(DRAWS, -1)
    assert ((owner == 0).sum(axis=1) == split.seen_count).all()
    assert ((owner == 1).sum(axis=1) == split.seen_count).all()
    if keep == 0.5:
        assert ((owner == 2).sum(axis=1) == count % 2).all()


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_seen_and_unseen_of_a_branch_are_complements(keep):
    split = Split((3, 5), keep)
    order = ops.convert_to_tensor(draw(split, 50))
    seen, unseen = ops.convert_to_numpy(split.seen(order)), ops.convert_to_numpy(split.unseen(order))
    n = split.seen_count
    assert seen.shape == (100, n) and unseen.shape == (100, 15 - n)
    both = np.concatenate([seen, unseen], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(15), (100, 1)))
    for i in (0, 49):  # rows 2i and 2i + 1 are the halves of image i
        np.testing.assert_array_equal(seen[2 * i], ops.convert_to_numpy(order)[i, :n])
        np.testing.assert_array_equal(seen[2 * i + 1], ops.convert_to_numpy(order)[i, n : 2 * n])


def test_every_image_and_every_call_has_its_own_split():
    split = Split((14, 14), kind="random")
    first, second = draw(split, 20), draw(split, 20)
    assert len(np.unique(np.concatenate([first, second]), axis=0)) == 40
    np.testing.assert_array_equal(draw(Split((14, 14), kind="random"), 20), first)
    assert (draw(Split((14, 14), kind="random", seed=1), 20) != first).any()


def test_every_patch_is_seen_as_often_as_any_other_in_random_splits():
    split = Split((7, 7), 0.25, "random")
    shares = (branch_of_patch(split, draw(split)) == 0).mean(axis=0)
    deviation = math.sqrt(12 / 49 * 37 / 49 / DRAWS)
    np.testing.assert_allclose(shares, 12 / 49, atol=5 * deviation)


def test_block_splits_prefer_the_middle_as_much_as_beits():
    split = Split((14, 14), 0.5, "block")
    owner = branch_of_patch(split, draw(split))
    shares = (owner == 0).mean(axis=0)
    np.testing.assert_allclose(shares.mean(), 1 / 2)
    # Rectangles meet the middle more often than the corners. BEiT's own generator at 98 of 196, drawn 3000 times,
    # covers the rarest patch in 5.6% of the images and the commonest in 83.4%.
    np.testing.assert_allclose([shares.min(), shares.max()], [0.056, 0.834], atol=0.04)
    np.testing.assert_allclose(shares, shares[::-1, ::-1], atol=5 * math.sqrt(2 / 4 / DRAWS))


def same_branch_neighbours(kind):
    split = Split((14, 14), 0.5, kind)
    owner = branch_of_patch(split, draw(split))
    beside = (owner[:, :, 1:] == owner[:, :, :-1]).mean()
    below = (owner[:, 1:] == owner[:, :-1]).mean()
    return (beside + below) / 2


def test_block_splits_keep_neighbours_together():
    by_chance = 97 / 195  # of the other 195 patches, 97 are in the same half
    np.testing.assert_allclose(same_branch_neighbours("random"), by_chance, atol=0.01)
    # A half made of three squares of 6x6 parts 3 * 24 of the grid's 364 pairs of neighbours.
    assert same_branch_neighbours("block") > 1 - 2 * (3 * 24) / 364


@pytest.mark.parametrize("grid", [(14, 14), (28, 28)])
def test_blocks_are_rectangles_of_beits_sizes(grid):
    split = Split(grid)
    ranks = ops.convert_to_numpy(ops.broadcast_to(split._block_ranks(DRAWS), (DRAWS, split.count))).reshape(-1, *grid)
    scale = split.count / 196
    areas, aspects = [], []
    for first in ranks == 0:
        rows, columns = np.flatnonzero(first.any(axis=1)), np.flatnonzero(first.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert first.sum() == height * width
        areas.append(height * width / scale)
        aspects.append(height / width)
    # Sides are rounded to whole patches and cut to the grid, hence the slack of half a patch on the longer side.
    slack = 0.5 * math.sqrt(75 / 0.3) / math.sqrt(scale)
    assert min(areas) > 16 - slack and max(areas) < 75 + slack
    np.testing.assert_allclose(np.mean(areas), (16 + 75) / 2, atol=2)
    assert min(aspects) < 0.4 and max(aspects) > 1 / 0.4
    np.testing.assert_allclose(np.mean(np.log(aspects)), 0, atol=0.1)


def test_rectangles_nearly_always_cover_a_half():
    split = Split((14, 14))
    uncovered = ops.convert_to_numpy(split._block_ranks(4000)) == RECTANGLES
    assert (uncovered.mean(axis=1) > 0.5).mean() < 1 / 1000


def test_gather_takes_rows_by_position():
    tokens = np.arange(2 * 4 * 3, dtype="float32").reshape(2, 4, 3)
    positions = np.array([[3, 0], [1, 1]], "int32")
    expected = [[tokens[0, 3], tokens[0, 0]], [tokens[1, 1], tokens[1, 1]]]
    np.testing.assert_array_equal(ops.convert_to_numpy(gather(tokens, positions)), expected)
    np.testing.assert_array_equal(ops.convert_to_numpy(gather(tokens[..., 0], positions)), np.array(expected)[..., 0])


@pytest.mark.parametrize("keep", [0, -0.5, 0.51, 1])
def test_keep_outside_of_0_to_a_half(keep):
    with pytest.raises(ValueError, match=rf"to be a number above 0 and up to 0.5, received {keep};"):
        Split((4, 4), keep)


def test_other_errors():
    with pytest.raises(ValueError, match="received 'blocks'"):
        Split((4, 4), kind="blocks")
    with pytest.raises(
        ValueError,
        match="at least one patch per branch, received keep=0.25 of 3 patches; choose a smaller patch_size, or raise",
    ):
        Split((1, 3), 0.25)


def test_config_round_trip_and_output_shape():
    split = Split((3, 5), 0.25, "random", seed=7, name="other")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(split))
    assert again.get_config() == split.get_config()
    assert (tuple(again.grid), again.keep, again.kind, again.seed) == ((3, 5), 0.25, "random", 7)
    assert split.compute_output_shape((None, 12, 20, 3)) == (None, 15)


def test_masked_count():
    assert [masked_count(count, 0.4) for count in (196, 15, 5, 4, 3)] == [78, 6, 2, 1, 1]
    assert [masked_count(count, 0.75) for count in (196, 16, 15, 2)] == [147, 12, 11, 1]
    for mask_ratio in (0, -0.5, 0.1, 1, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"received mask_ratio={mask_ratio} of 4 patches"):
            masked_count(4, mask_ratio)


@pytest.mark.parametrize("by_patch, count", [(True, 3), (True, 8), (False, 3)])
def test_words_are_made_of_the_patches_at_positions_alone_where_the_tokenizer_can(make_images, by_patch, count):
    tokenizer, asked = RandomProjection((8, 16, 3), 4, 64), []
    tokenizer.by_patch, words = by_patch, tokenizer.call
    tokenizer.call = lambda images, **given: asked.append(given) or words(images, **given)
    images = make_images(2, (8, 16, 3))
    positions = np.stack([np.arange(8)[:count], np.arange(8)[::-1][:count]]).astype("int32")
    found = ops.convert_to_numpy(words_at(tokenizer, images, positions))
    assert bool(asked[0]) == (by_patch and count < 8)
    np.testing.assert_array_equal(found, np.take_along_axis(ops.convert_to_numpy(words(images)), positions, axis=1))
