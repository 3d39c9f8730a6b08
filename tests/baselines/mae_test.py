import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.baselines.mae import decoder_size
from keras_splitmask.patches import IMAGENET_MEAN, IMAGENET_STD
from keras_splitmask.training.batch import Batch

pytestmark = pytest.mark.backend


def array(x):
    return ops.convert_to_numpy(x)


def patches(images):
    """(B, H, W, C) to (B, N, P) in 4x4 patches, by NumPy's own means."""
    batch, height, width, channels = images.shape
    split = images.reshape(batch, height // 4, 4, width // 4, 4, channels).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(batch, -1, 16 * channels)


def objective_told_again(model, images, order):
    """Image by image: encode what is left, decode, and compare with pixels of zero mean and unit deviation."""
    true, taken = patches((images / 255 - IMAGENET_MEAN) / IMAGENET_STD), []
    for i in range(len(images)):
        masked, seen = np.sort(order[i, : model.masked_count]), np.sort(order[i, model.masked_count :])
        tokens = model.encoder.encode(ops.convert_to_tensor(array(model.encoder.embed(images[i : i + 1]))[:, seen]))
        _, hidden = model.decoder(model.narrow(tokens), ops.convert_to_tensor(masked[None].astype("int32")))
        predicted = array(model.pixels(hidden))[0].astype("float64")
        target = true[i, masked]
        target = (target - target.mean(axis=1, keepdims=True)) / np.sqrt(target.var(axis=1, keepdims=True) + 1e-6)
        taken.append(((predicted - target) ** 2).mean())
    return np.mean(taken)


def test_the_objective_is_the_papers(make_mae, make_images, rng, monkeypatch):
    model, images = make_mae(decoder_depth=2), make_images(2, (12, 20, 3))
    order = rng.random((2, 15)).argsort(axis=1).astype("int32")
    monkeypatch.setattr(ks.Split, "call", lambda self, images: ops.convert_to_tensor(order))
    loss, report = model.objective(Batch(images), training=False)
    np.testing.assert_allclose(array(loss), objective_told_again(model, images, order), rtol=1e-4)
    assert report == {}


def test_a_quarter_is_seen_and_the_decoder_is_the_papers(make_mae):
    model = make_mae(width=48, depth=2, decoder_depth=None, image_shape=(16, 16, 1))
    assert (model.split.kind, model.split.count, model.masked_count) == ("random", 16, 12)
    assert (model.decoder.depth, model.decoder.width, model.decoder.heads) == (1, 32, 1)
    sizes = {name: decoder_size(depth, width) for name, (width, depth, _) in ks.encoder.SIZES.items()}
    assert sizes == {
        "vit_micro": (3, 96),
        "vit_tiny": (8, 128),
        "vit_small": (8, 256),
        "vit_base": (8, 512),
        "vit_large": (8, 512),
    }


def test_pixels_that_are_known_are_painted_as_they_are(make_mae, make_images, monkeypatch):
    """A decoder that says exactly what it should gives back the image and has no loss."""
    model, images = make_mae(), make_images(4, (12, 20, 3))
    order = np.tile(np.arange(15, dtype="int32")[::-1], (4, 1))
    monkeypatch.setattr(ks.Split, "call", lambda self, images: ops.convert_to_tensor(order))
    true = patches((images / 255 - IMAGENET_MEAN) / IMAGENET_STD)[:, ::-1][:, : model.masked_count]
    true = (true - true.mean(axis=2, keepdims=True)) / true.std(axis=2, keepdims=True)
    monkeypatch.setattr(model, "masked", lambda images, order, training=False: None)
    object.__setattr__(model, "pixels", lambda hidden: ops.convert_to_tensor(true.astype("float32")))
    np.testing.assert_allclose(float(model.objective(Batch(images), training=False)[0]), 0, atol=1e-6)
    np.testing.assert_allclose(array(model.paint(images, ops.convert_to_tensor(order))), images / 255, atol=1e-4)


def test_a_batch_is_memorised(make_mae, make_images, rng, monkeypatch):
    model = make_mae(keras.optimizers.Adam(3e-3), image_shape=(8, 12, 3), width=64, mask_ratio=0.5)
    model.compile(optimizer=model.optimizer, jit_compile=keras.backend.backend() == "jax")
    images, order = make_images(8, (8, 12, 3)), rng.random((8, 6)).argsort(axis=1).astype("int32")
    monkeypatch.setattr(
        ks.Split, "call", lambda self, images: ops.convert_to_tensor(order)
    )  # of 20 masks an image to remember, one
    first = model.train_on_batch(images, return_dict=True)["loss"]
    for _ in range(6):
        model.fit(np.tile(images, (40, 1, 1, 1)), batch_size=8, shuffle=False, verbose=0)
        last = model.evaluate(images, return_dict=True, verbose=0)["loss"]
        if last < 0.02:
            break
    assert first > 0.9 and last < 0.02


def test_errors(make_mae):
    for width in (48, 0):
        with pytest.raises(
            ValueError, match=f"Expected a decoder_width that is a multiple of 32, received decoder_width={width}"
        ):
            make_mae(decoder_width=width)
    with pytest.raises(ValueError, match="Expected the depth of a decoder to be a whole number from 1 to"):
        make_mae(decoder_depth=0)
    with pytest.raises(ValueError, match="received mask_ratio=0 of 15 patches"):
        make_mae(mask_ratio=0)
