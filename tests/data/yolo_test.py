import pytest

from keras_splitmask.data import NoSuchSplit, detection_batches, open_detection
from tests.data.boxed_sets import expected, objects_of, picture, txt, write, yolo_set


def small(root, lines, turn=None):
    """A set of one image with these labels."""
    picture(root / "images" / "train" / "a.jpg", turn=turn)
    write(root / "labels" / "train" / "a.txt", lines)
    write(root / "classes.txt", "dog\ncat\n")
    return f"yolo:{root}"


def test_outlines_are_masks_and_give_boxes(tmp_path):
    source = open_detection(small(tmp_path, "1 0.25 0.25 0.5 0.25 0.5 0.75\n0 0.5 0.5 0.25 0.25\n"), "train")
    assert source.objects(0).boxes.tolist() == [[8, 16, 24, 32], [12, 24, 20, 40]]
    assert source.objects(0).segmentations == [[[16, 8, 32, 8, 32, 24]], None]
    assert (source.outlined, source.unoutlined) == (1, 1) and not source.left_out


def test_points_of_a_pose_are_not_an_outline(tmp_path):
    small(tmp_path, "0 0.5 0.5 0.25 0.25 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "data.yaml", "train: images/train\nkpt_shape: [2, 2]\nnames: [dog]\n")
    source = open_detection(f"yolo:{tmp_path}", "train")
    assert source.objects(0).boxes.tolist() == [[12, 24, 20, 40]] and not source.outlined


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.5 0.5", "a class that is none of the 2 named"),
        ("-1 0.5 0.5 0.5 0.5", "a class that is none of the 2 named"),
        ("dog 0.5 0.5 0.5 0.5", "a class that is none of the 2 named"),
        ("nan 0.5 0.5 0.5 0.5", "a class that is none of the 2 named"),
        ("0.5 0.5 0.5 0.5 0.5", "a class that is none of the 2 named"),
        ("0 0.5 nan 0.5 0.5", "values that are not finite numbers"),
        ("0 0.5 1e999 0.5 0.5", "values that are not finite numbers"),
        ("0, 0.5, 0.5, 0.5, 0.5", "a class that is none of the 2 named"),
        ("0", "1 values, not 5 of a box or an odd number from 7 on of an outline"),
        ("0 0.5 0.5 0.5 0.5 0.9", "6 values, not 5 of a box or an odd number from 7 on of an outline"),
        ("0 0.5 0.5 0 0.5", "an empty box"),
        ("0 0.5 0.5 -0.5 0.5", "an empty box"),
        ("0 1.5 0.5 0.5 0.5", "a box outside its image"),
        ("0 32 16 20 10", "a box outside its image"),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path, line, reason):
    source = open_detection(small(tmp_path, f"1.0 0.5 0.5 0.5 0.5\n\n{line}\n"), "train")
    assert source.left_out == {"line 3 of a.txt": reason} and source.objects(0).labels.tolist() == [1]
    assert source.summary().endswith(f"; left out: 1 for {reason} (line 3 of a.txt)")


def test_boxes_in_pixels_are_refused(tmp_path):
    dataset = small(tmp_path, "0 32 16 20 10\n" * 8)
    with pytest.raises(ValueError, match="Expected boxes as class, x and y of the centre, .* received 8 of 8 boxes"):
        open_detection(dataset, "train")


def test_rounding_is_not_a_cut(tmp_path):
    source = open_detection(small(tmp_path, "0 0.333333 0.5 0.666667 1.000001\n0 0.9 0.5 0.4 0.5\n"), "train")
    assert source.objects(0).boxes[0].tolist() == pytest.approx([0, 0, 32, 64 * 2 / 3], abs=1e-4)
    assert "1 of them cut at the border" in source.summary()


def test_missing_files(tmp_path):
    yolo_set(tmp_path, ["train"])
    for name in ("d", "e"):
        picture(tmp_path / "images" / "train" / f"{name}.jpg")
    labels = tmp_path / "labels" / "train"
    write(labels / "e.txt", b"\xff\xfe\x00")
    write(labels / "gone.txt", txt("a"))
    (labels / "e.cache").write_bytes(b"\0")
    (tmp_path / "images" / "train" / "b.jpg").write_bytes(b"")
    source = open_detection(f"yolo:{tmp_path}", "train")
    assert list(objects_of(source)) == ["a.jpg", "c.jpg", "d.jpg"]  # c and d are without objects
    assert source.left_out == {"e.txt": "no text", "b.jpg": "an empty file", "gone.txt": "no image"}
    assert source.summary().startswith("3 images, 2 of them without objects; 2 objects of 2 classes")


def test_labels_of_too_many_bytes_or_lines_are_not_read(tmp_path):
    yolo_set(tmp_path, ["train"])
    with open(tmp_path / "labels" / "train" / "b.txt", "wb") as file:
        file.truncate(10**9)
    write(tmp_path / "labels" / "train" / "c.txt", "0\n" * 50_001)
    source = open_detection(f"yolo:{tmp_path}", "train", max_bad_fraction=0.9)
    reasons = {"b.txt": "1000 MB, more than the 2 of a file of annotations", "c.txt": "more than 50,000 lines"}
    assert source.left_out == reasons


@pytest.mark.parametrize("turn", [3, 6])
def test_fractions_are_of_the_image_as_it_is_shown(tmp_path, turn):
    lines = []
    source = open_detection(small(tmp_path, "0 0.25 0.5 0.5 1\n", turn), "train", report=lines.append)
    height, width = source.size(0)
    assert (height, width) == source.image(0).shape[:2] == ((64, 32) if turn == 6 else (32, 64))
    assert source.objects(0).boxes.tolist() == [[0, 0, height, width / 2]]


def test_lists_of_images(tmp_path):
    yolo_set(tmp_path, ["train"])
    write(
        tmp_path / "lists" / "train.txt", "./images/train/a.jpg\nelsewhere/images/train/b.jpg\nimages/train/gone.jpg\n"
    )
    write(tmp_path / "data.yaml", "train: lists/train.txt\nval: [images/train]\nnames: {0: dog, 1: cat}\n")
    with pytest.raises(ValueError, match="received none that can be used; left out: 3 for no such file"):
        open_detection(f"yolo:{tmp_path}", "train")  # the paths of a list begin where it lies
    write(tmp_path / "train.txt", (tmp_path / "lists" / "train.txt").read_text())
    write(tmp_path / "data.yaml", "train: train.txt\nval: [images/train]\nnames: {0: dog, 1: cat}\n")
    source = open_detection(f"yolo:{tmp_path}", "train")
    assert list(objects_of(source)) == ["a.jpg", "b.jpg"] and source.left_out == {"gone.jpg": "no such file"}
    assert objects_of(open_detection(f"yolo:{tmp_path}", "val")) == expected()


def test_several_folders(tmp_path):
    """Each image has its labels where its own folder images says."""
    for folder, name in (("images/old", "a"), ("more/images", "b"), ("images/other", "c"), ("flat", "d")):
        picture(tmp_path / folder / f"{name}.jpg")
        write(tmp_path / folder.replace("images", "labels") / f"{name}.txt", txt("b"))
    write(tmp_path / "data.yaml", "train:\n  - images/old\n  - more/images\n  - flat\nnames: [dog, cat]\n")
    source = open_detection(f"yolo:{tmp_path}", "train")
    names = ["flat/d.jpg", "images/old/a.jpg", "more/images/b.jpg"]
    assert objects_of(source) == {name: expected()["b.jpg"] for name in names} and not source.left_out


def test_folders_that_lie_far_apart_are_refused(tmp_path):
    """The folder around them, here all of `tmp_path`, may be the whole disk."""
    small(tmp_path / "a" / "set", "0 0.5 0.5 0.5 0.5\n")
    small(tmp_path / "b" / "other", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "a" / "set" / "data.yaml", f"train: [images/train, {tmp_path}/b/other/images]\nnames: [dog]\n")
    with pytest.raises(ValueError, match=f"received images in several whose common folder is {tmp_path}; move or link"):
        open_detection(f"yolo:{tmp_path / 'a' / 'set'}", "train")


def test_data_yaml_may_be_named_itself(tmp_path):
    yolo_set(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "pets.yaml")
    write(tmp_path / "other.yaml", "names: [fish]\n")
    assert objects_of(open_detection(f"yolo:{tmp_path / 'pets.yaml'}", "train")) == expected()
    with pytest.raises(ValueError, match="Expected the names of the classes in data.yaml, classes.txt or obj.names in"):
        open_detection(f"yolo:{tmp_path}", "train")  # which of the two files counts nobody can know


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/none\nnames: [a]\n", "Expected the images of a split in images/none, as data.yaml says"),
        ("train: images/train\nnames: [a, [b]]\n", "names is neither a text nor a list or table of texts"),
        ("train: images/train\nnames: [a\n", "received what cannot be read .line 3 is no YAML"),
        ("names: " + "[" * 100_000, "received what cannot be read .maximum recursion depth"),
        ("names: !!python/object/apply:os.getcwd []\ntrain: images/train\n", "Expected the names of the classes"),
        ("train: images/train\nnames: {a: b}\n", "Expected names as a list, or by their numbers, in .*data.yaml"),
        (b"\xff\xfe", "Expected path, train, val and names in .*data.yaml, received what cannot be read"),
    ],
)
def test_bad_settings(tmp_path, text, message):
    yolo_set(tmp_path)
    write(tmp_path / "data.yaml", text)
    with pytest.raises(ValueError, match=message):
        open_detection(f"yolo:{tmp_path}", "train")


def test_other_folders(tmp_path):
    with pytest.raises(ValueError, match="Expected data.yaml, or images with labels/.*txt, in .*, received neither"):
        open_detection(f"yolo:{tmp_path}", "train")
    yolo_set(tmp_path, ["val"])
    with pytest.raises(NoSuchSplit, match="Expected split to be one of val"):
        open_detection(f"yolo:{tmp_path}", "train")


def test_batches(tmp_path):
    pytest.importorskip("grain")
    source = open_detection(yolo_set(tmp_path), "train")
    images, targets = next(iter(detection_batches(source, (32, 64, 3), 2, augment=False, steps=1)))
    assert images.shape == (2, 32, 64, 3) and targets["labels"].max() == 1
