import math

import numpy as np
import pytest

from keras_splitmask.data import CROPS, center_box, crop_box, flip, mix
from keras_splitmask.data.augmentation import cut_box, soft_labels


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape).astype("uint8")


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (28, 28)])
def test_crops_keep_scale_and_ratio(height, width):
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(height, width, rng, scale=(0.2, 0.6)) for _ in range(3000)])
    top, left, box_height, box_width = boxes.T
    assert (
        (top >= 0).all()
        and (left >= 0).all()
        and (top + box_height <= height).all()
        and (left + box_width <= width).all()
    )
    area = box_height * box_width / (height * width)
    rounding = 1 / box_height + 1 / box_width  # half a pixel on each side, twice over
    assert (area >= 0.2 * (1 - rounding)).all() and (area <= 0.6 * (1 + rounding)).all()
    assert area.min() < 0.22 and area.max() > 0.55 and abs(area.mean() - 0.4) < 0.02  # uniform over the range
    ratio = box_width / box_height
    assert (ratio >= 3 / 4 * (1 - rounding)).all() and (ratio <= 4 / 3 * (1 + rounding)).all()
    assert abs(np.log(ratio).mean()) < 0.03  # as often upright as lying
    assert (
        top.min() == 0 and (top + box_height).max() == height and left.min() == 0 and (left + box_width).max() == width
    )


def test_a_strip_that_fits_no_crop_gives_its_centre():
    assert crop_box(10, 100, np.random.default_rng(0), scale=(0.9, 1.0)) == (0, 43, 10, 13)  # 13 = round(10 * 4 / 3)
    assert crop_box(100, 10, np.random.default_rng(0), scale=(0.9, 1.0)) == (43, 0, 13, 10)
    assert crop_box(1, 1, np.random.default_rng(0)) == (0, 0, 1, 1)


def test_center_box():
    assert center_box(60, 80, (60, 60), ratio=1.0) == (0, 10, 60, 60)
    assert center_box(60, 80, (60, 80), ratio=1.0) == (0, 0, 60, 80)
    assert center_box(60, 80, (30, 30), ratio=0.5) == (15, 25, 30, 30)
    assert center_box(60, 80, (224, 224)) == (3, 13, 53, 53)  # 52.5 = 0.875 * 60
    assert center_box(1, 1, (7, 11)) == (0, 0, 1, 1)


def test_flip():
    image, rng = noise(4, 5, 3), np.random.default_rng(0)
    flipped = [(flip(image, rng) == image[:, ::-1]).all() for _ in range(1000)]
    assert 440 < sum(flipped) < 560
    assert all((flip(image, rng) == image).all() or (flip(image, rng) == image[:, ::-1]).any() for _ in range(10))


def test_crops_by_name():
    def boxes(name):
        return {CROPS[name](40, 60, (20, 20), np.random.default_rng(seed)) for seed in range(50)}

    assert boxes("none") == {(0, 10, 40, 40)}
    assert len(boxes("crop")) == len(boxes("quarter_crop")) == 50
    assert max(height * width for _, _, height, width in boxes("crop")) > 0.6 * 40 * 60
    assert max(height * width for _, _, height, width in boxes("quarter_crop")) <= 0.27 * 40 * 60


def test_smoothed_labels():
    assert np.allclose(
        soft_labels(np.array([2, 0]), 4, 0.1), [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]
    )
    assert soft_labels(np.array([1]), 2, 0.0).tolist() == [[0, 1]]


class Drawn:
    """Returns given values, in place of a random generator."""

    def __init__(self, share, integers=(), coin=0.9):
        self.share, self.numbers, self.coin = share, list(integers), coin

    def beta(self, a, b):
        self.parameters = a, b
        return self.share

    def integers(self, high):
        return self.numbers.pop(0)

    def random(self):
        return self.coin


def test_mixup_by_hand():
    images = np.stack([np.full((2, 2, 1), 255, "uint8"), np.zeros((2, 2, 1), "uint8")])
    rng = Drawn(0.7)
    mixed, labels = mix(images, np.array([0, 1]), rng, 2, mixup=0.8, cutmix=1.0, smoothing=0.1)
    assert rng.parameters == (0.8, 0.8) and mixed.dtype == labels.dtype == np.float32
    assert np.allclose(mixed[0], 0.7) and np.allclose(mixed[1], 0.3)
    # 0.7 * 0.95 + 0.3 * 0.05 = 0.68
    assert np.allclose(labels, [[0.68, 0.32], [0.32, 0.68]])


def test_cutmix_by_hand():
    images = np.stack([np.full((8, 8, 3), 255, "uint8"), np.zeros((8, 8, 3), "uint8")])
    # Leaves 0.75: a box of 4 x 4 around row 7 and column 4, of which the border leaves rows 5 to 7: 3 * 4 / 64 are cut.
    rng = Drawn(0.75, integers=(7, 4), coin=0.4)
    mixed, labels = mix(images, np.array([1, 0]), rng, 2, mixup=0.8, cutmix=1.0, smoothing=0.0)
    assert rng.parameters == (1.0, 1.0)
    expected = np.ones((8, 8, 3))
    expected[5:8, 2:6] = 0
    assert (mixed[0] == expected).all() and (mixed[1] == 1 - expected).all()
    assert np.allclose(labels, [[12 / 64, 52 / 64], [52 / 64, 12 / 64]])


def test_the_share_of_cutmix_is_the_area():
    rng = np.random.default_rng(0)
    images = np.stack([np.ones((12, 20, 1), "uint8") * 255, np.zeros((12, 20, 1), "uint8")])
    for _ in range(200):
        mixed, labels = mix(images, np.array([1, 0]), rng, 2, mixup=0.0, cutmix=1.0, smoothing=0.0)
        assert math.isclose(mixed[0].mean(), labels[0, 1], abs_tol=1e-6)
    boxes = np.array([cut_box(12, 20, 0.5, rng) for _ in range(500)])
    assert (boxes.min(0) >= 0).all() and boxes[:, 1].max() == 12 and boxes[:, 3].max() == 20


def test_mixing_turned_off_or_half_off():
    images, labels = noise(4, 6, 6, 3), np.array([0, 1, 2, 0])
    out, soft = mix(images, labels, Drawn(0.5), 3, mixup=0.0, cutmix=0.0, smoothing=0.0)
    assert (out == images.astype("float32") / 255).all() and (soft == np.eye(3)[labels]).all()
    rng = Drawn(0.5, coin=0.1)  # the coin says cutmix, which is off
    mix(images, labels, rng, 3, mixup=0.3, cutmix=0.0)
    assert rng.parameters == (0.3, 0.3)
    rng = np.random.default_rng(0)
    constant = np.stack([np.full((6, 6, 1), value, "uint8") for value in (255, 0)])
    cut = [len(np.unique(mix(constant, np.array([0, 1]), rng, 2)[0][0])) == 2 for _ in range(400)]
    assert 140 < sum(cut) < 230  # half of the batches, less the boxes that are empty or cover all
