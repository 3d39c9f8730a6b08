import sys

import numpy as np
import pytest

from keras_splitmask.evaluation import feature_map


@pytest.fixture
def image_of():
    Image = pytest.importorskip("PIL.Image")
    return lambda path: np.array(Image.open(path).convert("RGB")).astype(int)


def is_drawn(picture, colour):
    return (np.abs(picture - colour).max(axis=-1) < 12).any()


def test_components_are_those_of_most_variance(rng):
    plane = np.linalg.qr(rng.standard_normal((8, 2)))[0].T  # two directions (2, 8)
    known = rng.standard_normal((60, 2)) * [10, 3]
    known -= known.mean(axis=0)
    known = np.linalg.svd(known, full_matrices=False)[0] * [10, 3]
    points, fractions = feature_map.principal_components(known @ plane + 5)
    np.testing.assert_allclose(np.abs(points), np.abs(known), atol=1e-9)
    np.testing.assert_allclose(fractions, [100 / 109, 9 / 109])


def test_features_that_vary_less_leave_zeros():
    points, fractions = feature_map.principal_components(np.array([[1.0], [3.0]]))
    np.testing.assert_allclose(np.abs(points), [[1, 0], [1, 0]])
    np.testing.assert_allclose(fractions, [1, 0])
    points, fractions = feature_map.principal_components(np.ones((3, 4)))
    assert not points.any() and not fractions.any()


def test_each_frequent_group_has_a_colour_and_the_others_are_grey(tmp_path, rng, image_of):
    groups = [f"g{i % 12}" for i in range(60)] + ["_rare$", "rarer"]
    feature_map.save_feature_map(tmp_path / "map.png", rng.standard_normal((62, 8)), groups)
    picture = image_of(tmp_path / "map.png")
    assert all(is_drawn(picture, colour) for colour in feature_map.palette(12).astype(int))
    grey = (picture == 184).all(axis=-1).sum()
    feature_map.save_feature_map(tmp_path / "plain.png", rng.standard_normal((62, 8)))
    plain = image_of(tmp_path / "plain.png")
    assert is_drawn(plain, feature_map.palette(1)[0].astype(int))
    assert grey > 25 and grey > 3 * (plain == 184).all(axis=-1).sum()  # letters have grey edges


def test_a_map_needs_matplotlib(tmp_path, rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        feature_map.save_feature_map(tmp_path / "map.png", rng.standard_normal((9, 4)))


def test_neighbours_are_drawn_beside_their_image(tmp_path, rng, monkeypatch):
    rows, titles = [], []
    monkeypatch.setattr(
        feature_map, "save_sheet", lambda path, found, title: (rows.extend(found), titles.append(title))
    )
    # Four kinds of features, and the brightness of an image is its number.
    features = np.repeat(np.eye(4), 5, axis=0) * 9 + rng.standard_normal((20, 4)) / 9
    images = np.broadcast_to(np.arange(20, dtype="uint8")[:, None, None, None] * 10, (20, 8, 8, 1))
    groups = [f"kind {i // 5}" for i in range(20)]
    feature_map.save_neighbours(tmp_path / "near.png", images, features, groups, count=4, nearest=3)
    assert len(rows) == 4 and all(len(row) == 4 for row in rows)
    for kind, row in enumerate(rows):
        numbers = [np.array(picture)[60, 60, 0] // 10 for picture, _ in row]
        assert numbers[0] == 5 * kind and len(set(numbers)) == 4 and all(n // 5 == kind for n in numbers)
        assert [words[1] for _, words in row] == [f"kind {kind}"] * 4
    rows.clear()
    feature_map.save_neighbours(tmp_path / "near.png", images, features, count=3, nearest=50)
    assert len(rows) == 3 and all(len(row) == 20 and len(row[0][1]) == 1 for row in rows)


def test_a_sheet_of_neighbours_is_written(tmp_path, make_images, rng, image_of):
    feature_map.save_neighbours(tmp_path / "near.png", make_images(20), rng.standard_normal((20, 4)))
    assert min(image_of(tmp_path / "near.png").shape[:2]) > 400
