"""Models that were saved before a class moved to another file are read as they were: registered names do not depend on
modules."""

import pathlib
import zipfile

import keras
import numpy as np
import pytest

import keras_splitmask as ks

SAVED = pathlib.Path(__file__).with_name(
    "saved_models.zip"
)  # by an earlier version of the library, with random weights
NAMES = ("beit", "classifier", "deit", "encoder", "mae", "segmenter", "splitmask", "untrained")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of these models, with the outputs of that version for `images_for` of each."""
    folder = tmp_path_factory.mktemp("saved")
    with zipfile.ZipFile(SAVED) as archive:
        archive.extractall(folder)
    return folder


def images_for(model):
    """Bytes that count up: one image (1, H, W, C) uint8 of the model's size."""
    shape = getattr(model, "encoder", model).image_shape
    return np.arange(np.prod(shape)).reshape(1, *shape).astype("uint8")


@pytest.mark.backend
@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_an_earlier_version_computes_the_same(saved, name):
    model = ks.interchange.load_model(saved / f"{name}.keras")
    output = model(images_for(model))
    output = output["pooled"] if isinstance(output, dict) else output
    expected = np.load(saved / "outputs.npz")[name]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(output), expected, atol=1e-5)


def test_its_optimizer_is_read_too(saved):
    optimizer = keras.saving.load_model(saved / "splitmask.keras").optimizer
    assert isinstance(optimizer, ks.training.LayerwiseAdamW)
    assert float(optimizer.weight_decay(10)) == pytest.approx(0.4)
