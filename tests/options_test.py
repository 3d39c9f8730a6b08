import keras
import numpy as np
import pytest

import keras_splitmask as ks
from keras_splitmask.options import LARGEST_SEED, check_seed


@pytest.mark.parametrize(
    "seed", [-1, 2**31, 5_000_000_000, 2**64, 0.5, float("nan"), float("inf"), "1", None, True, np.int64(-3)]
)
def test_invalid_seeds_are_refused_in_one_line(seed):
    with pytest.raises(ValueError, match="^Expected a seed from 0 to 2147483647, received [^\n]*; choose another.$"):
        check_seed(seed)


@pytest.mark.parametrize("seed", [0, 1, LARGEST_SEED, np.uint32(7), np.int64(7), 7.0])
def test_a_seed_is_an_int(seed):
    assert check_seed(seed) == seed and type(check_seed(seed)) is int


def build(seed):
    """Everything that a seed enters, by name: functions that make it."""
    encoder = ks.Encoder.from_size("vit_micro", (8, 8, 3), 4)
    tokenizer = ks.tokenizers.RandomProjection((8, 8, 3), 4, 8, seed=seed if seed == LARGEST_SEED else 0)
    return {
        "splitmask": lambda: ks.SplitMask(encoder, tokenizer, seed=seed),
        "mae": lambda: ks.baselines.MAE(encoder, seed=seed),
        "split": lambda: ks.split.Split((2, 2), seed=seed),
        "augmentation": lambda: ks.augment.preset("beit", seed)[1],
        "tokenizer": lambda: ks.tokenizers.KMeans((8, 8, 3), 4, 8, seed=seed),
        "drop path": lambda: ks.encoder.DropPath(0.1, seed=seed),
    }


@pytest.mark.backend
def test_the_largest_seed_works_and_a_larger_one_is_refused_at_the_door(monkeypatch):
    monkeypatch.setitem(ks.encoder.SIZES, "vit_micro", (16, 1, 2))
    images = np.random.default_rng(0).random((4, 8, 8, 3)).astype("float32")
    made = {name: make() for name, make in build(LARGEST_SEED).items()}
    for name in ("augmentation", "drop path"):
        assert np.isfinite(keras.ops.convert_to_numpy(made[name](images, training=True))).all()
    model = made["splitmask"]
    model.compile("sgd", run_eagerly=keras.backend.backend() != "jax")
    assert np.isfinite(model.fit(images, batch_size=4, verbose=0, shuffle=False).history["loss"]).all()
    for make in build(-1).values():
        with pytest.raises(ValueError, match="Expected a seed from 0 to 2147483647, received -1"):
            make()
