import numpy as np
import pytest

from keras_splitmask.data import letterbox
from keras_splitmask.data.framing import Frame, drawn, stretched, whole


def test_a_part_resized_and_mirrored():
    frame = Frame((2, 4, 10, 20), (5, 40), True)  # half as high, twice as wide
    boxes = np.array([[4.0, 8.0, 8.0, 14.0], [0.0, 0.0, 7.0, 14.0], [20.0, 0.0, 30.0, 9.0]])
    visible = frame.visible(boxes)
    assert visible.tolist() == [[4, 8, 8, 14], [2, 4, 7, 14], [12, 4, 12, 9]]  # the last has no rows left
    assert frame.place(visible)[:2].tolist() == [[1, 40 - 20, 3, 40 - 8], [0, 40 - 20, 2.5, 40 - 0]]


def test_labels_of_the_nearest_pixel():
    labels = np.arange(12, dtype="uint8").reshape(3, 4)
    doubled = Frame((1, 1, 2, 3), (4, 6)).show_labels(labels, (5, 8), 255)
    assert (doubled[:4, :6] == np.repeat(np.repeat(labels[1:, 1:], 2, 0), 2, 1)).all()
    assert (doubled[4:] == 255).all() and (doubled[:, 6:] == 255).all()
    assert Frame((0, 0, 3, 4), (1, 2), True).show_labels(labels, (1, 2), 255).tolist() == [
        [7, 5]
    ]  # centres 1.5; 1 and 3, mirrored


def test_letterbox():
    image = np.random.default_rng(0).integers(256, size=(20, 30, 3), dtype="uint8")
    shown, factors = letterbox(image, (40, 90, 3))
    assert factors.tolist() == [2, 2] and shown.shape == (40, 90, 3) and shown[:, :60].any() and not shown[:, 60:].any()
    same, factors = letterbox(image, (20, 40, 3))
    assert factors.tolist() == [1, 1] and (same[:, :30] == image).all()
    thin, factors = letterbox(np.full((1, 100, 1), 9, "uint8"), (10, 10, 1))
    assert factors.tolist() == [1, 0.1] and thin[0].all() and not thin[1:].any()


def test_whole_and_stretched():
    assert whole(20, 30, (40, 90)) == Frame((0, 0, 20, 30), (40, 60))
    assert stretched(20, 30, (40, 90)) == Frame((0, 0, 20, 30), (40, 90))


@pytest.mark.parametrize("size", [(48, 64), (1, 500), (500, 1), (3, 3), (900, 700)])
def test_a_random_frame_keeps_the_shape_of_things(size):
    room, seen = (32, 40), set()
    for seed in range(300):
        frame = drawn(*size, room, np.random.default_rng(seed), (0.5, 1.5))
        top, left, height, width = frame.box
        assert 0 <= top <= top + height <= size[0] and 0 <= left <= left + width <= size[1] and min(height, width) >= 1
        assert 1 <= frame.size[0] <= 32 and 1 <= frame.size[1] <= 40
        factors = frame.size[0] / height, frame.size[1] / width
        fit = min(32 / size[0], 40 / size[1])
        for factor, length in zip(
            factors, (height, width), strict=True
        ):  # but for rounding to whole pixels, at both ends
            assert factor >= 0.5 * fit - 1 / length and (factor <= 1.5 * fit + 1 / length + factor / length)
        seen.add((top > 0, left > 0, frame.mirrored, frame.size == room))
    assert len(seen) > 3


def test_parts_begin_everywhere():
    """An image of twice the room, at once to twice the factor that fits: the part is 1/1 to 1/2 of the image,
    anywhere."""
    frames = [drawn(64, 64, (32, 32), np.random.default_rng(seed), (2.0, 2.0)) for seed in range(500)]
    assert {frame.box[2:] for frame in frames} == {(32, 32)} and {frame.box[0] for frame in frames} == set(range(33))
    assert 180 < sum(frame.mirrored for frame in frames) < 320
