import numpy as np
import pytest

from keras_splitmask.data import open_detection
from keras_splitmask.data.xml_files import MAX_XML, parse
from tests.data.boxed_sets import coco, expected, objects_of, picture, voc_set, write, xml, xml_object

BOMB = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'


def test_difficult_objects_are_ignored(tmp_path):
    dataset = voc_set(tmp_path, [])
    hard = xml_object("dog", [8, 4, 16, 20], "<difficult>1</difficult><pose>Left</pose>")
    write(tmp_path / "Annotations" / "c.xml", xml("c").replace("</annotation>", f"{hard}</annotation>"))
    source = open_detection(dataset, "train")
    assert source.objects(2).crowd.tolist() == [True] and not source.objects(0).crowd.any()
    assert "1 difficult object, ignored" in source.summary()


def test_parts_of_an_object_are_no_objects(tmp_path):
    dataset = voc_set(tmp_path, [])
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    write(tmp_path / "Annotations" / "a.xml", xml("a").replace("</bndbox>", f"</bndbox>{part}"))
    assert objects_of(open_detection(dataset, "train")) == expected()


@pytest.mark.parametrize("box", [[0, 4, 16, 20], [8.25, 4.5, 16, 20]])
def test_coordinates_that_are_counted_from_0(tmp_path, box):
    """Some programs count so. A 0 shows it, or that most coordinates are fractions."""
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", xml("a", [("dog", box)], from_zero=True))
    source = open_detection(f"voc:{tmp_path}", "train")
    left, top, width, height = box
    assert source.objects(0).boxes.tolist() == [[top, left, top + height, left + width]]
    assert "coordinates are counted from 0, since some are below 1 or most are fractions" in source.summary()


def test_the_evaluation_is_counted_as_the_training(tmp_path):
    for split, box in (("train", [0, 4, 16, 20]), ("val", [8, 4, 16, 20])):
        picture(tmp_path / split / "a.jpg")
        write(tmp_path / split / "a.xml", xml("a", [("dog", box)], from_zero=True))
    train = open_detection(f"voc:{tmp_path}", "train")
    assert open_detection(f"voc:{tmp_path}", "val", classes=train).objects(0).boxes.tolist() == [[4, 8, 24, 24]]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<xmax>24</xmax>", "<xmax>5</xmax>", "an empty box"),
        ("<xmax>24</xmax>", "<xmax>nan</xmax>", "a box that is not four finite numbers"),
        ("<xmax>24</xmax>", "", "a box that is not four finite numbers"),
        ("bndbox", "box", "a box that is not four finite numbers"),
        ("<name>dog</name>", "", "an object without a name"),
        ("<name>dog</name>", "<name> </name>", "an object without a name"),
    ],
)
def test_what_is_wrong_with_an_object(tmp_path, old, new, reason):
    dataset = voc_set(tmp_path, [])
    text = xml("c", [("dog", [8, 4, 16, 20])])
    assert old in text
    write(tmp_path / "Annotations" / "c.xml", text.replace(old, new))
    source = open_detection(dataset, "train")
    assert source.left_out == {"object 1 of c.xml": reason} and objects_of(source) == expected()
    assert source.summary().endswith(f"; left out: 1 for {reason} (object 1 of c.xml)")


def test_boxes_beyond_the_image(tmp_path):
    dataset = voc_set(tmp_path, [])
    write(tmp_path / "Annotations" / "c.xml", xml("c", [("dog", [50, 20, 30, 30]), ("dog", [64, 4, 16, 20])]))
    source = open_detection(dataset, "train")
    assert source.objects(2).boxes.tolist() == [[20, 50, 32, 64]] and "1 of them cut at the border" in source.summary()
    assert source.left_out == {"object 2 of c.xml": "a box outside its image"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no XML: no element found: line 1, column 0"),
        ("<annotation><object>", "no XML: no element found: line 1, column 20"),
        (b"\xff\xd8\xff\xe0JFIF", "no XML: not well-formed (invalid token): line 1, column 0"),
        ("<html/>", "an element html instead of annotation"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "no XML: unknown encoding: klingon"),
        (f"{BOMB}<annotation>&c;</annotation>", "an XML file with a document type"),
        (f"{BOMB}<annotation>&c;</annotation>".encode("utf-16"), "an XML file with a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "an XML file with a document type"),
        (b" " * (MAX_XML + 1), "2 MB, more than the 2 of a file of annotations"),
        (None, "no such file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, reason):
    dataset = voc_set(tmp_path, ["train"])
    path = tmp_path / "Annotations" / "b.xml"
    path.unlink() if content is None else write(path, content)
    source = open_detection(dataset, "train")
    assert list(source.left_out) == ["b.xml"] and source.left_out["b.xml"].startswith(reason)
    assert objects_of(source) == {name: objects for name, objects in expected().items() if name != "b.jpg"}
    with pytest.raises(ValueError, match=r"at most 10% of the annotated images .* received 1 of 3; left out: 1 for"):
        open_detection(dataset, "train", max_bad_fraction=0.1)


def test_xml_of_a_deep_tree():
    assert parse(b"<a>" * 100_000 + b"</a>" * 100_000).tag == "a"


def test_missing_images_and_lists(tmp_path):
    dataset = voc_set(tmp_path, [])
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    picture(tmp_path / "JPEGImages" / "d.jpg")
    picture(tmp_path / "JPEGImages" / "c.jpg", (30, 32))
    source = open_detection(dataset, "train", max_bad_fraction=0.9)
    assert source.left_out == {
        "b.jpg": "no such file",
        "c.jpg": "another size than was annotated",
        "d.jpg": "no annotation",
    }
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "a\ngone\n")
    write(tmp_path / "ImageSets" / "Main" / "dog_train.txt", "a  1\nb -1\n")
    source = open_detection(dataset, "train")
    assert list(objects_of(source)) == ["a.jpg"] and source.left_out == {"gone.xml": "no such file"}


@pytest.mark.parametrize("size", [None, (0, 0), ("wide", 32)])
def test_without_a_size_that_of_the_image_counts(tmp_path, size):
    picture(tmp_path / "a.jpg", turn=6)
    write(tmp_path / "a.xml", xml("a", [("dog", [4, 8, 20, 16])], size=size))
    source = open_detection(f"voc:{tmp_path}", "train")
    assert source.size(0) == source.image(0).shape[:2] == (64, 32)
    assert source.objects(0).boxes.tolist() == [[8, 4, 24, 24]]


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_the_size_says_whether_the_photograph_was_shown_turned(tmp_path, form):
    """COCO and VOC hold the size of what was annotated: the image as stored, or as it is shown."""
    for name in "ab":
        picture(tmp_path / "train" / "images" / f"{name}.jpg", turn=6 if name == "a" else None)
    if form == "voc":
        for name in "ab":
            write(tmp_path / "train" / f"{name}.xml", xml(name, [("dog", [8, 4, 16, 20])]))
    else:
        write(tmp_path / "train" / "instances.json", coco("ab"))
    source = open_detection(f"{form}:{tmp_path}", "train")
    assert source.size(0) == source.image(0).shape[:2] == (64, 32)
    assert source.objects(0).boxes[0].tolist() == [8, 8, 24, 28]  # turned by a quarter, clockwise
    assert "1 annotation of images turned as their EXIF tags say" in source.summary()
    if form == "voc":
        write(tmp_path / "train" / "a.xml", xml("a", [("dog", [8, 4, 16, 20])], size=(32, 64)))
    else:
        write(tmp_path / "train" / "instances.json", coco("a", size=(32, 64)))
    source = open_detection(f"{form}:{tmp_path}", "train")
    assert source.size(0) == (64, 32) and source.objects(0).boxes[0].tolist() == [4, 8, 24, 24]


def test_names_that_are_not_utf_8(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    (tmp_path / "Annotations").mkdir()
    try:
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
    except OSError:
        pytest.skip("this file system refuses such names")
    (tmp_path / "Annotations" / f"{name}.xml").write_text(xml("a"))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(b"caf\xe9\r\n")
    source = open_detection(f"voc:{tmp_path}", "train")
    assert source.name(0) == "caf\\udce9.jpg" and source.image(0).dtype == np.uint8 and not source.left_out


def test_other_folders(tmp_path):
    with pytest.raises(ValueError, match="Expected Annotations/.*xml with JPEGImages, or an .xml file beside each"):
        open_detection(f"voc:{tmp_path}", "train")
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(ValueError, match="Expected annotated images in .*, received none that can be used"):
        open_detection(f"voc:{tmp_path}", "train")
