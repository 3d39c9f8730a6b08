import numpy as np
import pytest

from keras_splitmask.data import segmentations
from keras_splitmask.data.decoding import TURNS
from keras_splitmask.data.segmentations import mask_in_box, turn_outline, usable

SQUARE = [10, 20, 30, 20, 30, 40, 10, 40]  # x 10 to 30, y 20 to 40


def test_polygons_are_cut_to_the_image_and_slivers_left_out():
    assert usable([SQUARE, [1, 1, 2, 2]], 50, 60) == [SQUARE]
    assert usable([SQUARE], 30, 20) == [[10, 20, 20, 20, 20, 30, 10, 30]]
    assert usable([[-1e30, 0, 5, 0, 5, 1e30]], 30, 20) == [[0, 0, 5, 0, 5, 30]]
    assert usable([], 50, 60) is usable(None, 50, 60) is None


PAIRS = [[10, 20], [30, 20], [30, 40], [10, 40]]


@pytest.mark.parametrize("form", [SQUARE, PAIRS, [PAIRS], [SQUARE, [1, 1]], [{"size": [2, 3], "counts": [2, 3, 1]}]])
def test_other_forms_are_converted(form):
    expected = [SQUARE] if not isinstance(form[0], dict) else {"size": [2, 3], "counts": [2, 3, 1]}
    assert usable(form, *((50, 60) if expected == [SQUARE] else (2, 3))) == expected


@pytest.mark.parametrize("form", [[[]], [[], []], {}, None, []])
def test_an_outline_with_nothing_in_it_is_none(form):
    assert usable(form, 50, 60) is None


def test_outlines_that_would_fill_the_memory(monkeypatch):
    zigzag = [[0, 0, 640, 480] * 2000]
    with pytest.raises(ValueError, match="outlines of more than 2,000,000 pixels in length"):
        usable(zigzag, 480, 640)
    assert usable([zigzag[0][:4000]], 480, 640)
    runs = {"size": [480, 640], "counts": "00" * 1000}
    monkeypatch.setattr(segmentations, "_unpacked", lambda text: [480 * 640])
    assert usable(runs, 480, 640)
    monkeypatch.setattr(segmentations, "MAX_TEXT", 1999)
    with pytest.raises(ValueError, match="do not fill the image"):
        usable(runs, 480, 640)


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_outlines_turn_with_their_image(turn, rng):
    whole = (rng.random((4, 7)) < 0.5).astype("uint8")
    flat = np.concatenate([[0], whole.T.ravel()])
    outline = usable({"size": [4, 7], "counts": np.diff([0, *np.flatnonzero(np.diff(flat)), 28]).tolist()}, 4, 7)
    turned = turn_outline(outline, (4, 7), turn)
    assert turned["size"] == [7, 4] and usable(turned, 7, 4) == turned
    assert (
        mask_in_box(turned, (0, 0, 7, 4), 28) == np.kron(TURNS[turn](whole[..., None])[..., 0], np.ones((4, 7)))
    ).all()
    pixel = turn_outline([[2, 1, 3, 1, 3, 2, 2, 2]], (4, 7), turn)  # of row 1, column 2
    spot = np.zeros((4, 7, 1))
    spot[1, 2] = 1
    row, column, _ = np.argwhere(TURNS[turn](spot))[0]
    corners = np.reshape(pixel[0], (-1, 2))
    assert corners.min(axis=0).tolist() == [column, row] and corners.max(axis=0).tolist() == [column + 1, row + 1]


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 1, 2, 2]], "without a polygon"),
        ([[1, 1, 2, 2, 3]], "without a polygon"),
        ([[1, 1, 2, 2, 3, float("nan")]], "without a polygon"),
        ([[[1, 1], [2]]], "without a polygon"),
        ([[[1, 1], [2, 2]], {}], "without a polygon"),
        ([[1, 1], [2, 2]], "without a polygon"),
        ([[1, 1, 2, 1, 2, 2]] * 100_000, "more than 100,000 corners"),
        ([[1, 1]] * 100_001, "more than 100,000 corners"),
        ("polygon", "without a polygon"),
        ({"size": [3, 2], "counts": [6]}, "another size than its image"),
        ({"size": [2, 3], "counts": [7]}, "do not fill the image"),
        ({"size": [2, 3], "counts": [8, -2]}, "do not fill the image"),
        ({"size": [2, 3], "counts": "?"}, "do not fill the image"),
        ({"size": [2, 3], "counts": ""}, "do not fill the image"),
        ({"size": [2, 3], "counts": "\ud800 \xff"}, "do not fill the image"),
        ({"size": [2, 3], "counts": "o" * 10**6}, "do not fill the image"),  # a run without an end
        ({"size": [2, 3], "counts": "oooooo0"}, "do not fill the image"),
        ({"size": [2, 3], "counts": [10**4000, -(10**4000) + 6]}, "do not fill the image"),
        ({"size": [2, 3]}, "do not fill the image"),
    ],
)
def test_what_cannot_be_used(segmentation, reason):
    with pytest.raises(ValueError, match=reason):
        usable(segmentation, 2, 3)


def test_run_lengths_go_down_the_columns():
    whole = np.array([[0, 1, 1], [0, 1, 0]])  # down: 0 0, 1 1, 1 0
    outline = usable({"size": [2, 3], "counts": [2, 3, 1]}, 2, 3)
    assert (mask_in_box(outline, (0, 0, 2, 3), 6) == np.repeat(np.repeat(whole, 3, 0), 2, 1)).all()
    assert (mask_in_box(outline, (0, 1, 2, 3), 2) == whole[:, 1:]).all()
    assert (mask_in_box(outline, (0, 1.5, 1, 3), 1) == 1).all()


@pytest.mark.parametrize("grain", [1, 9])  # of single pixels and of longer runs
def test_run_lengths_as_text(grain):
    masks = pytest.importorskip("pycocotools.mask")
    whole = np.repeat((np.random.default_rng(0).random((40, 40 // grain)) < 0.4).astype("uint8"), grain, 1)
    packed = masks.encode(np.asfortranarray(whole))
    outline = usable({"size": list(whole.shape), "counts": packed["counts"].decode()}, *whole.shape)
    columns = ((np.arange(40) + 0.5) * whole.shape[1] / 40).astype(int)
    assert (mask_in_box(outline, (0, 0, *whole.shape), 40) == whole[:, columns]).all()


def test_polygons_are_drawn_at_the_size_of_the_mask():
    pytest.importorskip("pycocotools")
    assert mask_in_box([SQUARE], (20, 10, 40, 30), 8).all()
    assert mask_in_box([SQUARE], (25, 12, 27, 14), 8).all()  # all around it
    quarter = mask_in_box([SQUARE], (30, 20, 50, 40), 8)  # a box whose upper left quarter it fills
    assert quarter.dtype == np.uint8 and quarter[:4, :4].all() and quarter.sum() == 16
    two = mask_in_box([[0, 0, 10, 0, 10, 10, 0, 10], [30, 0, 40, 0, 40, 10, 30, 10]], (0, 0, 10, 40), 8)
    assert (two == np.array([1, 1, 0, 0, 0, 0, 1, 1])).all()
    triangle = mask_in_box([[0, 0, 40, 0, 0, 40]], (0, 0, 40, 40), 40)  # the half above the diagonal
    rows, columns = np.indices((40, 40)) + 0.5
    assert (triangle == (rows + columns < 40))[abs(rows + columns - 40) > 1.5].all()
