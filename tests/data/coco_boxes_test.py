"""Boxes in another form than [left, top, width, height] in pixels, as COCO has them."""

import numpy as np
import pytest

from keras_splitmask.data import open_detection
from tests.data.coco_test import OBJECT, write


def test_boxes_of_other_conventions_are_noticed(tmp_path):
    with pytest.raises(
        ValueError,
        match="Expected boxes in pixels, received numbers of at most 1 in all 2 boxes of .*; multiply them by",
    ):
        open_detection(
            write(tmp_path, [{**OBJECT, "bbox": box} for box in ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])]), "train"
        )
    with pytest.raises(ValueError, match="received numbers of at most 1 in 2 of 3 boxes"):
        open_detection(
            write(
                tmp_path, [{**OBJECT, "bbox": box} for box in ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1.002], [0, 0, 1, 1])]
            ),
            "train",
        )
    corners = [[20, 10, 59, 39], [40, 20, 50, 30], [1, 2, 4, 5]]  # [left, top, right, bottom]
    summary = open_detection(write(tmp_path, [{**OBJECT, "bbox": box} for box in corners]), "train").summary()
    # Too few to refuse the file.
    assert "2 boxes reach beyond their image, although they are read as [left, top, width, height]" in summary


def boxes(rng, count=40):
    """Boxes [left, top, right, bottom] in an image of 40 x 60 pixels."""
    corners = rng.integers(0, (30, 20), (count, 2))
    return np.concatenate([corners, corners + rng.integers(5, (31, 21), (count, 2))], axis=1).tolist()


def test_boxes_as_corners_are_refused(tmp_path, rng):
    corners = boxes(rng)
    beyond = sum(left + right > 61 or top + bottom > 41 for left, top, right, bottom in corners)
    assert 10 <= beyond < 40
    with pytest.raises(
        ValueError,
        match=rf"received {beyond} of 40 boxes that reach beyond their images in .*instances.json; they seem to be"
        r" \[left, top, right, bottom\]; write right - left",
    ):
        open_detection(write(tmp_path, [{**OBJECT, "bbox": box} for box in corners]), "train")
    fixed = [[left, top, right - left, bottom - top] for left, top, right, bottom in corners]  # as the message says
    source = open_detection(write(tmp_path, [{**OBJECT, "bbox": box} for box in fixed]), "train")
    assert source.objects(0).boxes[:, [1, 0, 3, 2]].tolist() == corners and not source.beyond


def test_boxes_of_another_resolution_are_refused_and_those_of_cut_objects_are_not(tmp_path, rng):
    inside = [[left, top, right - left, bottom - top] for left, top, right, bottom in boxes(rng)]
    double = [{**OBJECT, "bbox": [2 * side for side in box]} for box in inside]
    with pytest.raises(ValueError, match="boxes that reach beyond their images in .*; correct the boxes, or the width"):
        open_detection(write(tmp_path, double), "train")
    cut = [[left, top, 60, 40] if i % 5 < 2 else box for i, box in enumerate(inside) for left, top in [box[:2]]]
    source = open_detection(write(tmp_path, [{**OBJECT, "bbox": box} for box in cut]), "train")
    assert 10 <= source.beyond < 20 and len(source.objects(0).boxes) == 40
