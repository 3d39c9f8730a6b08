import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import NoSuchSplit, open_source


def save(path, colour=(255, 0, 0), size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


def test_folder_by_class(tmp_path):
    save(tmp_path / "dog" / "b.png", (0, 0, 255))
    save(tmp_path / "cat" / "a.JPG", (255, 0, 0))
    save(tmp_path / "dog" / "a.png", (0, 255, 0), size=(5, 7))
    save(tmp_path / "dog" / ".hidden.png")
    (tmp_path / "readme.txt").write_text("no image")
    source = open_source(f"folder:{tmp_path}")
    assert [source.name(i) for i in range(3)] == ["cat/a.JPG", "dog/a.png", "dog/b.png"] and len(source) == 3
    assert source.classes == ["cat", "dog"] and source.labels.tolist() == [0, 1, 1] and source.label(2) == 1
    assert source.image(1).shape == (7, 5, 3) and source.image(1)[0, 0].tolist() == [0, 255, 0]
    assert source.image_shape == (4, 6, 3) and source.image(0).dtype == np.uint8


@pytest.mark.parametrize(
    "names", [("a.png", "b.png"), ("x/a.png", "x/b.png"), ("x/a.png", "b.png"), ("x/y/a.png", "z/b.png")]
)
def test_other_folders_have_no_labels(tmp_path, names):
    for name in names:
        save(tmp_path / name)
    source = open_source(f"folder:{tmp_path}")
    assert len(source) == 2 and source.labels is source.classes is source.label(0) is None


def test_folder_with_splits(tmp_path):
    for name in (
        "train/cat/1.png",
        "train/dog/2.png",
        "train/dog/3.png",
        "validation/cat/4.png",
        "validation/dog/5.png",
    ):
        save(tmp_path / name)
    assert len(open_source(f"folder:{tmp_path}")) == 3
    source = open_source(f"folder:{tmp_path}", "val")
    assert source.classes == ["cat", "dog"] and source.name(0) == "cat/4.png"
    with pytest.raises(NoSuchSplit, match="Expected a folder test in .*, received train, val only"):
        open_source(f"folder:{tmp_path}", "test")


def test_a_linked_folder_is_read_once(tmp_path):
    save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    assert len(open_source(f"folder:{tmp_path / 'link'}")) == 1


def test_folder_of_grey_and_colour(tmp_path):
    save(tmp_path / "a.png", 100)
    save(tmp_path / "b.png", (255, 0, 0))
    assert open_source(f"folder:{tmp_path}").image(0)[0, 0].tolist() == [100] * 3
    grey = open_source(f"folder:{tmp_path}", channels=1)
    assert grey.image(1).shape == (4, 6, 1) and grey.image(1)[0, 0, 0] == 76  # 0.299 * 255
    for i in range(40):
        save(tmp_path / "many" / f"{i:02}.png", (255, 0, 0) if i == 1 else 100)
    many = open_source(f"folder:{tmp_path / 'many'}")
    assert (
        many.channels == 3 and many.image(0)[0, 0].tolist() == [100] * 3 and many.image(1)[0, 0].tolist() == [255, 0, 0]
    )


def test_arrays_are_images_like_others(tmp_path):
    five = np.random.default_rng(0).integers(256, size=(4, 4, 6, 5)).astype("uint8")
    for i, image in enumerate(five):
        (tmp_path / f"class{i % 2}").mkdir(exist_ok=True)
        np.save(tmp_path / f"class{i % 2}" / f"{i}.npy", image)
    source = open_source(f"folder:{tmp_path}")
    assert source.channels == 5 and source.image_shape == (4, 6, 5) and source.labels.tolist() == [0, 0, 1, 1]
    assert (source.image(1) == five[2]).all()
    assert (source.image(1, lambda height, width: ((1, 2, 2, 3), (2, 3))) == five[2][1:3, 2:5]).all()


def test_the_fingerprint_is_of_the_images(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    before = open_source(f"folder:{tmp_path}").fingerprint
    assert open_source(f"folder:{tmp_path}").fingerprint == before
    save(tmp_path / "b.png", size=(7, 7))
    assert open_source(f"folder:{tmp_path}").fingerprint != before
