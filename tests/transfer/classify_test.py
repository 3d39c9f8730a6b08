import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.training.optimizer import decays, layer_of


def weights_of(layer):
    return [ops.convert_to_numpy(w) for w in layer.weights]


def compiled(encoder, classes=4, rate=3e-3, **kwargs):
    model = ks.transfer.Classifier(encoder, classes, **kwargs)
    optimizer = ks.training.LayerwiseAdamW(rate, layer_decay=0.75, depth=encoder.depth, weight_decay=0.05)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], run_eagerly=keras.backend.backend() != "jax")
    return model


@pytest.mark.backend
def test_sixteen_images_are_learnt_by_heart(make_encoder, make_images):
    images, labels = make_images(16, (8, 8, 3)), np.arange(16) % 4
    model = compiled(make_encoder((8, 8, 3), depth=1), rate=1e-2)
    history = model.fit(images, labels, batch_size=16, epochs=25, shuffle=False, verbose=0).history
    assert history["loss"][0] == pytest.approx(np.log(4), abs=0.01)  # the head starts near zero
    assert (model.predict(images, verbose=0).argmax(axis=1) == labels).all()
    assert history["loss"][-1] < 0.3


@pytest.mark.backend
def test_frozen_means_bit_identical(make_encoder, make_images):
    images, labels = make_images(8), np.arange(8) % 4
    model = compiled(make_encoder(drop_path=0.5), frozen=True)
    encoder, head = weights_of(model.encoder), weights_of(model.head)
    assert len(model.trainable_variables) == 2
    expected = ops.convert_to_numpy(model(images, training=False))
    np.testing.assert_array_equal(ops.convert_to_numpy(model(images, training=True)), expected)  # nothing is dropped either
    model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert all((old == new).all() for old, new in zip(encoder, weights_of(model.encoder), strict=True))
    assert all((old != new).any() for old, new in zip(head, weights_of(model.head), strict=True))


@pytest.mark.backend
@pytest.mark.parametrize("frozen", [False, True])
def test_saved_and_loaded(make_encoder, make_images, tmp_path, frozen):
    model = ks.transfer.Classifier(make_encoder((8, 12, 5)), 3, frozen=frozen)
    model.head.kernel.assign(np.random.default_rng(0).standard_normal((16, 3)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config() and loaded.frozen == frozen and loaded.encoder.trainable != frozen
    images = make_images(2, (8, 12, 5))
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(images)), ops.convert_to_numpy(model(images)))
    encoder = ks.interchange.load_encoder(tmp_path / "model.keras")
    assert all((old == new).all() for old, new in zip(weights_of(model.encoder), weights_of(encoder), strict=True))


def test_logits_are_the_head_of_the_mean_patch(make_encoder, make_images):
    model, images = ks.transfer.Classifier(make_encoder(), 3), make_images(2)
    pooled = ops.convert_to_numpy(model.encoder(images)["feature_map"]).mean(axis=(1, 2))
    kernel, bias = weights_of(model.head)
    np.testing.assert_allclose(ops.convert_to_numpy(model(images)), pooled @ kernel + bias, atol=1e-6)


def test_logits_are_float32_in_mixed_precision(make_encoder, make_images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = ks.transfer.Classifier(make_encoder(), 3)
    assert keras.backend.standardize_dtype(model(make_images(2)).dtype) == "float32"
    assert keras.backend.standardize_dtype(model.encoder(make_images(2))["pooled"].dtype) == "bfloat16"


def test_every_weight_has_its_layer_and_its_decay(make_encoder):
    model = ks.transfer.Classifier(make_encoder(depth=3), 4)
    layers = {w.path: layer_of(w.path, 3) for w in model.trainable_variables}
    for path, layer in layers.items():
        block = re.search(r"block_(\d)/", path)
        expected = int(block[1]) if block else 4 if re.search(r"/(norm|head)/", path) else 0
        assert layer == expected, path
    assert {path.split("encoder/")[-1] for path, layer in layers.items() if layer == 0} == {
        "cls_token",
        "patch_embedding/positions",
        "patch_embedding/project/kernel",
        "patch_embedding/project/bias",
    }
    assert sorted(set(layers.values())) == [0, 1, 2, 3, 4]
    assert {path.rsplit("/", 1)[-1] for path in layers if decays(path)} == {"kernel"}
    assert all(decays(path) is not None for path in layers)


def test_one_class_is_refused(make_encoder):
    with pytest.raises(ValueError, match="Expected at least two classes, received classes=1"):
        ks.transfer.Classifier(make_encoder(), 1)
