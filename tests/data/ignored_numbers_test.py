"""The number 255 of label maps, which is ignored unless classes.json says what it is."""

import json

import numpy as np
import pytest

from keras_splitmask.data import open_segmentation
from tests.data.label_maps_test import pair, shown


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (None, True),
        ({"0": "ground", "128": "rim"}, True),
        ({"classes": ["ground", "rim"], "void": 5}, True),  # nothing says that 255 is ignored, too
        ({"classes": [str(k) for k in range(129)]}, True),
        ({"0": "ground", "128": "rim", "void": 255}, False),
        ({"0": "ground", "128": "rim", "255": "cell"}, False),
    ],
)
def test_255_is_not_ignored_in_silence(tmp_path, facts, said):
    """Masks whose objects are 255, with a border of 128."""
    second = 1 if facts and facts.get("void") == 5 else 128
    stored = np.array([[0, second, 255], [255, 255, second]], "uint8")
    pair(tmp_path, "a", stored)
    pair(tmp_path, "b", stored[:, :2].copy())
    pair(tmp_path, "c", np.array([[0, second]], "uint8"))
    pair(tmp_path, "a", stored, split="val")
    if facts:
        (tmp_path / "classes.json").write_text(json.dumps(facts))
    train = open_segmentation(f"masks:{tmp_path}", "train")
    val = open_segmentation(f"masks:{tmp_path}", "val", classes=train)
    assert ("255 occurs in 2 label maps and is ignored" in train.summary()) == said
    assert ("255 occurs in 1 label map and is ignored" in val.summary()) == said
    assert train.description()["summary"] == train.summary()  # which data.json holds
    # As the line says.
    (tmp_path / "classes.json").write_text(json.dumps({"0": "ground", str(second): "rim", "255": "cell"}))
    assert shown(tmp_path)[:2] == (["ground", "rim", "cell"], [[0, 1, 2], [2, 2, 1]])
