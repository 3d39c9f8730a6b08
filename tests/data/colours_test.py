import json

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import NoSuchSplit, open_segmentation

TABLE = {"sky": (0, 0, 255), "road": (128, 64, 128), "tree": (0, 128, 0), "Void": (0, 0, 0)}
LABELS = np.array([[0, 1, 2], [2, 255, 0]], "uint8")
COLOURS = np.array([*TABLE.values()], "uint8")[np.where(LABELS == 255, 3, LABELS)]  # (2, 3, 3)
CSV = "name,r,g,b\n" + "".join(f"{name},{r},{g},{b}\n" for name, (r, g, b) in TABLE.items())
CVAT = "# label:color_rgb:parts:actions\n" + "".join(f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in TABLE.items())
TABLES = {
    "class_dict.csv": CSV,
    "colours.csv": CSV.replace(",", ";").partition("\n")[2],
    "colors.csv": f"\ufeff{CSV}\n\n",
    "labelmap.txt": CVAT,
    "label_colors.txt": "".join(f"{r} {g} {b}\t{name}\n" for name, (r, g, b) in TABLE.items()),
}


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def pair(root, name="a", colours=COLOURS, split="train"):
    save(root / split / "images" / f"{name}.jpg", np.zeros((2, 3, 3), "uint8"))
    save(root / split / "labels" / f"{name}.png", colours)


def table(root, name="class_dict.csv"):
    (root / name).write_text(TABLES[name])
    return f"masks:{root}"


@pytest.mark.parametrize("name", TABLES)
def test_colours_are_classes(tmp_path, name):
    pair(tmp_path)
    pair(tmp_path, split="val")
    source = open_segmentation(table(tmp_path, name), "train")
    assert source.classes == ["sky", "road", "tree"] and source.label_map(0).tolist() == LABELS.tolist()
    assert source.summary() == f"1 image, 3 classes. Colours are those of {name}; Void ignored"
    judged = open_segmentation(f"masks:{tmp_path}", "val", classes=source)
    assert judged.label_map(0).tolist() == LABELS.tolist() and judged.class_numbers == source.class_numbers == [0, 1, 2]
    before = source.fingerprint
    (tmp_path / name).write_text(TABLES[name].replace("tree", "bush"))
    assert open_segmentation(f"masks:{tmp_path}", "train").fingerprint != before


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_other_ways_to_store_colours(tmp_path, mode):
    image = Image.fromarray(COLOURS)
    pair(tmp_path, colours=image.quantize(4) if mode == "P" else image.convert(mode))
    assert open_segmentation(table(tmp_path), "train").label_map(0).tolist() == LABELS.tolist()


def test_numbers_stay_numbers(tmp_path):
    """A table of colours beside label maps of numbers, and a classes.json beside colours."""
    pair(tmp_path, colours=LABELS)
    assert open_segmentation(table(tmp_path), "train").classes == ["0", "1", "2"]
    pair(tmp_path)
    pair(tmp_path, "b", LABELS)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": list("abc")}))
    source = open_segmentation(table(tmp_path), "train")
    assert source.left_out["labels/a.png"].startswith("colours (RGB) instead of the numbers of classes")


def test_other_colours_are_named_and_counted(tmp_path):
    for name in "abcd":
        pair(tmp_path, name)
    for name in "bc":
        pair(tmp_path, name, np.where(COLOURS == 64, 65, COLOURS).astype("uint8"))
    source = open_segmentation(table(tmp_path), "train")
    reason = "the colour 128,65,128, not in class_dict.csv"
    assert source.left_out == {"labels/b.png": reason, "labels/c.png": reason} and len(source) == 2
    assert f"left out: 2 for {reason} (labels/b.png, labels/c.png)" in source.summary()
    pair(tmp_path, "a", np.where(COLOURS == 64, 65, COLOURS).astype("uint8"))
    with pytest.raises(ValueError, match="Expected at most 50% .* received 3 of 4; left out: 3 for the colour 128,65,"):
        open_segmentation(f"masks:{tmp_path}", "train")


def test_jpeg_is_refused(tmp_path):
    pair(tmp_path)
    (tmp_path / "train" / "labels" / "a.png").unlink()
    save(tmp_path / "train" / "labels" / "a.jpg", COLOURS)
    with pytest.raises(ValueError, match="1 for JPEG, which is lossy, so its colours are not exact; save it as PNG"):
        open_segmentation(table(tmp_path), "train")


def test_transparent_and_deep_colours(tmp_path):
    for name in "abc":
        pair(tmp_path, name)
    pair(tmp_path, "b", np.dstack([COLOURS, np.full((2, 3), 9, "uint8")]))
    pair(tmp_path, "c", np.zeros((2, 3), "uint16"))
    source = open_segmentation(table(tmp_path), "train", max_bad_fraction=0.9)
    assert source.left_out["labels/b.png"].startswith("transparent pixels, whose colour is unknown")
    assert source.left_out["labels/c.png"].startswith("values that are no colours of 8 bits (I;16)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sky,0,0,0\nroad,1,1,256\n", "Expected name,r,g,b in each line, .* received road with 1,1,256; r, g and b"),
        ("sky,0,0,0\nroad,1,1\n", "received road with 1,1; r, g and b are from 0 to 255"),
        ("sky,0,0,0\nroad,1,-1,nan\n", "received road with 1,-1,nan"),
        ("sky,0,0,0\nroad,0,0,0\n", "Expected a colour for each class in .*, received one for sky and road"),
        ("sky,0,0,0\nvoid,1,1,1\n", "Expected the colours of 2 to 255 classes in .*class_dict.csv, received 1"),
        ("", "Expected the colours of 2 to 255 classes in .*class_dict.csv, received 0"),
        ('"sky,0,0,0\n' + "x" * 200_000, "received a line that is none"),
        ("sky,0,0,0\nroad,1,1,²\n", "received road with 1,1,²"),
        ("sky,0,0,0\nroad,1,1," + "9" * 5000 + "\n", "received road with 1,1,999"),
        ("sky,0,0,0\n" * 2000, "Expected the colours of 2 to 255 classes in .*, received more than 1000"),
        (b"\xff\xff", "Expected name,r,g,b in each line, .* received no text"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    pair(tmp_path)
    (tmp_path / "class_dict.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        open_segmentation(f"masks:{tmp_path}", "train")


@pytest.mark.parametrize("turn", [6, 8])
def test_colours_turn_with_their_images(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    pair(tmp_path)
    save(tmp_path / "train" / "images" / "a.jpg", np.zeros((2, 3, 3), "uint8"), exif=exif)
    source = open_segmentation(table(tmp_path), "train")
    assert (
        source.size(0) == (3, 2) and source.label_map(0).tolist() == np.rot90(LABELS, -1 if turn == 6 else 1).tolist()
    )
    save(tmp_path / "train" / "labels" / "a.png", np.rot90(COLOURS).copy())  # of the image as it is shown
    assert open_segmentation(table(tmp_path), "train").label_map(0).tolist() == np.rot90(LABELS).tolist()


def camvid(root):
    for split in ("train", "val"):
        for name in "abc":
            save(root / split / f"{name}.png", np.zeros((2, 3, 3), "uint8"))
            save(root / f"{split}_labels" / f"{name}_L.png", COLOURS)
    table(root)


def pascal(root):
    for name in "abcd":
        save(root / "JPEGImages" / f"{name}.jpg", np.zeros((2, 3, 3), "uint8"))
        if name != "d":
            save(root / "SegmentationClass" / f"{name}.png", COLOURS)
    for split in ("train", "val"):
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("a\nb\nc\n")
    table(root, "labelmap.txt")


def by_kind(root):
    for split in ("train", "val"):
        for name in "abc":
            save(root / "images" / split / f"{name}.jpg", np.zeros((2, 3, 3), "uint8"))
            save(root / "masks" / split / f"{name}.png", COLOURS)
    table(root)


@pytest.mark.parametrize("layout", [camvid, pascal, by_kind])
def test_layouts(tmp_path, layout):
    layout(tmp_path)
    train = open_segmentation(f"masks:{tmp_path}", "train")
    val = open_segmentation(f"masks:{tmp_path}", "val", classes=train)
    for source in (train, val):
        assert len(source) == 3 and source.label_map(2).tolist() == LABELS.tolist() and not source.left_out
    with pytest.raises(NoSuchSplit, match="Expected split to be one of train, val"):
        open_segmentation(f"masks:{tmp_path}", "test")
    labels = train.root / train.paths[1]
    labels.write_bytes(b"nothing")
    source = open_segmentation(f"masks:{tmp_path}", "train")
    name = f"{train.root.name}/{train.paths[1]}"
    assert source.left_out == {name: "not an image of a known format"}  # the image is not listed besides
    labels.unlink()
    assert list(open_segmentation(f"masks:{tmp_path}", "train").left_out.values()) == ["no annotation"]


@pytest.mark.parametrize("folder", ["images", "JPEGImages"])
def test_a_set_that_is_not_divided(tmp_path, folder):
    """CVAT exports such, as JPEGImages and SegmentationClass."""
    for k in range(10):
        save(tmp_path / folder / f"{k}.jpg", np.zeros((2, 3, 3), "uint8"))
        save(tmp_path / {"images": "masks"}.get(folder, "SegmentationClass") / f"{k}.png", COLOURS)
    dataset, lines = table(tmp_path, "labelmap.txt"), []
    assert len(open_segmentation(dataset, "train")) == 10
    with pytest.raises(NoSuchSplit, match="received a data set that is not divided"):
        open_segmentation(dataset, "val")
    train = open_segmentation(dataset, "train", val_fraction=0.2, report=lines.append)
    val = open_segmentation(dataset, "val", val_fraction=0.2, classes=train)
    assert "2 of 10 images, drawn by their names, are not trained on, but evaluated on." in lines[0]
    names = [{source.name(i) for i in range(len(source))} for source in (train, val)]
    assert list(map(len, names)) == [8, 2] and not names[0] & names[1] and not train.left_out and not val.left_out
