"""Resizing by operations that every format of a program has, against resizing on the host."""

import numpy as np
import pytest
from keras import ops

from keras_splitmask.data import center_box
from keras_splitmask.data.decoding import part
from keras_splitmask.data.resizing import resize
from keras_splitmask.interchange.framing import centre_resized

pytest.importorskip("cykooz_resizer", reason="cykooz-resizer rounds rows first, as programs do, and is not installed")


@pytest.mark.backend
@pytest.mark.parametrize("ratio", [1.0, 0.875])
def test_the_pixels_are_those_of_predict(make_images, ratio):
    """Noise, which no filter hides: larger and smaller, wide and tall, one pixel, and the size of the model."""
    for sides in ((60, 91), (131, 40), (9, 7), (1, 1), (16, 24)):
        images = make_images(2, (*sides, 3))
        found = ops.convert_to_numpy(centre_resized(ops.convert_to_tensor(images), (16, 24), ratio))
        box = center_box(*sides, (16, 24), ratio)
        expected = np.stack([resize(part(image, box), (16, 24)) for image in images])
        differences = np.abs(found.astype(int) - expected)
        assert found.dtype == "uint8" and differences.max() <= 1 and (differences > 0).mean() < 0.02


def test_a_single_channel_and_five(make_images):
    for channels in (1, 5):
        images = make_images(1, (30, 50, channels))
        found = ops.convert_to_numpy(centre_resized(ops.convert_to_tensor(images), (8, 8), 1.0))
        expected = resize(part(images[0], (0, 10, 30, 30)), (8, 8))
        assert found.shape == (1, 8, 8, channels) and np.abs(found[0].astype(int) - expected).max() <= 1
