import keras
import numpy as np
import pytest
from keras import ops

from tests.transfer import drawn


@pytest.fixture
def scenes():
    return drawn.draw_scenes


@pytest.fixture
def as_coco():
    return drawn.as_coco


@pytest.fixture
def check_saved_and_exported(tmp_path):
    """Compares what a detector finds in images with what it finds after saving, and exported as a SavedModel."""

    def check(model, images):
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        assert again.get_config() == model.get_config()
        expected = {name: ops.convert_to_numpy(x) for name, x in model(images).items()}
        assert (expected["labels"] >= 0).any()
        for name, x in again(images).items():
            np.testing.assert_allclose(ops.convert_to_numpy(x), expected[name], atol=1e-4)
        if keras.backend.backend() == "torch":
            return
        import tensorflow as tf

        model.export(
            tmp_path / "saved",
            format="tf_saved_model",
            input_signature=[keras.InputSpec(shape=(None, *images.shape[1:]), dtype="uint8")],
            verbose=False,
        )
        exported = tf.saved_model.load(str(tmp_path / "saved"))  # its variables live as long as it does
        served = exported.serve(images[:1])
        for name, x in served.items():
            np.testing.assert_allclose(x.numpy(), expected[name][:1], atol=1e-3)

    return check
