import functools

import numpy as np
import pytest

from keras_splitmask.evaluation import ConfusionMatrix, segment_sliding, segment_whole


def test_counts_and_means_by_hand():
    matrix = ConfusionMatrix(4)
    matrix.add(np.array([[0, 0, 1], [1, 255, 255]]), np.array([[0, 1, 1], [1, 3, 0]]))
    assert matrix.counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0] * 4, [0] * 4]
    np.testing.assert_allclose(matrix.iou, [1 / 2, 2 / 3, np.nan, np.nan])
    assert matrix.mean_iou == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert matrix.mean_accuracy == pytest.approx((1 / 2 + 1) / 2) and matrix.pixel_accuracy == pytest.approx(3 / 4)
    matrix.add(
        np.array([0], "uint8"), np.array([2], "uint8")
    )  # a class that is only predicted has an IoU of 0, and no accuracy
    np.testing.assert_allclose(matrix.iou, [1 / 3, 2 / 3, 0, np.nan])
    assert matrix.mean_iou == pytest.approx((1 / 3 + 2 / 3 + 0) / 3) and matrix.mean_accuracy == pytest.approx(
        (1 / 3 + 1) / 2
    )


@pytest.mark.parametrize("kind", ["uint8", "int32", "int64"])
def test_random_maps_are_counted_as_by_loops(rng, kind):
    matrix, both = ConfusionMatrix(150, ignore=200), []
    for shape in ((7, 9), (2, 11, 5), (300,)):
        truth, predicted = rng.integers(0, 30, shape), rng.integers(0, 40, shape)
        predicted = (
            np.where(rng.random(shape) < 0.5, truth, predicted) + 105
        )  # up to 149: 149 * 150 does not fit into a byte
        truth = np.where(rng.random(shape) < 0.1, 200, truth + 105)
        matrix.add(truth.astype(kind), predicted.astype(kind))
        both += [(t, p) for t, p in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True) if t != 200]
    ious, shares = [], []
    for k in range(150):
        either, right = sum(k in pair for pair in both), sum(pair == (k, k) for pair in both)
        true = sum(t == k for t, _ in both)
        ious += [right / either] if either else []
        shares += [right / true] if true else []
    assert matrix.mean_iou == pytest.approx(np.mean(ious), abs=1e-6) and matrix.mean_accuracy == pytest.approx(
        np.mean(shares), abs=1e-6
    )
    assert matrix.pixel_accuracy == pytest.approx(np.mean([t == p for t, p in both]), abs=1e-6)


def test_nothing_counted_is_not_a_number():
    matrix = ConfusionMatrix(3)
    matrix.add(np.full((2, 2), 255), np.zeros((2, 2), int))
    assert np.isnan([matrix.mean_iou, matrix.mean_accuracy, matrix.pixel_accuracy]).all()


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (
            np.zeros((2, 3), int),
            np.zeros((3, 2), int),
            r"Expected label maps of one shape, received \(2, 3\) and \(3, 2\)",
        ),
        (
            np.array([0, 1]),
            np.array([0, 3]),
            "Expected predicted classes to be integers from 0 to 2, received 0 to 3 of int64",
        ),
        (
            np.array([0, 255]),
            np.array([0, -1]),
            "Expected predicted classes to be integers from 0 to 2, received -1 to 0",
        ),
        (np.array([0, 7, 255]), np.zeros(3, int), "Expected true classes to be integers from 0 to 2, received 0 to 7"),
        (np.array([0, 1]), np.array([0.0, 1.0]), "to be integers from 0 to 2, received 0.0 to 1.0 of float64"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused(truth, predicted, message):
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=message):
        matrix.add(truth, predicted)
    assert not matrix.counts.any()


def interpolated(logits, size):
    """Bilinear, by NumPy's own interpolation of lines."""
    for axis, new in enumerate(size):
        old = logits.shape[axis]
        places = (np.arange(new) + 0.5) * old / new - 0.5
        logits = np.apply_along_axis(functools.partial(np.interp, places, np.arange(old)), axis, logits)
    return logits


@pytest.mark.parametrize("size", [(8, 12), (19, 7), (5, 40), (1, 1)])
@pytest.mark.parametrize("grid", [(8, 12), (2, 3), (1, 1)])  # logits may be coarser than the image
def test_whole_images(rng, size, grid):
    logits, seen = rng.standard_normal((*grid, 5)).astype("float32"), []
    image = rng.integers(0, 256, (*size, 3), "uint8")
    labels = segment_whole(lambda images: seen.append(images) or logits[None], image, (8, 12, 3))
    assert (
        labels.shape == size
        and labels.dtype == np.uint8
        and seen[0].shape == (1, 8, 12, 3)
        and seen[0].dtype == np.uint8
    )
    assert (labels == interpolated(logits, size).argmax(axis=-1)).all()


def test_windows_are_averaged_as_probabilities(rng):
    image = np.arange(4 * 7 * 1, dtype="uint8").reshape(4, 7, 1)
    logits, seen = 3 * rng.standard_normal((3, 4, 4, 5)).astype("float32"), []

    def predict(images):
        seen.append(images)
        return np.stack(
            [logits[{0: 0, 2: 1, 3: 2}[int(window[0, 0, 0])]] for window in images]
        )  # the last window is moved inside

    total, looks = np.zeros((4, 7, 5)), np.zeros((4, 7, 1))
    for start, of_window in zip((0, 2, 3), np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True), strict=True):
        total[:, start : start + 4] += of_window
        looks[:, start : start + 4] += 1
    for batch_size in (1, 2, 4):
        seen.clear()
        labels = segment_sliding(predict, image, (4, 4, 1), stride=2, batch_size=batch_size)
        assert (labels == (total / looks).argmax(axis=-1)).all() and labels.dtype == np.uint8
        assert {images.shape for images in seen} == {(batch_size, 4, 4, 1)} and len(seen) == -(-3 // batch_size)


@pytest.mark.parametrize("size", [(12, 18), (6, 30), (31, 7), (60, 60), (3, 3)])
def test_windows_cover_an_image_of_any_size(size):
    left = np.zeros((*size, 3), "uint8")
    left[:, size[1] // 3 :] = 200
    seen = []

    def predict(images):
        seen.append(images)
        return np.stack([100.0 - images[..., 0], images[..., 0] - 100.0], axis=-1).astype("float32")

    labels = segment_sliding(predict, left, (12, 18, 3), stride=(5, 7))
    assert {images.shape for images in seen} == {(4, 12, 18, 3)} and labels.shape == size
    wrong = labels != (left[..., 0] > 100)
    assert wrong.mean() < 0.01 if min(size) > 3 else not wrong.any()


def test_a_stride_that_would_leave_gaps_is_refused():
    for stride in (0, 9, (8, 13)):
        with pytest.raises(
            ValueError, match=r"Expected stride to be at least 1 and at most the window's \(8, 12\), received"
        ):
            segment_sliding(None, np.zeros((20, 20, 3), "uint8"), (8, 12, 3), stride)
