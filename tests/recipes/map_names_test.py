"""Label maps have names of their own that a disk takes, whatever the images are called."""

import types

import numpy as np
import pytest

from recipes.shared import map_names, prediction_files

pytest.importorskip("PIL.Image")

from PIL import Image  # noqa: E402

LONG = "x" * 253
NAMES = [
    *("a-1.jpg", "a.jpg", "a.png", "b.jpg", "b.png/c.jpg", "d.jpg", "d.png.part/c.jpg", "E.jpg", "e.png", "f/g.jpg"),
    *("/f/g.jpg", "../f/g.jpg", f"{LONG}.jpg", f"{LONG[1:]}.jpg", f"{LONG}/1.jpg", f"{LONG}0/1.jpg", "\\xff" * 250),
    *("/".join([LONG] * 12) + f"/{i}.jpg" for i in "01"),
]


def test_every_image_has_a_label_map_of_its_own(tmp_path):
    """Also beside folders that are called as the label maps would be, and with names that are too long."""
    source = type("Names", (), {"name": lambda self, i: NAMES[i], "__len__": lambda self: len(NAMES)})()
    predictor = types.SimpleNamespace(class_names=[str(i) for i in range(len(NAMES))])
    result = [{"label_map": np.full((2, 3), i, "uint8"), "size": (2, 3)} for i in range(len(NAMES))]
    for start in (0, 5):  # from the start, and as a run resumes
        writer = prediction_files.MapWriter(predictor, source, tmp_path)
        records = [writer.to_record(i, result[i]) for i in range(start, len(NAMES))]
        for i, record in enumerate(records, start):
            with Image.open(tmp_path / record["label_map"]) as picture:
                assert (np.asarray(picture) == i).all(), record["label_map"]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(NAMES)
    assert all(len(part.encode()) <= 200 for name in writer.names for part in name.split("/"))
    assert len({name.casefold() for name in writer.names}) == len(NAMES)


def test_plain_names_stay():
    assert map_names.unique_names(["a.jpg", "in/b.c.png", "/x/d", "e.jpg", "e.png"], "maps") == [
        *("maps/a.png", "maps/in/b.c.png", "maps/x/d.png", "maps/e-3.png", "maps/e-4.png"),
    ]
