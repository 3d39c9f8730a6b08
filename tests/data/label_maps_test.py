import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import NoSuchSplit, open_segmentation
from keras_splitmask.data.label_maps import read_numbers

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
    assert source.label_map(0).tolist() == LABELS.tolist() and source.label_map(0).dtype == np.uint8 and source.classes == NAMES
    assert source.image(1).shape == (4, 5, 3) and source.size(1) == (4, 5) and source.labels is None
    assert source.summary() == "2 images, 3 classes"
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


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits(bits):
    """Grey of so many bits, written by hand, since Pillow writes 1 or 8: two rows of 8 / bits pixels."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    numbers = np.random.default_rng(0).integers(2**bits, size=(2, 8 // bits))
    packed = [sum(int(n) << (8 - bits * (place + 1)) for place, n in enumerate(row)) for row in numbers]
    header = struct.pack(">IIBBBBB", 8 // bits, 2, bits, 0, 0, 0, 0)
    rows = zlib.compress(bytes([0, packed[0], 0, packed[1]]))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert read_numbers(content, "it").tolist() == numbers.tolist()


def test_without_names(tmp_path):
    pair(tmp_path, "a")
    pair(tmp_path, "b", np.full((4, 5), 6, "uint8"))
    pair(tmp_path, "c", split="validation")
    dataset = f"masks:{tmp_path}"
    for split in ("train", "val"):
        assert open_segmentation(dataset, split).classes == list("0123456")
    assert open_segmentation(dataset, "val", classes=NAMES).classes == NAMES
    pair(tmp_path, "d", np.full((4, 5), 300, "uint16"))
    with pytest.raises(ValueError, match="Expected 1 to 255 classes in .*, received 301; join some, or write .*classes.json"):
        open_segmentation(dataset, "train")
    pair(tmp_path / "other", "a", split="test")
    with pytest.raises(ValueError, match="classes.json or the labels of a train split in .*, received neither; write down"):
        open_segmentation(f"masks:{tmp_path / 'other'}", "test")


def test_what_is_left_out(tmp_path):
    for name in "abcdefg":
        pair(tmp_path, name)
    train = tmp_path / "train"
    (train / "labels" / "b.png").unlink()
    (train / "images" / "c.png").unlink()
    Image.new("RGB", (3, 2)).save(train / "labels" / "d.png")
    Image.new("L", (2, 3)).save(train / "labels" / "e.png")  # its sides changed places
    Image.new("L", (3, 3)).save(train / "labels" / "f.png")
    (train / "labels" / "g.png").write_bytes(b"nothing")
    (train / "labels" / "._a.png").write_bytes(b"macOS")
    (train / "images" / "a.txt").write_text("a note")
    source = open_segmentation(named(tmp_path), "train")
    assert [source.name(i) for i in range(len(source))] == ["a.png", "e.png"]
    assert source.left_out == {
        "b.png": "no annotation",
        "labels/c.png": "no image",
        "d.png": "no annotation",
        "labels/d.png": "colours (RGB) instead of the numbers of classes",
        "f.png": "another size than was annotated",
        "g.png": "no annotation",
        "labels/g.png": "no label map that can be read",
    }
    assert "2 images, 3 classes; left out: " in source.summary() and "3 for no annotation (b.png, d.png, g.png)" in source.summary()
    assert source.readable(1, source.image)[1] == 0
    assert "Expected an image of 3x2 pixels, as it was annotated, received 2x3" in source.broken["e.png"]


def test_a_label_map_that_is_broken_is_named(tmp_path):
    pair(tmp_path, "a", LABELS + (LABELS == 2) * np.uint8(7))
    pair(tmp_path, "b", np.random.default_rng(0).integers(3, size=(40, 50), dtype="uint8"))
    pair(tmp_path, "c")
    source = open_segmentation(named(tmp_path), "train")
    with pytest.raises(ValueError, match="Expected a label map of numbers of the 3 classes, received 9 in labels/a.png; correct"):
        source.label_map(0)
    path = tmp_path / "train" / "labels" / "b.png"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Expected a readable label map, received labels/b.png .*; repair or remove"):
        source.label_map(1)
    path.unlink()
    with pytest.raises(ValueError, match="received labels/b.png .No such file or directory.; restore the file"):
        source.label_map(1)
    assert source.readable(0, source.label_map)[1] == 2 and "received 9 in labels/a.png" in source.broken["a.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", 'Expected {"classes": .names., "void": 255} in .*, received other content'),
        ("{}", "received other content .KeyError"),
        ('{"classes": ["a"], "void": 0}', "Expected void to be a number from 1, after the classes, to 65535, received 0"),
        ('{"classes": ["a"], "void": null}', "received None"),
        ('{"classes": []}', "Expected 1 to 255 classes in .*, received 0"),
        (json.dumps({"classes": [str(k) for k in range(256)], "void": 256}), "received 256; join some"),
    ],
)
def test_bad_names(tmp_path, content, message):
    pair(tmp_path, "a")
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_segmentation(f"masks:{tmp_path}", "train")


def test_other_names(tmp_path):
    pair(tmp_path, "a")
    with pytest.raises(ValueError, match="Expected the 4 classes a, b, c, 1 more, received 3 in masks:.*: sky, road, tree"):
        open_segmentation(named(tmp_path), "train", classes=list("abcd"))
    with pytest.raises(ValueError, match="Expected a dataset masks:PATH or tfds:scene_parse150, received 'coco:x'"):
        open_segmentation("coco:x", "train")
    with pytest.raises(ValueError, match="Expected tfds:scene_parse150, the one that is known, received tfds:cityscapes; convert it"):
        open_segmentation("tfds:cityscapes", "train")
    with pytest.raises(ValueError, match="Expected train/images and train/labels in .*, received neither"):
        open_segmentation(f"masks:{tmp_path / 'train'}", "train")
    (tmp_path / "train" / "images" / "a.png").unlink()
    with pytest.raises(ValueError, match="Expected the 0 annotated images in .*, received none"):
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
    with pytest.raises(ValueError, match=r"Expected an image of 2x2 pixels, as it was annotated, received 3x2 in train\[2\]"):
        source.image(2)
