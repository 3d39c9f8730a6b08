"""The code of docs/add_a_method.md does what the page says."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_splitmask as ks

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "add_a_method.md"


@pytest.mark.backend
def test_the_code_of_the_page_trains_saves_and_loads_a_method(make_images, tmp_path, monkeypatch):
    definition, use = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(definition.split("class Rotations", 1)[1].splitlines()) <= 24
    monkeypatch.chdir(tmp_path)
    names = {"images": make_images(8)}
    exec(definition, names)
    exec(use, names)
    model, history = names["model"], names["model"].history.history
    assert isinstance(model, ks.training.ObjectiveModel) and int(model.optimizer.iterations) == 1
    assert history["skipped_steps"] == [0] and 0 < history["loss"][0] < 3 and 0 <= history["accuracy"][0] <= 1
    expected = keras.ops.convert_to_numpy(model.encoder(names["images"])["pooled"])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(names["features"]), expected, atol=1e-6)


def test_help_shows_no_class_of_a_backend():
    names = [cls.__name__ for cls in ks.SplitMask.__mro__ if cls.__module__.startswith("keras_splitmask")]
    assert names == ["SplitMask", "ObjectiveModel", "CheckedModel"]
