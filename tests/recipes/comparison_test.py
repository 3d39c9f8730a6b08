"""Pictures of near-duplicates: which groups are drawn, in which order, and what the heading says of the others."""

import csv

import numpy as np
import pytest

pytest.importorskip("PIL.Image")

from keras_splitmask import evaluation  # noqa: E402
from recipes.shared import comparison  # noqa: E402


class Images:
    def __len__(self):
        return 36

    def name(self, i):
        return f"{i}.png"

    def image(self, i):
        return np.zeros((8, 8, 3), "uint8")


def duplicates(monkeypatch, tmp_path, angles):
    """Compare pairs of vectors at these angles, and 10 equal ones. Returns the rows and the title of the picture."""
    vectors = np.zeros((2 * len(angles) + 10, 2 * len(angles) + 1), "float32")
    for i, angle in enumerate(angles):
        vectors[2 * i, 2 * i] = 1
        vectors[2 * i + 1, 2 * i : 2 * i + 2] = np.cos(angle), np.sin(angle)
    vectors[2 * len(angles) :, -1] = 1
    source, drawn = Images(), []
    monkeypatch.setattr(evaluation, "save_sheet", lambda path, rows, title: drawn.append((rows, title)))
    names = [source.name(i) for i in range(len(vectors))]
    compared = comparison.Comparison(tmp_path / "f.npz", source, names, vectors)
    compared.vectors = vectors
    assert compared.duplicates(0.98)
    return drawn[0]


def test_the_closest_groups_are_drawn_first_and_counted(monkeypatch, tmp_path):
    angles = np.linspace(0.18, 0.04, 13)
    rows, title = duplicates(monkeypatch, tmp_path, angles)
    assert title.endswith("of 0.98 or more, closest first: 12 of 14 groups, at most 8 images of each")
    firsts = [row[0][1][0] for row in rows]
    assert firsts == ["26.png", *[f"{2 * i}.png" for i in range(12, 1, -1)]]
    assert [len(row) for row in rows] == [8] + [2] * 11
    with open(tmp_path / "f.duplicates.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 36 and [row["group"] for row in table[10:12]] == ["2", "2"] and table[10]["file"] == "24.png"


def test_few_groups_are_all_drawn(monkeypatch, tmp_path):
    rows, title = duplicates(monkeypatch, tmp_path, [0.1, 0.05])
    assert title.endswith("closest first: 3 groups, at most 8 images of each") and len(rows) == 3
