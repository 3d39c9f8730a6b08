import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import NoSuchSplit, open_segmentation

LABELS = np.array([[0, 1, 2], [2, 255, 0]], "uint8")
NAMES = ["sky", "road", "tree"]


def pair(root, name, labels=LABELS, split="train", mode=None):
    """An image, and its label map, an array or a Pillow image."""
    labels = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
    for folder in ("images", "labels"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", labels.size, (200, 100, 50)).save(root / split / "images" / f"{name}.png")
    labels.save(root / split / "labels" / f"{name}.png")


def named(root, **facts):
    (root / "classes.json").write_text(json.dumps({"classes": NAMES, **facts}))
    return f"masks:{root}"


def test_label_maps(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "b", np.full((4, 5), 2, "uint8"))
    source = open_segmentation(named(tmp_path), "train", classes=NAMES)
    assert (
        source.label_map(0).tolist() == LABELS.tolist()
        and source.label_map(0).dtype == np.uint8
        and source.classes == NAMES
    )
    assert source.image(1).shape == (4, 5, 3) and source.size(1) == (4, 5) and source.labels is None
    assert source.summary() == (
        "2 images, 3 classes. 255 occurs in 1 label map and is ignored by default; if it is a class, give the number of"
        f' each class in {tmp_path / "classes.json"}, as in {{"0": "background", "255": "cell"}}; if not, add "void":'
        " 255 there"
    )
    before = source.fingerprint
    pair(tmp_path, "b", np.full((4, 5), 12, "uint8"))
    assert open_segmentation(named(tmp_path), "train").fingerprint != before
    with pytest.raises(NoSuchSplit, match="Expected split to be one of train, which are in .*, received 'val'"):
        open_segmentation(f"masks:{tmp_path}", "val")


def palette():
    picture = Image.fromarray(LABELS).convert("P")
    picture.putdata(LABELS.ravel().tolist())
    picture.putpalette(np.random.default_rng(0).integers(256, size=768, dtype="uint8").tolist())
    picture.info["transparency"] = 1
    return picture


@pytest.mark.parametrize("void", [255, 3, 65535])
@pytest.mark.parametrize("kind", ["grey", "palette", "deep"])
def test_every_way_to_store_numbers(tmp_path, kind, void):
    stored = np.where(LABELS == 255, void, LABELS)
    if kind == "deep":
        pair(tmp_path, "a", stored.astype("uint16"))
    elif void < 256:
        pair(tmp_path, "a", palette() if kind == "palette" else stored.astype("uint8"))
    else:
        return
    assert open_segmentation(named(tmp_path, void=void), "train").label_map(0).tolist() == LABELS.tolist()


def test_without_names(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "b", np.full((4, 5), 6, "uint8"))
    pair(tmp_path, "c", split="validation")
    dataset = f"masks:{tmp_path}"
    for split in ("train", "val"):
        assert open_segmentation(dataset, split).classes == list("0123456")
    assert open_segmentation(dataset, "val", classes=NAMES).classes == NAMES
    pair(tmp_path, "d", np.full((4, 5), 300, "uint16"))
    with pytest.raises(
        ValueError, match="Expected 2 to 255 classes, received 301 in .*; name them in .*classes.json as "
    ):
        open_segmentation(dataset, "train")
    pair(tmp_path / "other", "a", split="test")
    with pytest.raises(
        ValueError, match="classes.json or the labels of a train split in .*, received neither; write down"
    ):
        open_segmentation(f"masks:{tmp_path / 'other'}", "test")


def test_what_is_left_out(tmp_path):
    for name in "abcdefg":
        pair(tmp_path, name)
    train = tmp_path / "train"
    (train / "labels" / "b.png").unlink()
    (train / "images" / "c.png").unlink()
    (train / "labels" / "d.png").unlink()
    os.mkfifo(train / "labels" / "d.png")
    Image.new("L", (2, 3)).save(train / "labels" / "e.png")  # its sides changed places
    Image.new("L", (3, 3)).save(train / "labels" / "f.png")
    (train / "labels" / "g.png").write_bytes(b"nothing")
    (train / "labels" / "._a.png").write_bytes(b"macOS")
    (train / "labels" / "a.tif").write_bytes((train / "labels" / "a.png").read_bytes())
    (train / "images" / "a.txt").write_text("a note")
    source = open_segmentation(named(tmp_path), "train", max_bad_fraction=0.9)
    assert [source.name(i) for i in range(len(source))] == ["a.png"]
    assert source.left_out == {
        "b.png": "no annotation",
        "labels/c.png": "no image",
        "labels/d.png": "no file but a FIFO, socket or device",
        "e.png": "height and width exchanged in its annotation",
        "f.png": "another size than was annotated",
        "labels/g.png": "not an image of a known format",
        "labels/a.tif": "a second label map beside a.png",
    }
    assert "1 image, 3 classes; left out: " in source.summary() and "1 for no annotation (b.png)" in source.summary()
    with pytest.raises(
        ValueError,
        match="Expected at most 50% .* unusable, received 4 of 5; left out: .*; correct the files, or raise max_bad",
    ):
        open_segmentation(named(tmp_path), "train")


def test_a_label_map_that_is_broken_is_named(tmp_path):
    """At the start, where it is broken then; later, where it breaks later."""
    pair(tmp_path, "a", LABELS + (LABELS == 2) * np.uint8(7))
    for name in "bcd":
        pair(tmp_path, name, np.random.default_rng(0).integers(3, size=(40, 50), dtype="uint8"))
    path = tmp_path / "train" / "labels" / "b.png"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    source = open_segmentation(named(tmp_path), "train")
    assert [source.name(i) for i in range(len(source))] == ["c.png", "d.png"]
    assert (
        source.left_out["labels/a.png"] == "the number 9, which is none of the 3 classes"
        and source.left_out.keys() == {"labels/a.png", "labels/b.png"}  # not counted again as images without annotation
    )
    path = tmp_path / "train" / "labels" / "c.png"
    intact = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Expected a readable label map, received labels/c.png .*; repair or remove"):
        source.label_map(0)
    pair(tmp_path, "c", np.full((40, 50), 9, "uint8"))
    with pytest.raises(
        ValueError, match="Expected a label map of numbers of the 3 classes, received 9 in labels/c.png; correct"
    ):
        source.label_map(0)
    for make in (path.unlink, lambda: os.mkfifo(path)):
        make()
        with pytest.raises(ValueError, match="received labels/c.png .no file of that name.; restore the file"):
            source.label_map(0)
    said = []
    source.report = said.append
    for _ in range(2):
        assert [labels.shape for labels in source.each(source.label_map)] == [(40, 50)]
    assert len(said) == 1 and said[0].endswith("It is left out of the metrics.") and list(source.broken) == ["c.png"]
    assert source.readable(0, source.label_map)[1] == 1
    path.unlink()
    path.write_bytes(intact)
    assert len(list(source.each(source.label_map))) == 2 and len(list(source.each(source.label_map, 1))) == 1


def shown(root, split="train", **options):
    """The summary and the label map of the first image."""
    source = open_segmentation(f"masks:{root}", split, **options)
    return source.classes, source.label_map(0).tolist(), source.summary()


@pytest.mark.parametrize("names", [None, ["background", "cell"], ["cell"]])
def test_masks_of_0_and_255_are_two_classes(tmp_path, names):
    """The mapping is decided by all label maps of the train split, and holds for the others."""
    mask = np.array([[0, 255, 255], [0, 0, 255]], "uint8")
    pair(tmp_path, "a", mask)
    pair(tmp_path, "b", 0 * mask)
    pair(tmp_path, "a", 255 + 0 * mask, split="val")
    if names:
        (tmp_path / "classes.json").write_text(json.dumps({"classes": names}))
    train = open_segmentation(f"masks:{tmp_path}", "train")
    assert (
        train.classes == (["background", "cell"] if names else ["0", "1"])
        and train.label_map(0).tolist() == (mask // 255).tolist()
    )
    assert f"hold 0 and 255 only: 255 is read as class 1 ({train.classes[1]}), not ignored" in train.summary()
    for given in (None, train, train.classes):
        assert shown(tmp_path, "val", classes=given)[:2] == (train.classes, [[1] * 3] * 2)


@pytest.mark.parametrize(
    ("other", "names"), [(1, None), (254, None), (1, ["background", "cell"]), (2, ["background", "cell", "wall"])]
)
def test_masks_of_0_and_255_beside_others_are_not_ignored_silently(tmp_path, other, names):
    """Nothing says what 255 is: by the first masks it is a class, by the last the number to ignore."""
    mask = np.array([[0, 255, 255], [0, 0, 255]], "uint8")
    for name, labels in (("a", mask), ("b", mask), ("c", mask // 255 * other)):
        pair(tmp_path, name, labels.astype("uint8"))
    if names:
        (tmp_path / "classes.json").write_text(json.dumps(names))
    with pytest.raises(
        ValueError,
        match=(
            f"received 0 and 255 only in 2 of 3 in .*labels, and {other} in others; correct those, or write"
            " .*classes.json as"
        ),
    ):
        open_segmentation(f"masks:{tmp_path}", "train")
    names = names or [str(k) for k in range(other + 1)]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": names, "void": 255}))
    assert shown(tmp_path)[:2] == (names, mask.tolist())
    (tmp_path / "classes.json").write_text(json.dumps({"0": "ground", "255": "cell"}))
    assert shown(tmp_path)[:2] == (["ground", "cell"], (mask // 255).tolist())


def test_masks_of_0_and_255_to_judge_what_was_learnt_from_0_and_1(tmp_path):
    for split, factor in (("train", 1), ("val", 255)):
        pair(tmp_path, "a", np.array([[0, factor]], "uint8"), split)
    train = open_segmentation(f"masks:{tmp_path}", "train")
    with pytest.raises(ValueError, match="received 0 and 255 only in 1 of 1 in .*val/labels; correct those"):
        open_segmentation(f"masks:{tmp_path}", "val", classes=train)


def test_masks_of_0_and_255_where_255_is_to_be_ignored(tmp_path):
    pair(tmp_path, "a", np.array([[0, 255]], "uint8"))
    (tmp_path / "classes.json").write_text('{"classes": ["ground", "cell"], "void": 255}')
    with pytest.raises(ValueError, match='received 0 and 255 only, of which .* has 255 ignored; take "void" out of it'):
        open_segmentation(f"masks:{tmp_path}", "train")
    (tmp_path / "classes.json").write_text('{"classes": ["ground", "cell"], "void": 0}')
    with pytest.raises(ValueError, match="received 0 and 255 only, of which .* has 0 ignored"):
        open_segmentation(f"masks:{tmp_path}", "train")
    (tmp_path / "classes.json").write_text('{"classes": ["ground", "cell", "wall"], "void": 255}')
    assert (
        shown(tmp_path)[:2] == (["ground", "cell", "wall"], [[0, 255]])
        and "255 is ignored; if it is a class, write" in shown(tmp_path)[2]
    )
    (tmp_path / "classes.json").write_text('{"255": "cell", "0": "ground"}')
    assert shown(tmp_path) == (
        ["ground", "cell"],
        [[0, 1]],
        "1 image, 2 classes. Numbers in the label maps: 0 is ground, 255 is cell",
    )


def test_masks_with_soft_edges_are_no_classes(tmp_path):
    edges = np.arange(100, dtype="uint8")[None]  # as of a mask that was resized with interpolation
    pair(tmp_path, "a", np.concatenate([edges, np.full((1, 100), 255, "uint8")]))
    with pytest.raises(
        ValueError, match="received 101 numbers from 0 to 255 in .*, as masks with soft edges have; resize masks"
    ):
        open_segmentation(f"masks:{tmp_path}", "train")
    pair(tmp_path, "a", edges)
    assert len(open_segmentation(f"masks:{tmp_path}", "train").classes) == 100


STORED = np.array([[0, 1, 2], [3, 7, 255]], "uint8")


@pytest.mark.parametrize(
    ("facts", "classes", "expected"),
    [
        (
            {"classes": ["grass", "water", "rock"], "void": [0, 7]},
            ["grass", "water", "rock"],
            [[255, 0, 1], [2, 255, 255]],
        ),
        (
            {"classes": ["grass", "water", "rock"], "void": [7, 1]},
            ["grass", "water", "rock"],
            [[0, 255, 1], [2, 255, 255]],
        ),
        (["a", "b", "c", "d", "e", "f", "g", "h"], list("abcdefgh"), [[0, 1, 2], [3, 7, 255]]),
        (
            {"7": "car", "0": "road", "1": "sky", "2": "tree", "3": "sign"},
            ["road", "sky", "tree", "sign", "car"],
            [[0, 1, 2], [3, 4, 255]],
        ),
        (
            {"car": 7, "road": 0, "sky": 1, "tree": 2, "void": 3},
            ["road", "sky", "tree", "car"],
            [[0, 1, 2], [255, 3, 255]],
        ),
        (
            {"classes": {"1": "sky", "2": "tree", "3": "sign", "7": "car"}, "void": 0},
            ["sky", "tree", "sign", "car"],
            [[255, 0, 1], [2, 3, 255]],
        ),
        (
            [{"id": k, "name": f"c{k}"} for k in (3, 2, 1, 0, 7, 255)],
            ["c0", "c1", "c2", "c3", "c7", "c255"],
            [[0, 1, 2], [3, 4, 5]],
        ),
    ],
)
def test_every_form_of_names(tmp_path, facts, classes, expected):
    pair(tmp_path, "a", STORED)
    (tmp_path / "classes.json").write_text(json.dumps(facts))
    found, labels, _ = shown(tmp_path)
    assert found == classes and labels == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", 'Expected {"classes": ."sky", "road"., "void": 255} or {"0": .*} in .*classes.json, received no JSON'),
        ("[" * 100_000, "received no JSON"),
        ("{}", "received {}; correct it"),
        ('"grass"', "received grass; correct it"),
        ('{"classes": "grass"}', "received grass; correct it"),
        ('{"classes": [["a"], "b"]}', "received .*'a'.*; correct it"),
        ('{"grass": [0, 128, 0], "road": [9, 9, 9]}', "received {'grass': .0, 128, 0., .*; correct it"),
        ('{"0": "a", "00": "b"}', "received {'0': 'a', '00': 'b'}; correct it"),
        (
            '{"classes": ["a", "b"], "void": -1}',
            "Expected void to be a number from 0 to 65535 or a list of such, received -1",
        ),
        ('{"classes": ["a", "b"], "void": [0, 70000]}', "received .0, 70000."),
        ('{"classes": ["a", "b", "a"]}', "Expected classes of different names in .*, received 'a' twice; rename one"),
        ('{"0": "a", "1": "b", "void": 1}', "Expected numbers to ignore that are no classes in .*, received 1 as both"),
        ('{"classes": []}', "Expected 2 to 255 classes, received 0 in .*; name them in .*classes.json as {"),
        (json.dumps({"classes": [str(k) for k in range(256)], "void": 256}), "Expected 2 to 255 classes, received 256"),
    ],
)
def test_bad_names(tmp_path, content, message):
    pair(tmp_path, "a")
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_segmentation(f"masks:{tmp_path}", "train")


def test_a_fifo_for_names_does_not_wait(tmp_path):
    pair(tmp_path, "a")
    os.mkfifo(tmp_path / "classes.json")
    with pytest.raises(ValueError, match="received no JSON .no file.; correct it"):
        open_segmentation(f"masks:{tmp_path}", "train")


def test_pixels_of_no_class(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "a", 0 * LABELS + 255, split="val")
    with pytest.raises(
        ValueError,
        match="Expected label maps with pixels of a class in .*val/labels, received pixels to ignore only; label some",
    ):
        open_segmentation(named(tmp_path), "val")
    pair(tmp_path, "b", split="val")
    assert len(open_segmentation(named(tmp_path), "val")) == 2


def test_classes_that_do_not_occur_are_mentioned(tmp_path):
    pair(tmp_path, "a", np.array([[0, 100, 200]], "uint8"))
    assert "Of 201 classes only 0, 100, 200 occur in the label maps; write " in shown(tmp_path)[2]


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_label_maps_turn_with_their_images(tmp_path, turn, rng):
    """Both are drawn in one frame; the image's EXIF tag turns the image, so the label map is turned too."""
    stored = rng.integers(0, 3, (4, 6), dtype="uint8")
    pair(tmp_path, "a", stored)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(80 * stored).save(tmp_path / "train" / "images" / "a.png", exif=exif)
    source = open_segmentation(named(tmp_path), "train")
    assert (
        source.size(0) == source.label_map(0).shape == (6, 4)
        and (source.image(0)[..., 0] == 80 * source.label_map(0)).all()
    )
    assert source.summary() == "1 image, 3 classes; label maps turned as the EXIF tags of their images say: 1"
    labels = source.label_map(0)
    Image.fromarray(labels).save(tmp_path / "train" / "labels" / "a.png")  # drawn upright
    upright = open_segmentation(named(tmp_path), "train")
    assert (upright.label_map(0) == labels).all() and "turned" not in upright.summary()


@pytest.mark.parametrize("form", ["tif", "bmp", "npy", "int64.npy", "int16.npy", "RGB", "RGBA", "LA"])
def test_other_files_of_numbers(tmp_path, form):
    pair(tmp_path, "a")
    labels = tmp_path / "train" / "labels"
    (labels / "a.png").unlink()
    if form.endswith("npy"):
        np.save(labels / "a.npy", LABELS.astype(form.partition(".")[0] if "." in form else "uint8"))
    else:
        picture = Image.fromarray(LABELS)
        picture.convert(form if form.isupper() else "L").save(labels / f"a.{'png' if form.isupper() else form}")
    assert shown(tmp_path, classes=NAMES)[1] == LABELS.tolist()


@pytest.mark.parametrize(
    ("picture", "name", "reason"),
    [
        (
            Image.new("RGB", (3, 2), (0, 128, 0)),
            "b.png",
            "colours (RGB) instead of the numbers of classes; save the numbers as",
        ),
        (Image.new("RGBA", (3, 2), (1, 1, 1, 0)), "b.png", "colours (RGBA) instead of"),
        (Image.new("CMYK", (3, 2)), "b.tif", "colours (CMYK) instead of"),
        (Image.new("L", (3, 2)), "b.jpg", "JPEG, which does not keep numbers; save it as PNG"),
        (Image.fromarray(np.full((2, 3), 70_000, "int32")), "b.tif", "numbers from 70000 to 70000, not 0 to 65535"),
        (Image.fromarray(np.full((2, 3), -1, "int32")), "b.tif", "numbers from -1 to -1, not 0 to 65535"),
        (Image.fromarray(np.zeros((2, 3), "float32")), "b.tif", "numbers with fractions (F); save the numbers as"),
        (np.full((2, 3), -1, "int64"), "b.npy", "numbers from -1 to -1, not 0 to 65535"),
        (np.full((2, 3), 70_000, "uint32"), "b.npy", "numbers from 70000 to 70000, not 0 to 65535"),
    ],
)
def test_files_without_numbers_of_classes(tmp_path, picture, name, reason):
    for stem in "abcd":
        pair(tmp_path, stem)
    (tmp_path / "train" / "labels" / "b.png").unlink()
    (
        np.save(tmp_path / "train" / "labels" / name, picture)
        if name.endswith("npy")
        else picture.save(tmp_path / "train" / "labels" / name)
    )
    source = open_segmentation(named(tmp_path), "train")
    assert len(source) == 3 and source.left_out[f"labels/{name}"].startswith(reason)


def test_a_split_in_capitals_and_one_that_is_empty(tmp_path):
    pair(tmp_path, "a", split="Train")
    for folder in ("images", "labels"):
        (tmp_path / "val" / folder).mkdir(parents=True)
    train = open_segmentation(named(tmp_path), "train")
    assert train.label_map(0).tolist() == LABELS.tolist() and train.label_name(0) == "labels/a.png"
    with pytest.raises(
        NoSuchSplit,
        match="Expected images and label maps in .*val, received none; add some, or use another split than val",
    ):
        open_segmentation(f"masks:{tmp_path}", "val", classes=train)
    pair(tmp_path, "b", split="TRAIN")
    with pytest.raises(
        ValueError, match="Expected one folder train in .*, received TRAIN and Train; rename or merge them"
    ):
        open_segmentation(f"masks:{tmp_path}", "train")


def test_label_maps_of_which_none_can_be_read(tmp_path):
    pair(tmp_path, "a")
    (tmp_path / "train" / "labels" / "a.png").unlink()
    Image.new("L", (3, 2)).save(tmp_path / "train" / "labels" / "a.jpg")
    with pytest.raises(
        ValueError,
        match="received none that can be used; left out: 1 for JPEG, which does not keep numbers; save it as PNG",
    ):
        open_segmentation(f"masks:{tmp_path}", "train")


def test_other_names(tmp_path):
    pair(tmp_path, "a")
    with pytest.raises(
        ValueError,
        match=(
            "Expected the 4 classes of training, received 3 in masks:.*; missing: a, b, c, 1 more; others: sky,"
            " road, tree"
        ),
    ):
        open_segmentation(named(tmp_path), "train", classes=list("abcd"))
    with pytest.raises(ValueError, match="Expected a dataset masks:PATH or tfds:scene_parse150, received 'coco:x'"):
        open_segmentation("coco:x", "train")
    with pytest.raises(
        ValueError, match="Expected tfds:scene_parse150, the only one supported, received tfds:cityscapes; convert it"
    ):
        open_segmentation("tfds:cityscapes", "train")
    with pytest.raises(ValueError, match="Expected train/images and train/labels in .*, received neither"):
        open_segmentation(f"masks:{tmp_path / 'train' / 'images'}", "train")
    (tmp_path / "train" / "images" / "a.png").unlink()
    with pytest.raises(
        ValueError, match="Expected annotated images in .*, received none that can be used; left out: 1 for no image"
    ):
        open_segmentation(f"masks:{tmp_path}", "train")


def png(array):
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


def test_scene_parse150(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    stored = np.array([[0, 1], [150, 7], [2, 2]], "uint8")
    image = np.full((3, 2, 3), 9, "uint8")
    records = [{"image": png(image), "annotation": png(labels)} for labels in (stored, stored + 1, stored[:2])]
    with tfds.testing.mock_data(as_data_source_fn=lambda builder, split, **options: records):
        source = open_segmentation("tfds:scene_parse150", "train", data_dir=tmp_path)
    assert source.label_map(0).tolist() == [[255, 0], [149, 6], [1, 1]] and len(source.classes) == 150
    assert (source.image(0) == image).all() and source.size(0) == (3, 2)
    with pytest.raises(ValueError, match=r"received 151 in the annotation of train\[1\]"):
        source.label_map(1)
    with pytest.raises(
        ValueError, match=r"Expected an image of 2x2 pixels, as it was annotated, received 3x2 in train\[2\]"
    ):
        source.image(2)
