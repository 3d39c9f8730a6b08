import numpy as np
import pytest

from keras_splitmask.data import compose
from keras_splitmask.data.rand_augment import NAMES, _operations, erase, rand_augment


def gradient(channels=3, side=32):
    """An image in which every change shows: dark to light from left to right, and from top to bottom where there is
    colour."""
    rows, columns = np.meshgrid(np.linspace(20, 230, side), np.linspace(20, 230, side), indexing="ij")
    image = np.stack([columns, rows, rows[::-1]][:channels], axis=-1).astype("uint8")
    image[1::8, 1::8] += 20  # something to sharpen
    return image


def picture(channels=3):
    from PIL import Image

    image = gradient(channels)
    return Image.fromarray(image if channels == 3 else image[..., 0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_changes_an_image_and_more_so_at_a_higher_magnitude(name, channels):
    before = np.asarray(picture(channels), "int32")
    weak, strong = (np.asarray(_operations()[name](picture(channels), strength, 1), "int32") for strength in (0.2, 0.9))
    distances = [np.abs(after - before).mean() for after in (weak, strong)]
    assert strong.shape == before.shape
    if name == "colour" and channels == 1:
        return  # grey has none
    assert distances[1] > 0.1
    if name not in ("auto_contrast", "equalize", "invert"):  # which know no magnitude
        assert distances[1] > distances[0]


def test_signs_are_opposite_directions():
    left, right = (np.asarray(_operations()["translate_x"](picture(), 0.5, sign)) for sign in (1, -1))
    shift = round(0.45 * 0.5 * 32)
    assert np.abs(left[:, : 32 - shift - 1].astype(int) - gradient()[:, shift:-1]).mean() < 6
    assert (left[:, -shift + 1 :] == 128).all() and (right[:, : shift - 1] == 128).all()


def test_images_depend_on_the_generator_alone_and_differ():
    images = [rand_augment(gradient(), np.random.default_rng(seed)) for seed in range(40)]
    again = [rand_augment(gradient(), np.random.default_rng(seed)) for seed in range(40)]
    assert all(np.array_equal(*pair) for pair in zip(images, again, strict=True)) and all(
        image.dtype == "uint8" for image in images
    )
    same = sum(np.array_equal(image, gradient()) for image in images)
    assert 3 <= same <= 20  # a quarter: both operations left out
    assert len({image.tobytes() for image in images}) > 20


def test_erasing_covers_a_rectangle_of_noise_in_a_share_of_the_images():
    image, covered = np.zeros((40, 60, 2), "uint8"), []
    for seed in range(400):
        erased = erase(image, np.random.default_rng(seed), probability=0.25)
        rows, columns = (np.flatnonzero(erased.any(axis=(axis, 2))) for axis in (1, 0))
        if len(rows):
            covered.append(len(rows) * len(columns) / 2400)
            inside = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert inside.std() > 20
    assert 75 <= len(covered) <= 125 and min(covered) >= 0.015 and max(covered) <= 0.36 and max(covered) > 0.25
    assert not image.any()


def test_changes_are_done_in_order_or_left_out():
    rng = np.random.default_rng(3)
    expected = erase(rand_augment(gradient(), rng, 5.0), rng, 1.0)
    np.testing.assert_array_equal(compose(5.0, 1.0)(gradient(), np.random.default_rng(3)), expected)
    assert compose(0.0, 0.0) is None


def test_other_channels_are_refused():
    with pytest.raises(
        ValueError, match="Expected images of 1 or 3 channels for RandAugment, received 5; leave it out."
    ):
        rand_augment(np.zeros((4, 4, 5), "uint8"), np.random.default_rng(0))
