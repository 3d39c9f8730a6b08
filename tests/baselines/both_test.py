"""What BEiT and MAE have in common, and what the untrained encoder shares with them."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.training.batch import Batch

pytestmark = pytest.mark.backend


def array(x):
    return ops.convert_to_numpy(x)


def test_only_the_target_sees_masked_pixels(make_baseline, make_images, rng):
    model, images = make_baseline(), make_images(2, (12, 20, 3))
    order = rng.random((2, 15)).argsort(axis=1).astype("int32")
    before = array(model.masked(images, ops.convert_to_tensor(order)))
    assert before.shape[:2] == (2, model.masked_count)
    for position in range(15):
        row, column = divmod(order[0, position], 5)
        changed = images.copy()
        changed[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] ^= 255
        after = array(model.masked(changed, ops.convert_to_tensor(order)))
        assert (after[0] != before[0]).any() == (position >= model.masked_count)
        np.testing.assert_array_equal(after[1], before[1])


def test_the_target_is_the_masked_patches(make_baseline, make_images, rng, monkeypatch):
    model, images = make_baseline(), make_images(1, (12, 20, 3))
    order = rng.random((1, 15)).argsort(axis=1).astype("int32")
    monkeypatch.setattr(ks.Split, "call", lambda self, images: ops.convert_to_tensor(order))
    row, column = divmod(order[0, 0], 5)
    changed = images.copy()
    changed[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] ^= 255
    losses = [float(model.objective(Batch(x), training=False)[0]) for x in (images, changed)]
    assert losses[0] != losses[1]


def test_the_model_answers_as_its_encoder(make_baseline, make_images):
    model, images = make_baseline(), make_images(2, (12, 20, 3))
    for name, value in model.encoder(images).items():
        np.testing.assert_array_equal(array(model(images)[name]), array(value))


def test_gradients_reach_every_weight(make_baseline, make_images, check_every_weight_moves):
    model = make_baseline(keras.optimizers.SGD(1.0))
    # Three batches, since one split leaves many positions unseen.
    check_every_weight_moves(model, (make_images(16, (12, 20, 3)) for _ in range(3)))


def test_config_round_trip(make_baseline):
    model = make_baseline(image_shape=(12, 20, 5), drop_path=0.1, mask_ratio=0.6, seed=7, augmentation=ks.Augment())
    again = type(model).from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert (again.mask_ratio, again.masked_count, again.seed) == (0.6, 9, 7)
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]


def test_saved_model_is_restored_and_goes_on_exactly(make_baseline, make_images, tmp_path):
    images = make_images(8, (12, 20, 3))
    model = make_baseline(ks.training.adamw(1e-3, steps=10), drop_path=0.2, seed=3)
    model.train_on_batch(images)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for name, value in model(images).items():
        np.testing.assert_array_equal(array(again(images)[name]), array(value))
    losses = [m.train_on_batch(images, return_dict=True)["loss"] for m in (model, again)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_an_encoder_goes_from_one_method_to_the_next(make_beit, make_mae, make_model, tmp_path):
    splitmask = make_model(image_shape=(12, 20, 3))
    for name, model in {"splitmask": splitmask, "beit": make_beit(), "mae": make_mae(decoder_width=32)}.items():
        model.save(tmp_path / f"{name}.keras")
        expected = {path: array(w) for path, w in ks.interchange.named_weights(model.encoder).items()}
        for target in (make_beit(), make_mae(decoder_width=64), make_model(image_shape=(12, 20, 3))):
            transferred = ks.interchange.initialise(target, tmp_path / f"{name}.keras")
            assert set(expected) <= set(transferred.loaded)
            for path, weight in ks.interchange.named_weights(target.encoder).items():
                np.testing.assert_array_equal(array(weight), expected[path])


def test_mixed_precision_trains_much_as_float32(make_baseline, make_images, rng, monkeypatch):
    images, logs, weights = make_images(8, (12, 20, 3)), {}, None
    order = rng.random((8, 15)).argsort(axis=1).astype("int32")
    monkeypatch.setattr(ks.Split, "call", lambda self, images: ops.convert_to_tensor(order))
    for name in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(name)
        model = make_baseline()
        weights = weights or model.get_weights()
        model.set_weights(weights)
        logs[name] = model.train_on_batch(images, return_dict=True)
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(logs["mixed_bfloat16"][name], logs["float32"][name], rtol=0.05)


def test_untrained(make_encoder, make_images, tmp_path):
    model, images = ks.baselines.Untrained(make_encoder()), make_images(2)
    assert ks.baselines.Untrained.from_config(model.get_config()).get_config() == model.get_config()
    model.save(tmp_path / "model.keras")
    again = ks.interchange.load_encoder(tmp_path)
    for name, value in model(images).items():
        np.testing.assert_array_equal(array(again(images)[name]), array(value))
