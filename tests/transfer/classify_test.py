import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.training.optimizer import decays, layer_of

EAGERLY = keras.backend.backend() != "jax"


def weights_of(layer):
    return [ops.convert_to_numpy(w) for w in layer.weights]


def compiled(encoder, classes=4, rate=3e-3, run_eagerly=EAGERLY, **kwargs):
    model = ks.transfer.Classifier(encoder, classes, **kwargs)
    optimizer = ks.training.LayerwiseAdamW(rate, layer_decay=0.75, depth=encoder.depth, weight_decay=0.05)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], run_eagerly=run_eagerly)
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
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model(images, training=True)), expected
    )  # nothing is dropped either
    model.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert all((old == new).all() for old, new in zip(encoder, weights_of(model.encoder), strict=True))
    assert all((old != new).any() for old, new in zip(head, weights_of(model.head), strict=True))


@pytest.mark.backend
def test_freezing_is_the_classifiers_and_leaves_the_encoder_as_it_was(make_encoder):
    encoder = make_encoder(depth=1)
    names = [v.path for v in encoder.trainable_variables]
    frozen, open_ = (ks.transfer.Classifier(encoder, 3, frozen=frozen) for frozen in (True, False))
    assert [v.path for v in encoder.trainable_variables] == names and encoder.trainable
    assert len(frozen.trainable_variables) == len(frozen.trainable_weights) == 2 and len(frozen.variables) == len(
        open_.variables
    )
    assert len(open_.trainable_variables) == len(names) + 2
    encoder.trainable = False  # which is the caller's to decide
    assert len(ks.transfer.Classifier(encoder, 3).trainable_variables) == 2 and not encoder.trainable


@pytest.mark.backend
@pytest.mark.parametrize("frozen", [False, True])
def test_saved_and_loaded(make_encoder, make_images, tmp_path, frozen):
    model = ks.transfer.Classifier(make_encoder((8, 12, 5)), 3, frozen=frozen)
    model.head.kernel.assign(np.random.default_rng(0).standard_normal((16, 3)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (
        loaded.get_config() == model.get_config()
        and loaded.frozen == frozen
        and (len(loaded.trainable_variables) == 2) == frozen
    )
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


@pytest.mark.backend
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_batch_that_is_not_finite_changes_no_weight_and_no_metric(make_encoder, make_images, run_eagerly):
    if run_eagerly and keras.backend.backend() == "jax":
        pytest.skip("JAX takes a minute for an eager step.")
    images, labels = make_images(8, (8, 8, 3)) / np.float32(255), np.arange(8) % 4
    bad = images.copy()
    bad[3, 5, 5, 0] = np.nan
    model = compiled(make_encoder((8, 8, 3), depth=1), run_eagerly=run_eagerly)
    good = model.train_on_batch(images, labels, return_dict=True)
    state = [*model.trainable_variables, *(v for v in model.optimizer.variables if v is not model.optimizer.iterations)]
    before = [ops.convert_to_numpy(v) for v in state]
    logs = model.train_on_batch(bad, labels, return_dict=True)
    assert logs["skipped_steps"] == 1 and int(model.optimizer.iterations) == 2
    assert all((old == ops.convert_to_numpy(new)).all() for old, new in zip(before, state, strict=True))
    assert model.first_bad_tensor((bad, labels), 1) == "the images"
    model.optimizer.learning_rate = 0.0
    batches = ((x, labels) for x in (images, bad, images))
    logs = model.fit(batches, steps_per_epoch=3, verbose=0, shuffle=False).history
    again = model.train_on_batch(images, labels, return_dict=True)
    assert (
        logs["skipped_steps"] == [1]
        and logs["accuracy"] == [again["accuracy"]]
        and logs["loss"] == [pytest.approx(again["loss"], rel=1e-5)]
    )
    assert again["accuracy"] >= good["accuracy"]


@pytest.mark.backend
def test_labels_of_either_kind_with_a_loss_and_without(make_encoder, make_images):
    """The same step: by Keras' loss of these labels, by the default, and in parts; also with weights of images."""
    images, labels, weights = make_images(6, (8, 8, 3)), np.arange(6) % 3, np.array([1, 2, 0, 1, 1, 3], "float32")
    of_kind = {
        labels.tobytes(): keras.losses.SparseCategoricalCrossentropy,
        np.eye(3, dtype="float32")[labels].tobytes(): keras.losses.CategoricalCrossentropy,
    }
    found = []
    for given in (labels, np.eye(3, dtype="float32")[labels]):
        for loss, accumulate in ((of_kind[given.tobytes()](from_logits=True), 1), (None, 1), (None, 2)):
            keras.utils.set_random_seed(0)
            model = ks.transfer.Classifier(make_encoder((8, 8, 3), depth=1, drop_path=0.2), 3, accumulate=accumulate)
            model.head.kernel.assign(np.random.default_rng(0).standard_normal((16, 3)))
            model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
            logs = [
                model.train_on_batch(images, given, return_dict=True),
                model.train_on_batch(images, given, sample_weight=weights, return_dict=True),
            ]
            found.append(
                [
                    *(float(x[name]) for x in logs for name in ("loss", "accuracy", "gradient_norm")),
                    float(ops.sum(ops.abs(model.head.kernel))),
                ]
            )
    np.testing.assert_allclose(found, np.tile(found[0], (6, 1)), rtol=1e-5)


@pytest.mark.backend
def test_class_weights_count(make_encoder, make_images):
    model = compiled(make_encoder((8, 8, 3), depth=1), rate=0.0)
    images, labels = make_images(8, (8, 8, 3)), np.arange(8) % 4
    history = model.fit(
        images, labels, batch_size=8, class_weight={0: 3.0, 1: 1.0, 2: 0.0, 3: 2.0}, shuffle=False, verbose=0
    ).history
    assert history["loss"][0] == pytest.approx(np.log(4) * 6 / 4, abs=0.01)


@pytest.mark.backend
def test_a_last_batch_counts_by_its_images(make_encoder, make_images):
    """Keras' weighting: an evaluation of 9 images in batches of 8 is the mean over 9 images."""
    model, images, labels = compiled(make_encoder((8, 8, 3), depth=1)), make_images(9, (8, 8, 3)), np.arange(9) % 4
    model.head.kernel.assign(np.random.default_rng(0).standard_normal((16, 4)))
    logits = model.predict(images, verbose=0).astype("float64")
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(9), labels]
    evaluated = model.evaluate(images, labels, batch_size=8, return_dict=True, verbose=0)
    assert set(evaluated) == {"loss", "accuracy"}
    assert (
        evaluated["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        and abs(losses.mean() - (losses[:8].mean() + losses[8]) / 2) > 0.01
    )
    assert evaluated["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize(
    "loss",
    ["sparse_categorical_crossentropy", keras.losses.categorical_crossentropy, keras.losses.CategoricalCrossentropy()],
)
def test_a_loss_of_probabilities_is_refused(make_encoder, make_images, loss):
    model = ks.transfer.Classifier(make_encoder((8, 8, 3), depth=1), 3)
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match="Expected a loss on logits, received .*; give it from_logits=True"):
        model.fit(make_images(3, (8, 8, 3)), np.eye(3), verbose=0)
