"""Names of classes and the preparation of images: kept with each model that has classes, and checked."""

import re

import keras
import numpy as np
import pytest

import keras_splitmask as ks

NAMES = ["Äpfel", "bread & butter", "c" * 300]
MODELS = {
    "classifier": lambda encoder, **given: ks.transfer.Classifier(encoder, 3, crop_ratio=0.875, **given),
    "segmenter": lambda encoder, **given: ks.transfer.Segmenter(encoder, 3, width=8, **given),
    "mask_rcnn": lambda encoder, **given: ks.transfer.MaskRCNN(encoder, 3, width=8, hidden=8, **given),
    "retinanet": lambda encoder, **given: ks.transfer.RetinaNet(encoder, 3, width=8, **given),
}


@pytest.mark.backend
@pytest.mark.parametrize("kind", MODELS)
def test_names_and_preparation_are_saved_with_the_model(make_encoder, tmp_path, kind):
    if kind == "retinanet":
        pytest.importorskip("keras_cv")
    encoder = make_encoder((32, 32, 3), depth=1)
    named, unnamed = (
        MODELS[kind](encoder, **given) for given in ({"class_names": NAMES, "value_range": (0, 4095)}, {})
    )
    for name, model in (("named", named), ("unnamed", unnamed)):
        model.save(tmp_path / f"{name}.keras")
    again = ks.interchange.load_model(tmp_path / "named.keras")
    assert again.class_names == NAMES and again.value_range == (0.0, 4095.0)
    assert again.get_config() == named.get_config()
    assert again.classes == 3 and getattr(again, "crop_ratio", 0.875) == 0.875
    again = ks.interchange.load_model(tmp_path / "unnamed.keras")
    assert again.class_names is None and again.value_range is None


def test_thousands_of_names_are_saved_and_read(make_encoder, tmp_path):
    names = [f"{i:05d}, a name as long as those of plants and animals are in Latin" for i in range(20_000)]
    model = ks.transfer.Classifier(make_encoder((16, 16, 3), depth=1), len(names), class_names=np.array(names).tolist())
    model.save(tmp_path / "model.keras")
    assert ks.interchange.load_model(tmp_path / "model.keras").class_names == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_names": ["a", "b"]}, "Expected 3 different class_names, one for each class, received 2 names, 2 of"),
        (
            {"class_names": ["a", "b", "a"]},
            "Expected 3 different class_names, one for each class, received 3 names,",
        ),
        ({"class_names": ["a", "b", 3]}, "Expected class_names as text, received 3; write it as str."),
        ({"class_names": "abc"}, "received 1 names, 1 of them different"),
        ({"value_range": (1, 0)}, "Expected value_range of two finite numbers, low below high, received (1.0, 0.0)."),
        ({"value_range": (0, float("inf"))}, "Expected value_range of two finite numbers"),
        ({"value_range": 3}, "Expected value_range as two numbers (low, high), received 3."),
        ({"crop_ratio": 0}, "Expected crop_ratio above 0 and at most 1, received crop_ratio=0."),
    ],
)
def test_what_is_no_name_or_no_range_is_refused(make_encoder, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ks.transfer.Classifier(make_encoder((16, 16, 3), depth=1), 3, **given)


def test_a_file_whose_names_are_not_text_is_refused(make_encoder, tmp_path):
    model = ks.transfer.Classifier(make_encoder((16, 16, 3), depth=1), 3, class_names=NAMES)
    model.class_names[1] = {"class_name": "Lambda"}
    keras.saving.save_model(model, tmp_path / "model.keras")
    with pytest.raises(ValueError, match="class_names that are not all text"):
        ks.interchange.load_model(tmp_path / "model.keras")
