"""Metrics of a classifier by hand, and its pictures."""

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.evaluation import classification_metrics, save_confusion, save_mistakes

LABELS = np.array([0, 0, 0, 0, 1, 1, 3, 3])
PREDICTED = np.array([0, 0, 0, 1, 1, 0, 1, 1])


def test_metrics_by_hand():
    found = classification_metrics(LABELS, PREDICTED, 4)
    assert found["top1"] == 4 / 8
    assert found["recall"].tolist()[:2] == [3 / 4, 1 / 2] and np.isnan(found["recall"][2]) and found["recall"][3] == 0
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert found["commonest_class_top1"] == 4 / 8
    assert classification_metrics(LABELS, PREDICTED, 4, commonest=3)["commonest_class_top1"] == 2 / 8
    assert found["confusion"].tolist() == [[3, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 2, 0, 0]]


def test_a_label_of_many_classes_is_no_void():
    labels = np.array([255, 254])
    assert classification_metrics(labels, labels, 300)["top1"] == 1


def test_confusions_are_drawn_dark_where_they_are_many(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "confusion.png"
    save_confusion(path, [[9, 1], [0, 10]], ["a $x$", "b" * 60], "test, 20 images")
    drawn = np.asarray(Image.open(path).convert("L"))
    assert drawn.shape[0] > 200 and drawn.min() < 60 < 200 < drawn.max()
    save_confusion(path, np.eye(100, dtype=int) + 1, [str(i) for i in range(100)], "test")
    assert max(Image.open(path).size) < 3000


def test_names_in_letters_that_the_font_lacks_are_drawn_without_a_warning(tmp_path, rng, recwarn):
    pytest.importorskip("matplotlib")
    names = ["\u732b", "\u72ac"]
    save_confusion(tmp_path / "confusion.png", [[9, 1], [0, 10]], names, "test, 20 images")
    images = rng.integers(0, 256, (2, 8, 8, 3), "uint8")
    assert save_mistakes(tmp_path / "mistakes.png", images, [0, 1], [[0.2, 0.8], [0.7, 0.3]], names) == 2
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_the_surest_mistakes_are_drawn(tmp_path, rng, channels):
    pytest.importorskip("matplotlib")
    images = rng.integers(0, 256, (8, 12, 16, channels), "uint8")
    scores = np.full((8, 4), 0.1)
    scores[np.arange(8), PREDICTED] = 0.7
    names = ["a", "b", "c", "d $1 & more than fits over a picture"]
    path = tmp_path / "mistakes.png"
    assert save_mistakes(path, images, LABELS, scores, names) == 4
    assert save_mistakes(path, images, LABELS, scores, names, limit=3) == 3
    assert Image.open(path).size[0] > 300


@pytest.mark.parametrize(("limit", "heading"), [(3, "the 3 surest of 4 mistakes; true"), (4, "4 mistakes; true")])
def test_the_heading_says_how_many_mistakes_there_are(tmp_path, rng, monkeypatch, limit, heading):
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *args, **options: drawn.append(self))
    images, scores = rng.integers(0, 256, (8, 12, 16, 3), "uint8"), np.eye(4)[PREDICTED]
    save_mistakes(tmp_path / "mistakes.png", images, LABELS, scores, list("abcd"), limit, title="test: ")
    assert drawn[0].get_suptitle().startswith(f"test: {heading} class")


def test_without_mistakes_there_is_no_picture(tmp_path, rng):
    pytest.importorskip("matplotlib")
    scores = np.eye(4)[LABELS]
    assert save_mistakes(tmp_path / "no.png", rng.integers(0, 9, (8, 4, 4, 3), "uint8"), LABELS, scores, "abcd") == 0
    assert not (tmp_path / "no.png").exists()
