import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.training.batch import Batch

pytestmark = pytest.mark.backend


@pytest.fixture
def make_deit():
    def make(classes=3, **arguments):
        keras.utils.set_random_seed(0)
        return ks.baselines.DeiT(ks.Encoder((8, 12, 3), 4, 16, 2, 2), classes, **arguments)

    return make


def labels_of(rng, count, classes=3):
    labels = rng.random((count, classes)).astype("float32")
    return labels / labels.sum(axis=1, keepdims=True)


def test_the_loss_is_that_of_numpy(make_deit, make_images, rng):
    model, images, labels = make_deit(), make_images(5, (8, 12, 3)), labels_of(rng, 5)
    model.head.kernel.assign(rng.standard_normal((16, 3)))
    loss, report = model.objective(Batch(images, labels), training=False)
    logits = ops.convert_to_numpy(model(images)["cls"]) @ ops.convert_to_numpy(
        model.head.kernel
    ) + ops.convert_to_numpy(model.head.bias)
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(float(loss), -(labels * log_shares).sum(axis=1).mean(), rtol=1e-5)
    assert float(report["accuracy"]) == pytest.approx((logits.argmax(axis=1) == labels.argmax(axis=1)).mean())


def test_a_batch_is_memorised(make_deit, make_images):
    model, images, labels = make_deit(), make_images(6, (8, 12, 3)), np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]]
    model.compile(optimizer=ks.training.adamw(1e-2, 80, warmup=4))
    history = model.fit(
        ((images, labels) for _ in range(80)), steps_per_epoch=20, epochs=4, shuffle=False, verbose=0
    ).history
    assert history["accuracy"][-1] == 1 and history["loss"][-1] < 0.02 < history["loss"][0]
    assert not history["skipped_steps"][-1]


def test_a_bad_batch_is_skipped_and_named(make_deit, make_images, rng):
    model, labels = make_deit(), labels_of(rng, 2)
    images = np.full((2, 8, 12, 3), np.nan, "float32")
    model.compile(optimizer=ks.training.adamw(1e-2, 80, warmup=4))
    before = [ops.convert_to_numpy(w) for w in model.trainable_variables]
    assert model.train_on_batch(images, labels, return_dict=True)["skipped_steps"] == 1
    assert all(
        np.array_equal(*pair) for pair in zip(before, map(ops.convert_to_numpy, model.trainable_variables), strict=True)
    )
    assert model.first_bad_tensor((images, labels), 0) == "the images"
    assert model.first_bad_tensor((make_images(2, (8, 12, 3)), labels), 0) is None


def test_a_saved_model_is_the_same(make_deit, make_images, rng, tmp_path):
    model, images, labels = make_deit(), make_images(2, (8, 12, 3)), labels_of(rng, 2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    assert float(again.objective(Batch(images, labels), training=False)[0]) == float(
        model.objective(Batch(images, labels), training=False)[0]
    )


def test_one_class_is_refused(make_deit):
    with pytest.raises(ValueError, match="Expected at least two classes, received classes=1."):
        make_deit(classes=1)
