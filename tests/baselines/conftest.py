"""Small baselines, by default on images of 12x20 pixels: 15 patches, a grid that is not square and a count that is
odd."""

import keras
import pytest

import keras_splitmask as ks


def compiled(model, optimizer):
    """By default a model steps in the way that starts soonest."""
    eagerly = keras.backend.backend() != "jax"
    model.compile(optimizer=optimizer, run_eagerly=eagerly, jit_compile=not eagerly)
    return model


@pytest.fixture
def make_beit(make_encoder):
    def make(optimizer="sgd", image_shape=(12, 20, 3), vocabulary=32, depth=1, width=16, drop_path=0.0, **kwargs):
        encoder = make_encoder(image_shape, depth=depth, width=width, drop_path=drop_path)
        tokenizer = kwargs.pop("tokenizer", None) or ks.tokenizers.RandomProjection(image_shape, 4, vocabulary)
        return compiled(ks.baselines.BEiT(encoder, tokenizer, **kwargs), optimizer)

    return make


@pytest.fixture
def make_mae(make_encoder):
    def make(optimizer="sgd", image_shape=(12, 20, 3), depth=1, width=16, drop_path=0.0, **kwargs):
        encoder = make_encoder(image_shape, depth=depth, width=width, drop_path=drop_path)
        return compiled(ks.baselines.MAE(encoder, **{"decoder_depth": 1, **kwargs}), optimizer)

    return make


@pytest.fixture(params=["beit", "mae"])
def make_baseline(request):
    """Both in turn, for what they have in common."""
    return request.getfixturevalue(f"make_{request.param}")
