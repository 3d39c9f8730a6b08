import sys

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import resizing
from keras_splitmask.data.resizing import resize


@pytest.fixture(params=["cykooz", "pillow"])
def implementation(request, monkeypatch):
    """Both of them, where both are installed."""
    if request.param == "pillow":
        monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    else:
        pytest.importorskip("cykooz_resizer")
    resizing._implementation.cache_clear()
    yield request.param
    resizing._implementation.cache_clear()


def slope(height, width):
    """An image (H, W, 2) whose pixels tell their row and column."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns], axis=-1).astype("uint8")


def test_pixels_stay_in_their_place(implementation):
    out = resize(slope(20, 40), (10, 20))  # every 2 x 2 pixels become one
    assert np.abs(out[1:-1, 1:-1, 0] - (0.5 + 2 * np.arange(1, 9))[:, None]).max() <= 1
    assert np.abs(out[1:-1, 1:-1, 1] - (0.5 + 2 * np.arange(1, 19))).max() <= 1
    image = slope(20, 40)
    assert resize(image, (20, 40)) is image and resize(image[::2, ::-1], (20, 40)).shape == (20, 40, 2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 13])
def test_every_depth_is_resized_alike(implementation, channels):
    image = np.random.default_rng(0).integers(256, size=(40, 50, channels)).astype("uint8")
    image[..., -1] = 0  # were it taken for alpha, nothing would be seen
    out = resize(image, (16, 24))
    assert out.shape == (16, 24, channels) and out.dtype == np.uint8
    for c in range(channels):
        assert np.abs(resize(image[..., c : c + 1], (16, 24))[..., 0].astype(int) - out[..., c]).max() <= 1


@pytest.mark.parametrize("size", [(20, 30), (64, 96), (300, 200), (1, 1), (1024, 8)])
def test_it_is_the_bicubic_filter_of_pillow(implementation, size):
    rows, columns = np.meshgrid(np.linspace(0, 6, 128), np.linspace(0, 9, 192), indexing="ij")
    image = (128 + 100 * np.sin(rows) * np.cos(columns)).astype("uint8")
    exact = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    assert np.abs(resize(image[..., None], size)[..., 0].astype(int) - exact).max() <= 3
