"""The comparison of an exported program with its model: what it lets pass, and what it refuses."""

import numpy as np
import pytest

from recipes.shared.program_check import Differs, check, check_classes, check_pixels


def answers(name, *values):
    return [{name: value} for value in values]


def test_numbers_are_compared_by_their_largest(rng):
    value = 10 * rng.standard_normal((3, 50)).astype("float32")
    right, wrong = value + 1e-4, value.copy()
    wrong[2, 7] += 1
    check(answers("pooled", value, value[:1]), answers("pooled", right, value[:1]), "none")
    for received in (wrong, np.where(value == value, np.nan, value)):
        with pytest.raises(Differs, match="The exported pooled differ by"):
            check(answers("pooled", value), answers("pooled", received), "none")
    with pytest.raises(Differs, match=r"The exported pooled have the shape \(1, 50\), expected \(3, 50\)"):
        check(answers("pooled", value), answers("pooled", value[:1]), "none")


def test_labels_are_compared_by_the_share_of_the_same(capsys):
    labels = [np.zeros((2, 10, 10), "int32"), np.ones((1, 20, 5), "int32")]  # of images of two sizes
    other = [labels[0].copy(), labels[1]]
    other[0][0, 0, :9] = 3
    with pytest.raises(Differs, match=r"Of the exported labels 97.00% are the model's"):
        check(answers("labels", *labels), answers("labels", *other), "none")
    check(answers("labels", *labels), answers("labels", *other), "float16")
    check(answers("labels", *labels), answers("labels", *(value + 1 for value in labels)), "int8")
    assert "labels       2 sizes      0.00% are the same after reloading\n" in capsys.readouterr().out


def test_objects_are_compared_in_any_order(rng, capsys):
    boxes = 100 * rng.random((2, 40, 4)).astype("float32")
    one = {"boxes": boxes, "scores": rng.random((2, 40)).astype("float32"), "labels": rng.integers(0, 3, (2, 40))}
    one["masks"] = rng.random((2, 40, 5, 5)).astype("float32")
    order = rng.permutation(40)
    check([one], [{name: value[:, order] for name, value in one.items()}], "none")
    assert "objects      100.00% of 80 are the same after reloading\n" in capsys.readouterr().out
    for name, change in (("boxes", 1.0), ("scores", 0.1), ("labels", 1), ("masks", 0.1)):
        with pytest.raises(Differs, match="Of the exported program's objects 0.0% are the model's"):
            check([one], [{**one, name: one[name] + np.array(change, one[name].dtype)}], "none")
    few = {**one, "labels": np.where(np.arange(40) < 30, one["labels"], -1)}
    with pytest.raises(Differs, match="objects 85.7% are"):  # 60 of 80, and 60 of 60
        check([one], [few], "none")
    check([{**one, "labels": 0 * one["labels"] - 1}], [{**one, "labels": 0 * one["labels"] - 1}], "none")  # none at all


def test_pixels_and_classes():
    pixels, scores = [np.full((1, 4, 4, 3), 100, "uint8")], np.array([[0.4, 0.6], [0.9, 0.1]])
    check_pixels(pixels, pixels)
    with pytest.raises(Differs, match=r"resizes otherwise, by 1\.00 of 255"):
        check_pixels(pixels, [pixels[0] - 1])
    check_classes(scores, scores, "none")
    check_classes(scores, scores[::-1], "int8")
    with pytest.raises(Differs, match="The exported classes differ"):
        check_classes(scores, scores[::-1], "none")
