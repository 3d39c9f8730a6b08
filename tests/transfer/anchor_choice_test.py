import numpy as np
import pytest
from keras import ops

pytest.importorskip("keras_cv", reason="RetinaNet is KerasCV's, which is not installed")

from keras_splitmask.transfer import anchor_choice, boxes  # noqa: E402
from keras_splitmask.transfer.retinanet import anchor_sizes  # noqa: E402

SHAPE = (128, 160, 3)


def some_boxes(rng, count, low, high):
    sides = rng.uniform(low, high, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(SHAPE[:2]) - sides)
    return np.concatenate([corner, corner + sides], axis=1)


@pytest.mark.parametrize(("levels", "scale"), anchor_choice.CHOICES)
def test_the_best_overlap_is_that_with_all_anchors(rng, levels, scale):
    found = some_boxes(rng, 60, 2, 120)
    anchors = boxes.anchors(SHAPE, *anchor_sizes(levels, scale))
    overlaps = boxes.iou(ops.convert_to_tensor(anchors[None]), ops.convert_to_tensor(found[None].astype("float32")))
    expected = ops.convert_to_numpy(overlaps)[0].max(axis=0)
    np.testing.assert_allclose(anchor_choice.best_overlaps(found, SHAPE, levels, scale), expected, atol=1e-4)


def test_small_objects_get_small_anchors_and_others_cheap_ones(rng):
    large, small = some_boxes(rng, 50, 40, 100), some_boxes(rng, 9, 9, 12)
    both, labels = np.concatenate([large, small]), np.array([0] * 50 + [2] * 9)
    assert anchor_choice.choose(large, labels[:50], 3, SHAPE) == ("P3-P7", 4.0)
    assert anchor_choice.choose(both, labels, 3, SHAPE) == ("P2-P6", 2.0)
    missed = anchor_choice.without_anchor(both, labels, 3, SHAPE, "P3-P7", 4.0)
    assert missed[0] < 0.05 and np.isnan(missed[1]) and missed[2] == 1
    assert anchor_choice.choose(both, labels, 3, SHAPE, levels="P3-P7")[0] == "P3-P7"
    assert anchor_choice.choose(both, labels, 3, SHAPE, anchor_scale=3.0) == ("P2-P6", 3.0)
    assert anchor_choice.choose(both[:0], labels[:0], 3, SHAPE) == ("P3-P7", 4.0)  # of crowds alone
    assert anchor_choice.choose(both, labels, 3, SHAPE, "P3-P7", 7.0) == ("P3-P7", 7.0)
