import numpy as np
import pytest

from keras_splitmask.data import open_source
from keras_splitmask.data.arrays import ArraySource
from keras_splitmask.data.labels import check_labels

IMAGES = np.zeros((4, 4, 4), "uint8")


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        ([0, 2, 1, 1], [0, 2, 1, 1], None),
        ([[3], [1], [2], [1]], [3, 1, 2, 1], None),  # as CIFAR's, and without a 0
        (np.array([1, 0, 0, 1], "uint64"), [1, 0, 0, 1], None),
        ([1.0, 0.0, 2.0, 0.0], [1, 0, 2, 0], None),
        ([True, False, False, True], [1, 0, 0, 1], None),
        (np.eye(3)[[2, 0, 1, 1]], [2, 0, 1, 1], None),  # one-hot
        (["dog", "cat", "dog", "ant"], [2, 1, 2, 0], ["ant", "cat", "dog"]),
        ([b"dog", b"cat", "Käfer".encode(), b"cat"], [2, 1, 0, 1], ["Käfer", "cat", "dog"]),
        ([["b"], ["a"], ["b"], ["b"]], [1, 0, 1, 1], ["a", "b"]),
    ],
)
def test_every_usual_form(labels, numbers, classes):
    source = ArraySource(IMAGES, np.array(labels))
    assert source.labels.tolist() == numbers and source.labels.dtype == np.int32 and source.classes == classes
    assert source.class_count == (len(classes) if classes else max(numbers) + 1)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 1, 2], None, r"Expected a label for each of the 4 images, received labels \(3,\) in it; align them"),
        (np.zeros((4, 2, 2)), None, r"received labels \(4, 2, 2\)"),
        (0, None, r"received labels \(\)"),
        ([0.5, 1, 1, 1], None, "Expected labels as integers from 0 on or as text, received float64 in it"),
        ([np.nan, 1, 1, 1], None, "received float64"),
        (np.array([{}, {}, {}, {}]), None, "received object"),
        (np.zeros(4, "datetime64[s]"), None, "received datetime64"),
        ([0, 1, -1, 1], None, "Expected labels from 0 on, received -1"),
        ([0, 1, 2, 1], ["a", "b"], "Expected labels below 2, the names of classes, received 2 in it; add its name"),
        ([0, 1, 2**40, 1], None, "Expected labels that count the classes from 0 on, received 1099511627776"),
        (
            [[1, 1], [0, 1], [0, 0], [1, 0]],
            None,
            r"Expected one label for each image, received labels \(4, 2\) in it that are not one-hot",
        ),
        (["a", "b", "c", "a"], ["a", "b"], "Expected labels among the classes a, b, received c in it"),
        (np.array([b"\xff"] * 4), None, "Expected labels as text in UTF-8"),
    ],
)
def test_anything_else_is_refused_in_one_line(labels, classes, message):
    with pytest.raises(ValueError, match=message) as error:
        check_labels(labels, 4, "it", classes)
    assert "\n" not in str(error.value)


def test_names_have_the_same_number_in_every_split(tmp_path):
    """Also where a split lacks a class."""
    np.savez(
        tmp_path / "a.npz",
        x_train=IMAGES,
        y_train=["dog", "cat", "dog", "ant"],
        x_test=IMAGES,
        y_test=["dog", "dog", "cat", "cat"],
    )
    train, test = (open_source(f"npz:{tmp_path / 'a.npz'}", split) for split in ("train", "test"))
    assert train.classes == test.classes == ["ant", "cat", "dog"] and test.labels.tolist() == [2, 2, 1, 1]


def test_python_objects_are_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=np.array([{}, "cat", 1, 2], object))
    with pytest.raises(
        ValueError,
        match="Expected an .npz file of plain arrays, received Python objects in labels of .*; save numbers or text",
    ):
        open_source(f"npz:{tmp_path / 'a.npz'}")


def test_labels_are_numbered_by_the_names_of_another_split():
    train = ArraySource(IMAGES, ["ant", "bee", "cat", "dog"])
    test = ArraySource(IMAGES, ["dog", "bee", "dog", "dog"])
    assert test.labels.tolist() == [1, 0, 1, 1]
    test.number_by(train.classes)
    assert test.labels.tolist() == [3, 1, 3, 3] and test.classes == train.classes and test.class_count == 4
    other = ArraySource(IMAGES, ["dog", "cow", "elk", "dog"])
    with pytest.raises(
        ValueError,
        match="Expected only classes of the train split in the test split, received images of cow, elk; rename",
    ):
        other.number_by(train.classes, "the test split")
    with pytest.raises(ValueError, match="Expected labels in the data set, received none: there is no array of labels"):
        ArraySource(IMAGES).number_by(train.classes)


@pytest.mark.parametrize("names", [["cat", "dog", "elk"], [b"cat", b"dog", b"elk"]])
def test_names_of_classes_in_an_npz_file(tmp_path, names):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=[2, 0, 1, 1], classes=names)
    source = open_source(f"npz:{tmp_path / 'a.npz'}")
    assert source.classes == ["cat", "dog", "elk"] and source.labels.tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize(
    ("names", "received"),
    [("cat", r"an array \(\)"), ([["a", "b", "c"]], r"an array \(1, 3\)"), (["a", "b", "a"], "'a' twice")],
)
def test_names_of_classes_that_are_none(tmp_path, names, received):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=[2, 0, 1, 1], classes=names)
    with pytest.raises(
        ValueError, match=f"Expected classes as one name each, .K,., received {received} in .*; name each class once"
    ):
        open_source(f"npz:{tmp_path / 'a.npz'}")
