import hashlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import NoSuchSplit, free_memory, open_source
from keras_splitmask.data.arrays import SAMPLE, ArraySource
from tests.data import make_sample

# Of the drawn arrays' bytes: whatever compresses the file, these are the images.
SHA256 = {
    "train": "546fe9238a1fd1f44ef92ad891920bdd67c61d414e3a273fefe70e19ebd40f68",
    "test": "db23d6d45af1f60563d5e1797acf993e33f2ad647f9aaa3c30f494912e4b5812",
}


def save(path, colour=(255, 0, 0), size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


def test_the_sample_is_balanced_and_unchanged():
    for split, count in (("train", 1000), ("test", 200)):
        source = open_source("sample", split)
        assert len(source) == 10 * count and source.image_shape == (28, 28, 1)
        assert np.bincount(source.labels).tolist() == [count] * 10
        assert hashlib.sha256(source.images.tobytes()).hexdigest() == SHA256[split]
    assert source.classes[:2] == ["T-shirt/top", "Trouser"] and source.classes[9] == "Ankle boot"
    assert source.name(12) == "test[12]" and isinstance(source.label(12), int)


def test_the_sample_is_small_and_has_its_licence():
    assert sum(path.stat().st_size for path in SAMPLE.parent.iterdir()) < 7e6
    notice = SAMPLE.with_name("LICENSE").read_text()
    assert "Zalando SE" in notice and "Permission is hereby granted, free of charge" in notice


def test_the_sample_can_be_drawn_again(tmp_path, monkeypatch):
    folder = make_sample.Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.setattr(make_sample, "SAMPLE", tmp_path / "again.npz")
    make_sample.main(folder)
    with np.load(tmp_path / "again.npz") as again, np.load(SAMPLE) as there:
        assert again.files == there.files and all((again[name] == there[name]).all() for name in there.files)


def test_drawing_takes_as_many_of_each_class():
    labels = np.random.default_rng(0).integers(10, size=500)
    drawn = make_sample.draw(labels, 20)
    assert np.bincount(labels[drawn]).tolist() == [20] * 10 and (np.diff(drawn) > 0).all()
    assert (drawn != make_sample.draw(labels, 20, seed=1)).any() and (drawn == make_sample.draw(labels, 20)).all()


def test_making_the_sample_refuses_other_files(tmp_path):
    for name in make_sample.SHA256:
        (tmp_path / name).write_bytes(make_sample.gzip.compress(b"not these"))
    with pytest.raises(SystemExit, match="Expected the official train-images-idx3-ubyte.gz"):
        make_sample.main(tmp_path)


def test_arrays_of_every_kind(tmp_path):
    grey = np.arange(2 * 4 * 5, dtype="uint8").reshape(2, 4, 5)
    five = np.random.default_rng(0).integers(256, size=(3, 4, 5, 5)).astype("uint8")
    np.savez(
        tmp_path / "medmnist.npz", train_images=grey, train_labels=[[1], [0]], test_images=five, classes=["a", "b"]
    )
    np.savez(tmp_path / "keras.npz", x_train=five, y_train=[3, 4, 5], x_test=grey)
    np.savez(tmp_path / "plain.npz", images=grey / np.float32(255))
    np.save(tmp_path / "wide.npy", grey.astype("uint16") * 257)

    source = open_source(f"npz:{tmp_path}/medmnist.npz")
    assert source.image_shape == (4, 5, 1) and (source.image(1)[..., 0] == grey[1]).all()
    assert source.labels.tolist() == [1, 0] and source.classes == ["a", "b"] and source.name(1) == "train[1]"
    assert open_source(f"npz:{tmp_path}/medmnist.npz", "test").image_shape == (4, 5, 5)
    assert open_source(f"npz:{tmp_path}/keras.npz").label(2) == 5
    assert open_source(f"npz:{tmp_path}/keras.npz", "test").labels is None
    assert (open_source(f"npz:{tmp_path}/plain.npz").image(1)[..., 0] == grey[1]).all()
    source = open_source(f"npy:{tmp_path}/wide.npy", channels=3)
    assert source.image_shape == (4, 5, 3) and (source.image(1) == grey[1][..., None]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "imagenet"}, "Expected a dataset sample, folder:PATH, .* received 'imagenet'"),
        ({"dataset": "files:x"}, "Expected a dataset sample, folder:PATH, .* received 'files:x'"),
        ({"dataset": "folder:"}, "Expected a dataset sample, folder:PATH, .* received 'folder:'"),
        (
            {"dataset": "sample", "split": "training"},
            "Expected split to be one of train, val, test, received 'training'",
        ),
        (
            {"dataset": "sample", "split": "val"},
            "Expected split to be train or test for the dataset sample, received 'val'",
        ),
        ({"dataset": "sample", "channels": 0}, "Expected channels to be at least 1, received channels=0"),
        ({"dataset": "sample", "channels": 4}, "Expected an image of 4 channels, received 1 in .*; only grey and RGB"),
        ({"dataset": "folder:{}/nowhere"}, "Folder not found: .*nowhere. Check the path"),
        (
            {"dataset": "folder:{}/empty"},
            "Expected images .*jpg.* in .*empty, received a folder, which is empty; correct",
        ),
        ({"dataset": "folder:{}/texts"}, "received a folder with 1 other file; correct"),
        (
            {"dataset": "folder:{}/images", "split": "test"},
            "Expected a folder test in .*, received one that is not divided",
        ),
        (
            {"dataset": "folder:{}/images", "channels": 4},
            r"unreadable, received 1 of 1 .a.png: 3 channels, not 4.; repair",
        ),
        ({"dataset": "npz:{}/nowhere.npz"}, "^File not found: .*nowhere.npz. Check the path after npz:.$"),
        ({"dataset": "npz:{}/texts/a.txt"}, "a.txt is not an .npz file.$"),
        ({"dataset": "npz:{}/one.npy"}, "one.npy is an .npy file, not an .npz file. Use npy:.*one.npy.$"),
        (
            {"dataset": "npz:{}/odd.npz"},
            "Expected an array images or train_images or x_train in .*, received pictures; rename",
        ),
        (
            {"dataset": "npz:{}/odd.npz", "split": "test"},
            "Expected an array test_images or x_test in .*, received pictures",
        ),
        (
            {"dataset": "npz:{}/short.npz"},
            "Expected a label for each of the 2 images, received labels .3,. in .*short.npz",
        ),
        ({"dataset": "npy:{}/one.npy", "split": "test"}, "Expected split to be train, the only split of an .npy file"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    save(tmp_path / "images" / "a.png")
    np.save(tmp_path / "one.npy", np.zeros((2, 4, 4), "uint8"))
    np.savez(tmp_path / "odd.npz", pictures=np.zeros((2, 4, 4), "uint8"))
    np.savez(tmp_path / "short.npz", images=np.zeros((2, 4, 4), "uint8"), labels=[0, 1, 1])
    with pytest.raises(ValueError, match=message) as error:
        open_source(**{**arguments, "dataset": arguments["dataset"].format(tmp_path)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "split"),
    [
        ("sample", "val"),
        ("folder:{}/images", "test"),
        ("folder:{}/divided", "val"),
        ("npz:{}/one.npz", "test"),
        ("npy:{}/one.npy", "val"),
    ],
)
def test_a_split_that_is_not_there_is_an_error_of_its_own(tmp_path, dataset, split):
    save(tmp_path / "images" / "a.png")
    save(tmp_path / "divided" / "train" / "a.png")
    np.save(tmp_path / "one.npy", np.zeros((2, 4, 4), "uint8"))
    np.savez(tmp_path / "one.npz", images=np.zeros((2, 4, 4), "uint8"))
    with pytest.raises(NoSuchSplit):
        open_source(dataset.format(tmp_path), split)
    with pytest.raises(ValueError) as error:
        open_source("folder:" + str(tmp_path / "nowhere"))
    assert not isinstance(error.value, NoSuchSplit)


def test_arrays_have_fingerprints():
    images = np.random.default_rng(0).integers(256, size=(3000, 4, 4), dtype="uint8")
    changed = images.copy()
    changed[2000, 1, 1] ^= 1
    assert ArraySource(images).fingerprint == ArraySource(images.copy()).fingerprint != ArraySource(changed).fingerprint


def floats(value):
    images = np.zeros((1500, 2, 2), "float32")
    images[1300, 1, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (floats(np.nan), None, r"Expected finite pixels, received NaN in train\[1300\] of the array"),
        (floats(np.inf), None, r"Expected float pixels in 0..1, received 0 to inf in train\[1300\]"),
        (floats(255), None, r"Expected float pixels in 0..1, received 0 to 255 in train\[1300\] of the array; rescale"),
        (np.zeros((2, 4, 4), "int64"), None, "Expected pixels as uint8, uint16 or float in 0..1, received int64"),
        (np.zeros((4, 4), "uint8"), None, r"Expected images .B, H, W. or .B, H, W, C., received shape \(4, 4\)"),
        (np.zeros((0, 4, 4), "uint8"), None, r"received shape \(0, 4, 4\)"),
        (
            np.zeros((2, 3, 8, 8), "uint8"),
            None,
            (
                r"Expected images .B, H, W, C., received \(2, 3, 8, 8\) in the array, which seem to be .B, C, H, W.;"
                r" transpose"
            ),
        ),
        (
            np.zeros((2, 4, 4), "uint8"),
            [0.5, 1.0],
            "Expected labels as integers from 0 on or as text, received float64 in the array; number the classes",
        ),
        (np.zeros((2, 4, 4), "uint8"), [-1, 1], "Expected labels from 0 on, received -1 in the array; leave out"),
        (
            np.zeros((2, 4, 4), "uint8"),
            [[1, 1], [1, 0]],
            r"Expected one label for each image, received labels \(2, 2\) in the array that are not one-hot",
        ),
    ],
)
def test_bad_arrays_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message) as error:
        ArraySource(images, labels)
    assert "\n" not in str(error.value)


def test_an_npz_file_that_is_larger_than_the_memory_is_mapped_or_refused(tmp_path, monkeypatch, rng):
    images = rng.integers(0, 256, (64, 9, 8, 3), "uint8")
    labels = np.arange(64) % 2
    np.savez(
        tmp_path / "plain.npz",
        labels=labels,
        train_images=np.asfortranarray(images),
        train_labels=labels,
        x_test=images,
    )
    np.savez_compressed(tmp_path / "packed.npz", images=images, labels=labels)
    loaded = open_source(f"npz:{tmp_path}/plain.npz")
    monkeypatch.setattr(free_memory, "free_memory", lambda: 2 * images.nbytes)  # the array has a header besides
    for split in ("train", "test"):
        source = open_source(f"npz:{tmp_path}/plain.npz", split)
        assert isinstance(source.images, np.memmap) and not isinstance(loaded.images, np.memmap)
        assert np.array_equal(source.images, images) and np.array_equal(source.image(5), images[5])
    assert open_source(f"npz:{tmp_path}/plain.npz").labels.tolist() == labels.tolist()
    with pytest.raises(
        ValueError,
        match=(
            r"^Expected arrays of at most .* GB, half of the free memory, received images of .* GB in .*; save it with"
            r" numpy.savez"
        ),
    ):
        open_source(f"npz:{tmp_path}/packed.npz")


def test_an_npz_file_of_zeros_is_refused_before_it_is_unpacked(tmp_path):
    """4 TB in a few bytes: what the headers say is enough."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\0" + bytes(1000))
    content = (tmp_path / "a.npz").read_bytes()
    place = content.rindex(b"PK\x01\x02") + 24  # the size in the directory
    (tmp_path / "a.npz").write_bytes(content[:place] + b"\xf0\xff\xff\xff" + content[place + 4 :])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(free_memory, "free_memory", lambda: 8e9)
        with pytest.raises(ValueError, match=r"at most 4.0 GB, half of the free memory, received images of 4.3 GB"):
            open_source(f"npz:{tmp_path}/a.npz")
    assert 0 < free_memory.free_memory() < 1e14


def test_the_advice_of_numpy_to_allow_pickles_is_never_passed_on(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for dataset in (f"npy:{tmp_path}/objects.npy", f"npz:{tmp_path}/objects.npy"):
        with pytest.raises(ValueError, match="objects.npy") as error:
            open_source(dataset)
        assert "pickle" not in str(error.value)
    with pytest.raises(
        ValueError,
        match="received .*objects.npy .Array can't be memory-mapped: Python objects in dtype..; write it again",
    ):
        open_source(f"npy:{tmp_path}/objects.npy")
