import numpy as np
import pytest

from keras_splitmask import evaluation
from keras_splitmask.evaluation import sheets

Image = pytest.importorskip("PIL.Image")


def test_rows_hold_the_pictures_side_by_side(tmp_path):
    red, blue = (Image.new("RGB", (50, 30), colour) for colour in ("red", "blue"))
    rows = [[(red, ["a.png", "one"]), (blue, ["b.png"])], [(blue, ["c.png"])]]
    evaluation.save_sheet(tmp_path / "sheet.png", rows, "title", [("road", (1, 2, 3))])
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    for colour, count in (((255, 0, 0), 1), ((0, 0, 255), 2), ((1, 2, 3), 0.1)):
        found = (picture == colour).all(axis=-1).sum()
        assert found == count * 50 * 30 if count >= 1 else 100 < found < 300
    below_red = np.flatnonzero((picture == (255, 0, 0)).all(axis=-1).any(axis=1))[-1] + 1
    assert (picture[below_red + 2 : below_red + 30, 14:60] < 128).any()  # a name


def test_long_rows_are_broken_and_long_names_keep_their_ends(tmp_path):
    tiles = [(Image.new("RGB", (144, 100), "red"), ["folder/of/many/names/picture.png"])] * 20
    evaluation.save_sheet(tmp_path / "sheet.png", [tiles])
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width <= sheets.WIDE and picture.height > 300
    assert sheets.shortened("folder/of/many/names/picture.png", 100).startswith("…")
    assert sheets.shortened("folder/of/many/names/picture.png", 100).endswith("picture.png")
    assert sheets.shortened("short", 100) == "short"


@pytest.mark.parametrize("shape", [(8, 8, 3), (300, 200, 1), (20, 600, 5)])
def test_thumbnails_have_one_size(shape, rng):
    assert max(evaluation.thumbnail(rng.integers(0, 256, shape, "uint8")).size) == 144
