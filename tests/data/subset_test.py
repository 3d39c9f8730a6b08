import json

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import balanced, open_source, read_all, subset_of
from keras_splitmask.data.arrays import ArraySource


def test_a_balanced_subset_has_as_many_of_each_class_and_its_own_images():
    source = open_source("sample", "test")
    subset = balanced(source, 50, seed=3)
    assert len(subset) == 50
    assert np.bincount(subset.labels).tolist() == [5] * 10
    assert len(set(subset.indices.tolist())) == 50
    for i in (0, 20, 49):
        assert np.array_equal(subset.image(i), source.image(subset.indices[i]))
        assert subset.labels[i] == source.labels[subset.indices[i]]


def test_an_uneven_count_is_spread_and_the_seed_decides_what_is_drawn():
    source = open_source("sample", "test")
    assert sorted(np.bincount(balanced(source, 13).labels).tolist()) == [1] * 7 + [2] * 3
    assert np.array_equal(balanced(source, 20, seed=1).indices, balanced(source, 20, seed=1).indices)
    assert not np.array_equal(balanced(source, 20, seed=1).indices, balanced(source, 20, seed=2).indices)


def test_too_much_or_too_little_is_refused():
    source = open_source("sample", "test")
    with pytest.raises(ValueError, match="at least one image for each of the 10 classes"):
        balanced(source, 9)
    with pytest.raises(ValueError, match="Expected 1 to 2000 images, all there are, received 2001"):
        balanced(source, 2001)
    assert np.bincount(balanced(source, 2000).labels).tolist() == [200] * 10


def unbalanced(*sizes):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return ArraySource(np.zeros((len(labels), 4, 4), "uint8"), labels)


@pytest.mark.parametrize(
    ("sizes", "amount", "counts"),
    [
        ((90, 10, 2), "50%", [45, 5, 1]),
        ((90, 10, 2), "10%", [8, 1, 1]),  # one of the smallest class, at the cost of the largest
        ((1000, 1, 1, 1), "1%", [7, 1, 1, 1]),
        ((90, 10, 2), "100%", [90, 10, 2]),
        ((8, 3, 1), "10%", [1, 1, 1]),  # one of each, although a tenth is one image
        ((8, 3, 1), "1%", [1, 1, 1]),
        ((7, 7), "50%", None),
        ((90, 10, 2), "60", [48, 10, 2]),  # all there are of the small ones
        ((90, 10, 2), "30", [18, 10, 2]),
        ((90, 10, 2), "102", [90, 10, 2]),
        ((5, 100, 100), "26", None),
    ],
)
def test_of_an_unbalanced_set_what_there_is_of_each_class(sizes, amount, counts):
    source = unbalanced(*sizes)
    drawn = subset_of(source, amount, seed=3)
    found = np.bincount(drawn.labels, minlength=len(sizes)).tolist()
    if counts is None:  # who has one more is drawn
        counts = {"50%": [[3, 4], [4, 3]], "26": [[5, 10, 11], [5, 11, 10]]}[amount]
        assert found in counts
    else:
        assert found == counts
    assert len(set(drawn.indices.tolist())) == len(drawn) and drawn.class_count == len(sizes)
    assert drawn.labels.tolist() == source.labels[drawn.indices].tolist()


def test_what_broke_is_known_to_the_whole_set(tmp_path):
    for i in range(6):
        Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    source = open_source(f"folder:{tmp_path}")
    source.record = tmp_path / "run" / "data.json"
    subset = subset_of(source, "4")
    (tmp_path / subset.name(1)).write_bytes(b"broken since")
    assert len(read_all(subset, (4, 4, 3))[0]) == 3
    subset.save_record(more="facts")
    facts = json.loads(source.record.read_text())
    assert list(facts["broken"]) == [subset.name(1)] == list(source.broken) and facts["more"] == "facts"
    assert subset.summary() == "4 of 6 images of 9x9" and len(facts["images"]) == 6


def test_an_amount_is_a_number_or_a_share(rng, tmp_path):
    labelled = open_source("sample", "test")
    assert np.bincount(subset_of(labelled, "5%").labels).tolist() == [10] * 10
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (40, 4, 4, 3), "uint8"))
    unlabelled = open_source(f"npy:{tmp_path / 'images.npy'}")
    first, again, other = (subset_of(unlabelled, "10", seed).indices.tolist() for seed in (1, 1, 2))
    assert first == again != other and len(set(first)) == 10 and len(subset_of(unlabelled, "25%")) == 10
    assert len(subset_of(unlabelled, "100%")) == 40
    for amount in ("0", "41", "0%", "0.1%", "102%", "150%", "nan%", "inf%", "many", "-1", "5.5", "%", ""):
        with pytest.raises(ValueError, match="^Expected [^\n]*$"):
            subset_of(unlabelled, amount)


def test_a_list_of_names(tmp_path):
    source, names = open_source("sample", "test"), tmp_path / "names.txt"
    drawn = subset_of(source, "30", seed=5)
    names.write_text("".join(f"{drawn.name(i)}\n" for i in range(30)))
    again = subset_of(source, str(names))
    assert again.indices.tolist() == drawn.indices.tolist() and again.labels.tolist() == drawn.labels.tolist()
    names.write_text("test[3]\ntest[2000]\n")
    with pytest.raises(
        ValueError,
        match=r"Expected names of images in .*, such as test\[0\], received test\[2000\], which is not among them",
    ):
        subset_of(source, str(names))
    names.write_text("".join(f"test[{i}]\n" for i in range(1995, 2010)))
    with pytest.raises(
        ValueError, match=r"received test\[2000\], .*, test\[2004\] and 5 more, which are not among them"
    ):
        subset_of(source, str(names))
    names.write_text("test[3]\r\n\ntest[7]\r\ntest[3]", encoding="utf-8-sig", newline="")  # as an editor may leave it
    assert subset_of(source, str(names)).indices.tolist() == [3, 7]
    names.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="Expected a text file that lists names of images"):
        subset_of(source, str(names))
    names.write_text("\n")
    with pytest.raises(ValueError, match="received none"):
        subset_of(source, str(names))
