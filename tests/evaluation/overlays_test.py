import sys

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.evaluation import encode_mask, overlays, palette, save_detections, save_label_maps

TOP, LEFT, NEXT = 37, 14, 488  # where the first picture begins, and how far right the next


def read(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def panels(path, columns, height, width):
    """The first row of pictures, each (height, width, 3)."""
    sheet = read(path)
    return [sheet[TOP : TOP + height, LEFT + i * NEXT : LEFT + i * NEXT + width] for i in range(columns)]


def luminance(colours):
    """Of colours (n, 3) in 0..255, relative to white."""
    shares = colours / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)


def test_colours_of_classes_are_distinct_and_always_the_same():
    colours = palette(150)
    assert colours.shape == (150, 3) and colours.dtype == np.uint8 and len(np.unique(colours, axis=0)) == 150
    for count in (1, 5, 12):
        assert (palette(count) == colours[:count]).all()
    assert palette(0).shape == (0, 3)
    light = luminance(colours)
    assert light.min() > 0.03 and light.max() < 0.95  # neither black nor white
    apart = np.abs(colours[:, None].astype(int) - np.append(colours, [[128, 128, 128]], axis=0)).max(axis=-1)
    np.fill_diagonal(apart, 255)
    assert apart.min() >= 10 and apart[:12, :12].min() >= 40
    # Those who see no red or no green tell the first twelve apart by lightness or by blue.
    first = colours[:12] / 255
    seen = np.stack([light[:12] ** (1 / 3), first[:, 2]], axis=-1)
    assert (np.linalg.norm(seen[:, None] - seen, axis=-1) + np.eye(12)).min() > 0.04


def test_objects_are_framed_in_the_colours_of_their_classes(tmp_path):
    image = np.full((120, 240, 3), 250, "uint8")  # drawn twice as large
    truth = {"boxes": np.array([[60, 40, 100, 200], [0, 0, 0, 0]]), "labels": np.array([1, -1])}
    predicted = {
        "boxes": np.array([[60, 40, 100, 200], [10, 40, 40, 80]]),
        "labels": np.array([2, 0]),
        "scores": np.array([0.8, 0.2]),
    }
    save_detections(tmp_path / "sheet.png", [image], [truth], [predicted], ["a", "b\n\x1b", "c"])
    left, right = panels(tmp_path / "sheet.png", 2, 240, 480)
    for panel, label in ((left, 1), (right, 2)):
        framed = (panel == palette(3)[label]).all(axis=-1)
        assert framed[121:200, 80:82].all() and framed[120:122, 140:400].all() and framed[199:201, 80:400].all()
        assert (panel[130:190, 90:390] == 250).all() and (panel[205:] == 250).all()  # nothing within and nothing below
        assert (panel[:100] == 250).all()  # what has a small score or the label -1 is not drawn
    save_detections(tmp_path / "sheet.png", [image], [truth], [predicted], ["a", "b", "c"], least_score=0.1)
    right = panels(tmp_path / "sheet.png", 2, 240, 480)[1]
    assert (right[22:79, 80] == palette(3)[0]).all()


def test_masks_of_both_kinds_look_alike(tmp_path):
    image = np.full((120, 240, 1), 250, "uint8")
    boxes, labels, inside = np.array([[20, 40, 100, 200]]), np.array([0]), np.zeros((120, 240), bool)
    inside[20:60, 40:200] = True  # the upper half of the box
    cells = np.repeat([1.0, 0.0], 20)[None, :, None].repeat(40, axis=2)
    truth = {"boxes": boxes, "labels": labels, "masks": [encode_mask(inside)]}
    predicted = {"boxes": boxes, "labels": labels, "scores": np.ones(1), "masks": cells}
    save_detections(tmp_path / "sheet.png", [image], [truth], [predicted], ["a"])
    for panel in panels(tmp_path / "sheet.png", 2, 240, 480):
        assert np.abs(panel[60:118, 90:390] - (0.55 * 250 + 0.45 * palette(1)[0])).max() <= 1
        assert (panel[123:195, 90:390] == 250).all()


def test_names_do_not_hide_each_other(tmp_path):
    image = np.full((480, 480, 3), 250, "uint8")
    boxes = np.array([[200, 100, 400, 300], [200, 102, 400, 302]])
    shown = []
    for count in (1, 2):
        objects = {"boxes": boxes[:count], "labels": np.arange(count)}
        save_detections(
            tmp_path / "sheet.png", [image], [objects], [objects | {"scores": np.ones(count)}], ["a" * 20, "b" * 20]
        )
        (panel,) = panels(tmp_path / "sheet.png", 1, 480, 480)
        shown.append([(panel == colour).all(axis=-1)[180:200].sum() for colour in palette(2)])
    assert shown[0][0] == shown[1][0] > 1000 and shown[1][1] < 200  # the second name stands elsewhere


def test_label_maps_have_colours_and_a_legend(tmp_path):
    image = np.full((4, 6, 3), 128, "uint8")  # drawn 80 times as large
    truth, predicted = np.zeros((4, 6), int), np.zeros((4, 6), int)
    truth[:, 3:], truth[0], predicted[:, 4:] = 1, 255, 3
    save_label_maps(tmp_path / "sheet.png", [image], [truth], [predicted], ["a", "b", "c", "d"])
    first, second, third = panels(tmp_path / "sheet.png", 3, 320, 480)
    assert (first == 128).all()
    colours = np.append(palette(4), np.zeros((251, 3), int), axis=0).astype(int)
    colours = np.append(colours, [[128, 128, 128]], axis=0)
    for panel, labels in ((second, truth), (third, predicted)):
        grey = panel[40::80, 40::80] - 0.65 * colours[labels]  # what is left of the image
        assert np.ptp(grey) <= 2 and (panel.reshape(4, 80, 6, 80, 3) == panel[40::80, 40::80][:, None, :, None]).all()
    legend = read(tmp_path / "sheet.png")[TOP + 320 :]
    occur = [(legend == colour).all(axis=-1).sum() >= 150 for colour in (*palette(4), (128, 128, 128))]
    assert occur == [True, True, False, True, True]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_sheets_hold_images_of_any_shape_up_to_a_limit(tmp_path, rng, channels):
    images = [rng.integers(0, 256, (*size, channels), "uint8") for size in ((10, 40), (40, 10), (300, 600), (1, 1))]
    maps = [rng.integers(0, 150, image.shape[:2]) for image in images]
    nothing = [{"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "scores": np.zeros(0)}] * 4
    names = [f"class {i}" for i in range(150)]
    save_label_maps(tmp_path / "maps.png", images, maps, maps, names)
    save_detections(tmp_path / "boxes.png", images, nothing, nothing, names, limit=3)
    assert read(tmp_path / "boxes.png").shape == (37 + 120 + 480 + 240 + 2 * 8 + 14, 14 + 480 + 8 + 480 + 14, 3)
    assert read(tmp_path / "maps.png").shape[1] == 14 + 3 * 480 + 2 * 8 + 14


def test_letters_outside_of_ascii_are_no_boxes(monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = {bytes(overlays.font_of_pictures.__wrapped__().getmask(letter)) for letter in "öüßéñŁжλ"}
    assert len(drawn) == 8  # missing letters are all drawn as the same box
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert overlays.font_of_pictures.__wrapped__().getname() != ("DejaVu Sans", "Book")
    monkeypatch.undo()
    assert overlays.font_of_pictures.__wrapped__().getname() == ("DejaVu Sans", "Book")
