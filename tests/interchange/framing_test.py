"""Resizing by operations that every format of a program has, against resizing on the host."""

import numpy as np
import pytest
from keras import ops

from keras_splitmask.data import center_box, letterbox
from keras_splitmask.data.decoding import part
from keras_splitmask.data.resizing import resize
from keras_splitmask.evaluation.segmentation import best_class
from keras_splitmask.interchange.framing import centre_resized, letterboxed, spread, stretched

pytest.importorskip("cykooz_resizer", reason="cykooz-resizer rounds rows first, as programs do, and is not installed")


SIZE = (16, 24)
SIDES = ((60, 91), (131, 40), (9, 7), (1, 1), SIZE)  # larger and smaller, wide and tall, one pixel


def check(found, expected):
    """Of noise, which no filter hides, few numbers are rounded otherwise."""
    found = ops.convert_to_numpy(found)
    differences = np.abs(found.astype(int) - expected)
    assert found.dtype == "uint8" and differences.max() <= 1 and (differences > 0).mean() < 0.02


@pytest.mark.backend
@pytest.mark.parametrize("ratio", [1.0, 0.875])
def test_the_centre_is_that_of_predict(make_images, ratio):
    for sides in SIDES:
        images, box = make_images(2, (*sides, 3)), center_box(*sides, SIZE, ratio)
        expected = np.stack([resize(part(image, box), SIZE) for image in images])
        check(centre_resized(ops.convert_to_tensor(images), SIZE, ratio), expected)


@pytest.mark.backend
def test_whole_images_are_those_of_predict(make_images):
    for sides in SIDES:
        images = make_images(2, (*sides, 3))
        check(stretched(ops.convert_to_tensor(images), SIZE), np.stack([resize(image, SIZE) for image in images]))
        found, factors = letterboxed(ops.convert_to_tensor(images), SIZE)
        expected, their = zip(*(letterbox(image, (*SIZE, 3)) for image in images), strict=True)
        check(found, np.stack(expected))
        np.testing.assert_allclose(ops.convert_to_numpy(factors), their[0], rtol=1e-6)


def test_halves_of_pixels_are_rounded_as_on_the_host(rng, make_images):
    """Of a fifth of these sizes a part has a side with half a pixel, which float32 and float64 miss on either side."""
    for height, width in rng.integers(3, 700, (200, 2)):
        images = make_images(1, (height, width, 1))
        box = center_box(height, width, (32, 32), 0.875)
        found = ops.convert_to_numpy(centre_resized(ops.convert_to_tensor(images), (32, 32), 0.875))[0]
        assert np.abs(found.astype(int) - resize(part(images[0], box), (32, 32))).mean() < 0.02


def test_rounded_sides_of_whole_images_are_those_of_the_host(rng, make_images):
    """Also of sizes whose resized sides are nearly halves, or thousandths below them."""
    sizes = [(499, 614), (495, 524), (683, 998), *rng.integers(1, 700, (200, 2)).tolist()]
    for sides in sizes:
        images = make_images(1, (*sides, 1))
        found, factors = letterboxed(ops.convert_to_tensor(images), (128, 160))
        expected, their = letterbox(images[0], (128, 160, 1))
        np.testing.assert_allclose(ops.convert_to_numpy(factors), their, rtol=1e-6)
        assert np.abs(ops.convert_to_numpy(found)[0].astype(int) - expected).max() <= 2


@pytest.mark.backend
def test_label_maps_are_those_of_predict(rng):
    logits = rng.standard_normal((2, *SIZE, 5)).astype("float32")
    for sides in SIDES:
        found = ops.convert_to_numpy(spread(ops.convert_to_tensor(logits), np.zeros((2, *sides, 3), "uint8")))
        assert found.shape == (2, *sides, 5)
        for one, of_image in zip(found, logits, strict=True):
            assert (one.argmax(axis=-1) == best_class(of_image, sides)).mean() > 0.999


def test_a_single_channel_and_five(make_images):
    for channels in (1, 5):
        images = make_images(1, (30, 50, channels))
        found = ops.convert_to_numpy(centre_resized(ops.convert_to_tensor(images), (8, 8), 1.0))
        expected = resize(part(images[0], (0, 10, 30, 30)), (8, 8))
        assert found.shape == (1, 8, 8, channels) and np.abs(found[0].astype(int) - expected).max() <= 1
