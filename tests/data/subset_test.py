import numpy as np
import pytest

from keras_splitmask.data import balanced, open_source, subset_of


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
    with pytest.raises(ValueError, match="Expected 201 images of each class, received 200"):
        balanced(source, 2010)


def test_an_amount_is_a_number_or_a_share(rng, tmp_path):
    labelled = open_source("sample", "test")
    assert np.bincount(subset_of(labelled, "5%").labels).tolist() == [10] * 10
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (40, 4, 4, 3), "uint8"))
    unlabelled = open_source(f"npy:{tmp_path / 'images.npy'}")
    first, again, other = (subset_of(unlabelled, "10", seed).indices.tolist() for seed in (1, 1, 2))
    assert first == again != other and len(set(first)) == 10 and len(subset_of(unlabelled, "25%")) == 10
    for amount in ("0", "41", "0.1%", "102%", "many", "-1", "5.5"):
        with pytest.raises(ValueError, match="^Expected [^\n]*$"):
            subset_of(unlabelled, amount)


def test_a_list_of_names(tmp_path):
    source, names = open_source("sample", "test"), tmp_path / "names.txt"
    drawn = subset_of(source, "30", seed=5)
    names.write_text("".join(f"{drawn.name(i)}\n" for i in range(30)))
    again = subset_of(source, str(names))
    assert again.indices.tolist() == drawn.indices.tolist() and again.labels.tolist() == drawn.labels.tolist()
    names.write_text("test[3]\ntest[2000]\n")
    with pytest.raises(ValueError, match=r"Expected names of images in .*, such as test\[0\], received test\[2000\], which is not among them"):
        subset_of(source, str(names))
    names.write_text("\n")
    with pytest.raises(ValueError, match="received none"):
        subset_of(source, str(names))
