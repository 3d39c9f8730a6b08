"""Undivided sets: how they are divided, and that no image is on both sides."""

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import (
    Subset,
    copies,
    divided,
    joined,
    open_source,
    read_division,
    read_groups,
    write_division,
)
from keras_splitmask.data.arrays import ArraySource


def arrays(*sizes):
    """A source with a given number of images of each class, each of its own value."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    images = np.arange(len(labels), dtype="uint16")[:, None, None] * np.ones((4, 4), "uint16")
    return ArraySource(images, labels)


@pytest.mark.parametrize(
    ("sizes", "fraction", "counts"),
    [
        ((50, 10, 5), 0.2, [10, 2, 1]),
        ((50, 4, 2, 1), 0.1, [5, 1, 1, 0]),  # at least one of those that have two
        ((3, 3), 0.9, [2, 2]),  # at least one stays
    ],
)
def test_each_class_gives_its_fraction(sizes, fraction, counts):
    source = arrays(*sizes)
    rest, drawn = divided(source, fraction, seed=3)
    assert np.bincount(drawn.labels, minlength=len(sizes)).tolist() == counts
    assert sorted([*rest.indices, *drawn.indices]) == list(range(len(source)))
    again, other = divided(source, fraction, seed=3)[1], divided(source, fraction, seed=4)[1]
    assert np.array_equal(drawn.indices, again.indices)
    if sizes[0] > 3:
        assert not np.array_equal(drawn.indices, other.indices)


def test_a_class_of_few_gives_none_where_that_is_asked():
    _, drawn = divided(arrays(50, 5, 4), 0.1, least=5)
    assert np.bincount(drawn.labels, minlength=3).tolist() == [5, 1, 0]


def photos(root, rng, copied=(("a/0.png", "a/copy.png"), ("a/1.png", "b/copy.png"))):
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), "uint8")).save(root / name / f"{i}.png")
    for old, new in copied:
        (root / new).write_bytes((root / old).read_bytes())
    return open_source(f"folder:{root}")


def test_copies_of_an_image_are_found_and_stay_on_one_side(tmp_path, rng):
    source = photos(tmp_path / "set", rng)
    first = copies(source)
    names = {source.name(i): source.name(first[i]) for i in range(len(source))}
    assert {name for name in names if names[name] != name} == {"a/copy.png", "b/copy.png"}
    assert names["a/copy.png"] == "a/0.png" and names["b/copy.png"] == "a/1.png"
    for seed in range(12):
        for part in divided(source, 0.4, seed):
            inside = {part.name(i) for i in range(len(part))}
            assert ("a/0.png" in inside) == ("a/copy.png" in inside)
            assert ("a/1.png" in inside) == ("b/copy.png" in inside)
    part = Subset(source, np.array([2, 0, 1, 20]))
    assert [part.name(i) for i in copies(part)] == [names[part.name(i)] for i in range(4)]


def test_files_of_one_size_that_differ_at_their_end_are_no_copies(tmp_path, rng):
    for i in range(4):
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        pixels = np.zeros((64, 64, 3), "uint8")
        pixels[0, :] = i // 2  # a BMP begins with its last row
        Image.fromarray(pixels).save(tmp_path / f"{i % 2}" / f"{i}.bmp")
    assert copies(open_source(f"folder:{tmp_path}")).tolist() == [0, 1, 0, 1]


def test_arrays_are_compared_by_their_pixels():
    images = np.arange(6, dtype="uint8")[:, None, None] % 4 * np.ones((4, 4), "uint8")
    assert copies(ArraySource(images, [0, 1] * 3)).tolist() == [0, 1, 2, 3, 0, 1]


def test_copies_are_found_across_sources(tmp_path, rng):
    one, other = photos(tmp_path / "one", rng), photos(tmp_path / "other", rng, copied=())
    (tmp_path / "other" / "b" / "7.png").write_bytes((tmp_path / "one" / "a" / "0.png").read_bytes())
    other = open_source(f"folder:{tmp_path / 'other'}")
    first = copies(one, other)
    assert np.array_equal(first[: len(one)], copies(one))
    crossed = [i for i in range(len(other)) if first[len(one) + i] < len(one)]
    assert [other.name(i) for i in crossed] == ["b/7.png"]
    assert one.name(first[len(one) + crossed[0]]) == "a/0.png"


def test_nothing_to_divide_is_refused(tmp_path):
    same = ArraySource(np.zeros((6, 4, 4), "uint8"), [0, 1] * 3)
    with pytest.raises(ValueError, match="Expected at least two different images of one class"):
        divided(same, 0.5)
    with pytest.raises(ValueError, match="above 0 and below 1, received 1.5"):
        divided(same, 1.5)


def test_what_is_written_is_read(tmp_path, rng):
    source = photos(tmp_path / "set", rng, copied=[("a/0.png", 'b/a "name", with commas.png')])
    train, test = divided(source, 0.3)
    path = tmp_path / "split.csv"
    path.write_text(write_division({"train": train, "test": test}))
    parts = read_division(source, path)
    assert list(parts) == ["train", "test"]
    assert np.array_equal(parts["train"].indices, train.indices) and np.array_equal(parts["test"].indices, test.indices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "File not found: "),
        ("", "Expected a CSV file that lists a split, received"),
        ("a/0.png,train\n", "Expected the columns name,split in"),
        ("name,split\na/0.png,train\na/1.png,judge\n", "Expected the splits train, val or test in .*, received judge"),
        (
            "name,split\na/0.png,train\na/0.png,test\n",
            "Expected each image once in .*, received a/0.png more than once",
        ),
        ("name,split\na/0.png,train\nc/0.png,test\n", "such as a/0.png, received c/0.png"),
        ("name,split\na/0.png,test\n", "Expected images of the split train in"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, rng, text, message):
    if text is not None:
        (tmp_path / "split.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_division(photos(tmp_path / "set", rng), tmp_path / "split.csv")


def test_a_list_may_use_the_other_names_of_splits_and_leave_images_out(tmp_path, rng):
    (tmp_path / "split.csv").write_text(
        "\ufeffname,split\r\na/1.png,Training\r\na/0.png,train\r\nb/3.png,validation\r\n"
    )
    parts = read_division(photos(tmp_path / "set", rng), tmp_path / "split.csv")
    assert {split: [part.name(i) for i in range(len(part))] for split, part in parts.items()} == {
        "train": ["a/0.png", "a/1.png"],
        "val": ["b/3.png"],
    }


def test_groups_that_share_an_image_are_one(tmp_path):
    path = tmp_path / "features.duplicates.csv"
    path.write_text("group,file,most_similar\n1,e,b\n1,b,e\n2,d,c\n2,c,d\n3,c,x\n3,b,x\n4,x,y\n4,y,x\n5,a,x\n5,x,a\n")
    groups = read_groups(path)
    assert groups == [["e", "b"], ["d", "c"], ["c", "b"], ["x", "y"], ["a", "x"]]
    # f is a copy of a, and g one of d.
    assert joined([0, 1, 2, 3, 4, 0, 3, 7], list("abcdefgh"), groups).tolist() == [0, 1, 1, 1, 1, 0, 1, 7]
    assert joined(np.arange(4), list("abcd"), []).tolist() == [0, 1, 2, 3]


def test_images_of_a_group_stay_on_one_side():
    source = arrays(30, 30)
    names = [source.name(i) for i in range(len(source))]
    groups = [names[start : start + 4] for start in range(0, 60, 4)]
    first = joined(copies(source), names, groups)
    assert first.tolist() == [4 * (i // 4) for i in range(60)]
    for seed in range(5):
        rest, drawn = divided(source, 0.3, seed, first=first)
        assert 8 <= len(drawn) <= 18 and not {i // 4 for i in rest.indices} & {i // 4 for i in drawn.indices}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "File not found: "),
        ("file,similarity\na,1\n", "Expected the columns group and file in .*, received file,similarity"),
        ("group,file\n1\n", "Expected the columns group and file in"),
    ],
)
def test_a_list_of_groups_that_is_none_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_groups(tmp_path / "groups.csv")
