import numpy as np
import pytest
from keras import ops

from keras_splitmask.transfer import boxes

pytestmark = pytest.mark.backend


def some_boxes(rng, *shape, room=50, side=(5, 40)):
    corner = rng.uniform(0, room, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(*side, (*shape, 2))], axis=-1).astype("float32")


def overlap(a, b):
    height, width = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    both = height * width
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def greedy(found, scores, count, threshold, least):
    """Suppression of each class by itself, as it is told: the best, unless it overlaps a better one."""
    pairs = sorted(((score, i, label) for (i, label), score in np.ndenumerate(scores) if score > least), reverse=True)
    kept = []
    for score, i, label in pairs:
        if all(label != other or overlap(found[i], found[j]) <= threshold for _, j, other in kept):
            kept.append((score, i, label))
    return kept[:count]


def test_intersection_over_union(rng):
    a, b = some_boxes(rng, 2, 5), some_boxes(rng, 2, 7)
    expected = [[[overlap(x, y) for y in b[i]] for x in a[i]] for i in range(2)]
    np.testing.assert_allclose(
        ops.convert_to_numpy(boxes.iou(ops.convert_to_tensor(a), ops.convert_to_tensor(b))), expected, atol=1e-6
    )
    nothing = ops.zeros((1, 2, 4))
    assert not ops.convert_to_numpy(boxes.iou(nothing, nothing)).any()


def test_anchors_that_would_take_all_memory():
    assert len(boxes.anchors((4096, 4096, 3), (64,), ((8,),))) == 3 * 64 * 64
    for image_shape in ((16384, 16384, 3), (2**24, 4, 3)):
        with pytest.raises(ValueError, match="Expected images with at most 4194304 anchors"):
            boxes.anchors(image_shape, (4, 8), ((32,), (64,)))


def test_anchors_of_a_small_image():
    found = boxes.anchors((16, 20, 3), (8, 16), ((8,), (16, 32)), ratios=(1.0, 4.0))
    assert found.shape == (2 * 3 * 2 + 1 * 2 * 4, 4)
    np.testing.assert_allclose(found[0], [0, 0, 8, 8])  # around (4, 4)
    np.testing.assert_allclose(found[1], [-4, 2, 12, 6])  # 4 times as high as wide
    np.testing.assert_allclose(found[2], [0, 8, 8, 16])  # the next in the row
    np.testing.assert_allclose(found[12], [0, 0, 16, 16])
    np.testing.assert_allclose(found[14], [-8, -8, 24, 24])


def test_each_candidate_stands_for_its_nearest_object():
    objects = np.array([[[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]]], "float32")
    candidates = np.array(
        [[[0, 0, 10, 9], [20, 20, 30, 34], [20, 20, 26, 30], [40, 40, 50, 50], [0, 0, 0, 0]]], "float32"
    )
    nearest, kind = boxes.match(
        *map(ops.convert_to_tensor, (candidates, objects, np.array([[1, 0, -1]], "int32"))), 0.5, 0.7
    )
    assert ops.convert_to_numpy(kind).tolist() == [[1, 1, -1, 0, 0]]
    assert ops.convert_to_numpy(nearest)[0, :3].tolist() == [0, 1, 1]


def test_every_object_may_have_its_best_candidate():
    objects = np.array([[[0, 0, 10, 10], [0, 0, 4, 4], [30, 30, 40, 40]]], "float32")
    candidates = np.array([[[0, 0, 10, 10], [0, 0, 8, 9], [60, 60, 70, 70]]], "float32")
    arguments = [*map(ops.convert_to_tensor, (candidates, objects, np.array([[0, 1, 2]], "int32"))), 0.3, 0.7]
    assert ops.convert_to_numpy(boxes.match(*arguments)[1]).tolist() == [[1, 1, 0]]
    nearest, kind = boxes.match(*arguments, best_too=True)
    # The second candidate is nearest to the first object, but the best that the second object has; the third object has
    # none.
    assert ops.convert_to_numpy(kind).tolist() == [[1, 1, 0]] and ops.convert_to_numpy(nearest)[0, :2].tolist() == [
        0,
        1,
    ]


@pytest.mark.parametrize("part", [100, 2])  # all boxes at a time, and two
def test_what_is_ignored_is_no_background(monkeypatch, part):
    monkeypatch.setattr(boxes, "PART", part)
    objects = np.array([[[0, 0, 10, 10]]], "float32")
    candidates = np.array(
        [
            [
                [0, 0, 10, 9],
                [0, 8, 10, 18],
                [30, 30, 40, 40],
                [30, 30, 40, 56],
                [30, 30, 40, 54],
                [50, 50, 60, 60],
                [0, 0, 0, 0],
            ]
        ],
        "float32",
    )
    # 10 x 10 pixels, of which the last but two have all, 10 / 26 and 10 / 24; a crowd; nothing; and one that an
    # object's own candidate lies in.
    ignored = np.array([[[30, 30, 40, 40], [40, 40, 90, 90], [0, 0, 0, 0], [0, 0, 20, 13], [0, 0, 0, 0]]], "float32")
    arguments = [*map(ops.convert_to_tensor, (candidates, objects, np.array([[3]], "int32"))), 0.4, 0.5]
    assert ops.convert_to_numpy(boxes.match(*arguments)[1]).tolist() == [[1, 0, 0, 0, 0, 0, 0]]
    nearest, kind = boxes.match(*arguments, ignored=ops.convert_to_tensor(ignored))
    assert (
        ops.convert_to_numpy(kind).tolist() == [[1, -1, -1, 0, -1, -1, 0]] and not ops.convert_to_numpy(nearest).any()
    )


def test_images_without_objects_have_background_alone(rng):
    candidates, objects = some_boxes(rng, 1, 4), np.zeros((1, 3, 4), "float32")
    labels = ops.convert_to_tensor(np.full((1, 3), -1, "int32"))
    _, kind = boxes.match(
        ops.convert_to_tensor(candidates), ops.convert_to_tensor(objects), labels, 0.3, 0.7, best_too=True
    )
    assert ops.convert_to_numpy(kind).tolist() == [[0, 0, 0, 0]]


def test_decode_undoes_encode(rng):
    found, anchors = some_boxes(rng, 2, 9), some_boxes(rng, 1, 9)
    deltas = boxes.encode(ops.convert_to_tensor(found), ops.convert_to_tensor(anchors))
    np.testing.assert_allclose(
        ops.convert_to_numpy(boxes.decode(deltas, ops.convert_to_tensor(anchors), (1000, 1000, 3))), found, atol=1e-3
    )
    np.testing.assert_allclose(  # by hand: the centre 2 pixels lower in a box of 4, the height twice that of the anchor
        ops.convert_to_numpy(
            boxes.encode(ops.convert_to_tensor([[[0.0, 0, 8, 8]]]), ops.convert_to_tensor([[[0.0, 0, 4, 8]]]))
        ),
        [[[2 / 4 / 0.1, 0, np.log(2) / 0.2, 0]]],
        atol=1e-5,
    )
    huge = boxes.decode(ops.full((1, 9, 4), 1e9), ops.convert_to_tensor(anchors), (60, 80, 3))
    assert np.isfinite(ops.convert_to_numpy(huge)).all() and ops.convert_to_numpy(huge).max() <= 80


@pytest.mark.parametrize("candidates", [900, 60])
def test_the_best_are_those_of_a_slow_loop(rng, candidates):
    found, scores = some_boxes(rng, 2, 300), rng.random((2, 300, 3)).astype("float32")
    best = boxes.keep_best(ops.convert_to_tensor(found), ops.convert_to_tensor(scores), 25, 0.5, 0.2, candidates)
    best = {name: ops.convert_to_numpy(x) for name, x in best.items()}
    for i in range(2):
        expected = greedy(found[i], scores[i], 25, 0.5, max(0.2, np.sort(scores[i].ravel())[-candidates] - 1e-7))
        assert list(zip(best["indices"][i], best["labels"][i], strict=True)) == [(j, label) for _, j, label in expected]
        np.testing.assert_allclose(best["scores"][i], [score for score, _, _ in expected])
        np.testing.assert_array_equal(best["boxes"][i], [found[i, j] for _, j, _ in expected])


def test_boxes_of_many_classes_do_not_disturb_each_other():
    """Boxes of 1,203 classes of LVIS, moved apart by class, would lose the digits that their overlap is made of."""
    pair = np.array([[100.0, 100.0, 110.0, 110.0], [100.0, 100.0, 110.0, 119.0]], "float32")  # overlap by 0.526
    found, scores = np.tile(pair + 1233, (3, 1)), np.zeros((6, 1203), "float32")
    for i, label in enumerate((0, 700, 1202)):
        scores[2 * i : 2 * i + 2, label] = 0.9, 0.8
    for threshold, count in ((0.52, 3), (0.53, 6)):
        best = boxes.keep_best(
            ops.convert_to_tensor(found[None]), ops.convert_to_tensor(scores[None]), 9, threshold, 0.1
        )
        assert (ops.convert_to_numpy(best["labels"]) >= 0).sum() == count


def test_boxes_of_each_class_and_places_that_stay_empty():
    found = np.zeros((1, 2, 2, 4), "float32")
    found[0, 0, 1], found[0, 1, 0] = [0, 0, 4, 4], [5, 5, 9, 9]
    best = boxes.keep_best(
        ops.convert_to_tensor(found), ops.convert_to_tensor([[[0.0, 0.9], [0.8, 0.01]]]), 3, 0.5, 0.05
    )
    assert ops.convert_to_numpy(best["labels"]).tolist() == [[1, 0, -1]]
    assert ops.convert_to_numpy(best["boxes"]).tolist() == [[[0, 0, 4, 4], [5, 5, 9, 9], [0, 0, 0, 0]]]
    assert ops.convert_to_numpy(best["scores"])[0, 2] == 0
