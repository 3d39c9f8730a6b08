import itertools

import numpy as np
import pytest

from keras_splitmask.data import batches, mixed_batches, read_all, subset_of
from keras_splitmask.data.arrays import ArraySource
from keras_splitmask.data.randomness import PURPOSES, generator
from keras_splitmask.options import LARGEST_SEED


def test_no_two_purposes_or_places_share_a_stream():
    """NumPy fills a short seed with zeros, so that its generators of (1, 2) and (1, 2, 0) are the same."""
    assert np.random.default_rng((1, 2)).random() == np.random.default_rng((1, 2, 0)).random()
    places = [place for length in range(4) for place in itertools.product((0, 1, 2), repeat=length)]
    keys = [(purpose, seed, *place) for purpose in PURPOSES for seed in (0, 1, LARGEST_SEED) for place in places]
    first = {generator(*key).bytes(16) for key in keys} | {np.random.default_rng(seed).bytes(16) for seed in (0, 1)}
    assert len(first) == len(keys) + 2
    assert generator("image", 3, 5, 7).bytes(16) == generator("image", np.uint32(3), np.int64(5), 7).bytes(16)


def test_the_order_of_an_epoch_is_not_the_crop_of_a_step(monkeypatch):
    """Every generator that a batch, an evaluation and a subset use is of its own purpose and place."""
    used = []

    def noted(purpose, seed, *place):
        used.append((purpose, seed, *place))
        return generator(purpose, seed, *place)

    for module in ("order", "pipeline", "reader", "subset", "sources"):
        monkeypatch.setattr(f"keras_splitmask.data.{module}.generator", noted)
    source = ArraySource(np.zeros((20, 9, 9, 3), "uint8"), np.arange(20) % 2)
    list(mixed_batches(source, (4, 4, 3), 10, {}, flip=True, seed=0, steps=3, workers=0))
    read_all(source, (4, 4, 3), limit=5)
    subset_of(source, "6", seed=0)
    assert {key[0] for key in used} == {"order", "image", "batch", "limit", "subset"}
    streams = {generator(*key).bytes(16) for key in used}
    assert len(streams) == len(set(used)) == 1 + 30 + 3 + 2 + 1 - (("order", 0, 1) not in used)


@pytest.mark.parametrize("seed", [-1, 2**31, 2**64])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    source = ArraySource(np.zeros((4, 4, 4), "uint8"))
    for use in (
        lambda: batches(source, (4, 4, 1), 2, seed=seed),
        lambda: subset_of(source, "2", seed),
        lambda: generator("order", seed),
    ):
        with pytest.raises(
            ValueError, match="^Expected a seed from 0 to 2147483647, received [^\n]*; choose another.$"
        ):
            use()


def test_the_largest_seed_works():
    source = ArraySource(np.random.default_rng(0).integers(256, size=(8, 9, 9), dtype="uint8"))
    one, other = (next(iter(batches(source, (4, 4, 1), 4, seed=seed, workers=0))) for seed in (LARGEST_SEED, 0))
    assert (one != other).any() and len(subset_of(source, "3", LARGEST_SEED)) == 3
