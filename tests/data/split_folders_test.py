import os

import pytest
from PIL import Image

from keras_splitmask.data import NoSuchSplit, open_source


def save(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(root / name)


def names(root, split="train"):
    source = open_source(f"folder:{root}", split)
    return [source.name(i) for i in range(len(source))]


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["bus/1.png", "car/1.png", "train/1.png"], ["bus", "car", "train"]),
        (["bus/1.png", "car/1.png", "test/1.png"], ["bus", "car", "test"]),
        (["Train/1.png", "plane/1.png"], ["Train", "plane"]),
        (["val/1.png", "bus/1.png", "bus/2.png"], ["bus", "val"]),
    ],
)
def test_a_class_may_be_called_like_a_split(tmp_path, files, classes):
    save(tmp_path, *files)
    said = []
    source = open_source(f"folder:{tmp_path}", report=said.append)
    assert len(source) == len(files) and source.classes == classes
    assert said == [
        f"{tmp_path}: {next(c for c in classes if c.lower() in ('train', 'test', 'val'))} is read as a folder like"
        " those beside it, since there is no other split"
    ]
    with pytest.raises(NoSuchSplit):
        open_source(f"folder:{tmp_path}", "test")


@pytest.mark.parametrize(
    ("files", "train", "rest"),
    [
        (["train/1.png", "test/2.png"], ["1.png"], {"test": ["2.png"]}),
        (["TRAIN/a/1.png", "Valid/a/2.png", "testing/3.png"], ["a/1.png"], {"val": ["a/2.png"], "test": ["3.png"]}),
        (["training/1.png", "validation/2.png"], ["1.png"], {"val": ["2.png"]}),
        (["train/1.png"], ["1.png"], {}),
        (["train/a/1.png", "train/b/1.png"], ["a/1.png", "b/1.png"], {}),
    ],
)
def test_splits_by_any_of_their_names(tmp_path, files, train, rest):
    save(tmp_path, *files)
    assert names(tmp_path) == train
    for split in ("val", "test"):
        if split in rest:
            assert names(tmp_path, split) == rest[split]
        else:
            with pytest.raises(NoSuchSplit):
                names(tmp_path, split)


def test_what_lies_beside_the_splits_is_named_and_counted(tmp_path):
    save(
        tmp_path,
        "train/a/1.png",
        "train/b/1.png",
        "test/a/1.png",
        "extra/1.png",
        "extra/deep/2.png",
        "logo.png",
        "@eaDir/x.png",
    )
    (tmp_path / "readme.txt").touch()
    source = open_source(f"folder:{tmp_path}", record=tmp_path / "run" / "data.json")
    assert source.classes == ["a", "b"]
    beside = {"images beside the splits": "1 image", "extra": "2 images", "@eaDir": "thumbnails of a Synology"}
    assert source.beside == beside
    assert (
        source.summary()
        == "2 images of 4x6; not used (images beside the splits: 1 image; extra: 2 images; @eaDir: thumbnails of a"
        " Synology)"
    )
    assert "not used" not in open_source(f"folder:{tmp_path}", "test").summary()  # said once


def test_train_with_folders_of_classes_is_a_split_beside_others(tmp_path):
    save(tmp_path, "train/cat/1.png", "train/dog/2.png", "unlabelled/3.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ["cat", "dog"] and source.beside == {"unlabelled": "1 image"}


def test_an_empty_folder_is_no_split_to_judge_by(tmp_path):
    save(tmp_path, "train/1.png", "val/1.png")
    (tmp_path / "test").mkdir()
    with pytest.raises(
        NoSuchSplit, match="Expected images in .*test, received none; add some, or use another split than test"
    ):
        names(tmp_path, "test")
    (tmp_path / "other" / "train").mkdir(parents=True)
    save(tmp_path / "other", "bus/1.png", "car/1.png")
    assert open_source(f"folder:{tmp_path / 'other'}").classes == ["bus", "car"]


def test_two_folders_of_one_split_are_refused(tmp_path):
    save(tmp_path, "train/1.png", "val/1.png", "validation/2.png")
    with pytest.raises(
        ValueError,
        match="Expected one folder of the split val in .*, received val and validation; rename or merge them",
    ):
        names(tmp_path)


def test_a_folder_that_cannot_be_read_ends_in_a_line(tmp_path, monkeypatch):
    save(tmp_path, "images/1.png")

    def refuse(path="."):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        ValueError,
        match=(
            r"Expected images .*; left out is .: a folder that cannot be read \(Permission denied\); correct the path"
        ),
    ):
        names(tmp_path)
