import numpy as np
import pytest

from keras_splitmask import data

pytest.importorskip("PIL.Image")

from PIL import Image  # noqa: E402


@pytest.fixture
def folder(tmp_path, rng):
    for i, name in enumerate(["a.png", "in/b.png", "in/deep/c.png", "d.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6 + i, 9, 3), "uint8")).save(path)
    return tmp_path / "photos"


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_a_folder_is_read_at_any_depth_without_its_runs_and_other_files(folder):
    (folder / "notes.md").write_text("no image")
    (folder / "out").mkdir()
    (folder / "out" / "run.files").write_text(
        "# keras_splitmask: the files of this run; no others are replaced or removed\n"
    )
    Image.new("L", (4, 4)).save(folder / "out" / "map.png")
    source = data.open_images(folder, 3)
    assert names(source) == ["a.png", "d.png", "in/b.png", "in/deep/c.png"] and not source.left_out
    assert source.image(1).shape == (9, 9, 3)
    assert data.open_images(folder, 1).image(0).shape == (6, 9, 1)


def test_files_folders_and_lists_keep_their_order_and_come_once(folder):
    paths = [str(folder / name) for name in ("d.png", "in", "a.png", "d.png")]
    (folder / "in" / "list.txt").write_text("../a.png\n\nb.png\nmissing.png\n")
    source = data.open_images(paths, 3)
    assert names(source) == [str(folder / name) for name in ("d.png", "in/b.png", "in/deep/c.png", "a.png")]
    source = data.open_images(folder / "in" / "list.txt", 3)
    assert [name.split("/")[-1] for name in names(source)] == ["a.png", "b.png"]
    assert source.left_out == {"missing.png": "No such file or directory"}
    assert source.fingerprint != data.open_images(folder / "a.png", 3).fingerprint


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((5, 8, 9, 3), 3, (5, (8, 9, 3))),
        ((5, 8, 9), 3, (5, (8, 9, 3))),
        ((8, 9, 3), 3, (1, (8, 9, 3))),
        ((8, 9, 3), 1, (1, (8, 9, 1))),
        ((8, 9), 1, (1, (8, 9, 1))),
        ((8, 9, 5), 5, (1, (8, 9, 5))),
        ((4, 8, 9, 5), 5, (4, (8, 9, 5))),
    ],
)
def test_arrays_of_one_or_more_images(shape, channels, expected, rng, tmp_path):
    images = rng.integers(0, 256, shape, "uint8")
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", test_images=images, test_labels=np.zeros(5))
    for source in (data.open_images(x, channels) for x in (images, tmp_path / "x.npy", tmp_path / "x.npz")):
        assert (len(source), source.image(0).shape) == expected
    assert source.name(0) == "test_images[0]"


def test_a_list_of_arrays_of_different_sizes(rng):
    images = [rng.integers(0, 256, shape, "uint8") for shape in ((4, 5, 3), (6, 7), (8, 3, 1))]
    source = data.open_images(images, 3)
    assert [source.image(i).shape for i in range(3)] == [(4, 5, 3), (6, 7, 3), (8, 3, 3)]
    np.testing.assert_array_equal(source.image(0), images[0])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "received an empty list"),
        ("{root}/none", "none, which does not exist. Check the path."),
        ([np.zeros(3)], r"received shape \(3, 1\)|received shape \(3,\)"),
        ("{root}/x.npz", "Choose one of a, b."),
        ("{root}/empty.txt", "one per line, received none"),
        ("{root}/text.png", r"received none of 1 files \(.*text.png: not an image"),
    ],
)
def test_what_cannot_be_opened_is_named(images, message, tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros((2, 4, 4)), b=np.zeros((2, 4, 4)))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "text.png").write_text("no image")
    images = images.format(root=tmp_path) if isinstance(images, str) else images
    with pytest.raises(ValueError, match=message):
        data.open_images(images, 3)
