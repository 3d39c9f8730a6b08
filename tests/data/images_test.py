import io

import numpy as np
import pytest

from keras_splitmask import data

pytest.importorskip("PIL.Image")

from PIL import Image  # noqa: E402


@pytest.fixture
def folder(tmp_path, rng):
    for i, name in enumerate(["a.png", "in/b.png", "in/deep/c.png", "d.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6 + i, 9, 3), "uint8")).save(path)
    return tmp_path / "photos"


def names(source):
    return [source.name(i) for i in range(len(source))]


def test_a_folder_is_read_at_any_depth_without_its_runs_and_other_files(folder):
    (folder / "notes.md").write_text("no image")
    (folder / "out").mkdir()
    (folder / "out" / "run.files").write_text(
        "# keras_splitmask: the files of this run; no others are replaced or removed\n"
    )
    Image.new("L", (4, 4)).save(folder / "out" / "map.png")
    source = data.open_images(folder, 3)
    assert names(source) == ["a.png", "d.png", "in/b.png", "in/deep/c.png"] and not source.left_out
    assert source.image(1).shape == (9, 9, 3)
    assert data.open_images(folder, 1).image(0).shape == (6, 9, 1)


def test_files_folders_and_lists_keep_their_order_and_come_once(folder):
    paths = [str(folder / name) for name in ("d.png", "in", "a.png", "d.png")]
    (folder / "in" / "list.txt").write_text("../a.png\n\nb.png\nmissing.png\n")
    source = data.open_images(paths, 3)
    assert names(source) == [str(folder / name) for name in ("d.png", "in/b.png", "in/deep/c.png", "a.png")]
    source = data.open_images(folder / "in" / "list.txt", 3)
    assert [name.split("/")[-1] for name in names(source)] == ["a.png", "b.png"]
    assert source.left_out == {"missing.png": "No such file or directory"}
    assert source.fingerprint != data.open_images(folder / "a.png", 3).fingerprint


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((5, 8, 9, 3), 3, (5, (8, 9, 3))),
        ((5, 8, 9), 3, (5, (8, 9, 3))),
        ((8, 9, 3), 3, (1, (8, 9, 3))),
        ((8, 9, 3), 1, (1, (8, 9, 1))),
        ((8, 9), 1, (1, (8, 9, 1))),
        ((8, 9, 5), 5, (1, (8, 9, 5))),
        ((4, 8, 9, 5), 5, (4, (8, 9, 5))),
    ],
)
def test_arrays_of_one_or_more_images(shape, channels, expected, rng, tmp_path):
    images = rng.integers(0, 256, shape, "uint8")
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "x.npz", test_images=images, test_labels=np.zeros(5))
    for source in (data.open_images(x, channels) for x in (images, tmp_path / "x.npy", tmp_path / "x.npz")):
        assert (len(source), source.image(0).shape) == expected
    assert source.name(0) == "test_images[0]"


def test_a_list_of_arrays_of_different_sizes(rng):
    images = [rng.integers(0, 256, shape, "uint8") for shape in ((4, 5, 3), (6, 7), (8, 3, 1))]
    source = data.open_images(images, 3)
    assert [source.image(i).shape for i in range(3)] == [(4, 5, 3), (6, 7, 3), (8, 3, 3)]
    np.testing.assert_array_equal(source.image(0), images[0])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "received an empty list"),
        ("{root}/none", "none, which does not exist. Check the path."),
        ([np.zeros(3)], r"received shape \(3, 1\)|received shape \(3,\)"),
        ("{root}/x.npz", "Choose one of a, b."),
        ("{root}/empty.txt", "one per line, received none"),
        ("{root}/text.png", r"received none of 1 file \(.*text.png: not an image"),
    ],
)
def test_what_cannot_be_opened_is_named(images, message, tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros((2, 4, 4)), b=np.zeros((2, 4, 4)))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "text.png").write_text("no image")
    images = images.format(root=tmp_path) if isinstance(images, str) else images
    with pytest.raises(ValueError, match=message):
        data.open_images(images, 3)


def test_a_list_of_files_keeps_those_that_repeat(folder):
    paths = [folder / name for name in ("d.png", "a.png", "missing.png", "d.png")]
    (folder / "missing.png").write_text("no image")
    source = data.open_images(paths, 3)
    assert names(source) == [str(folder / name) for name in ("d.png", "a.png", "d.png")]
    np.testing.assert_array_equal(source.image(2), np.asarray(Image.open(folder / "d.png")))
    assert list(source.left_out) == [str(folder / "missing.png")]


def test_a_list_may_begin_with_a_mark_and_name_a_folder(folder):
    (folder / "list.txt").write_text("a.png\nin\nd.png\n", encoding="utf-8-sig")
    source = data.open_images(folder / "list.txt", 3)
    assert [name.split("/")[-1] for name in names(source)] == ["a.png", "d.png"]
    assert list(source.left_out.values()) == ["a folder, not a file"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
@pytest.mark.parametrize("turn", [1, 6])
def test_pillow_images_are_read_as_their_files(mode, turn, rng, tmp_path):
    image = Image.fromarray(rng.integers(0, 256, (6, 9, 4), "uint8"), "RGBA")
    image = Image.fromarray(rng.random((6, 9), "float32")) if mode == "F" else image
    image = Image.fromarray(rng.integers(0, 65536, (6, 9), "uint16")) if mode == "I;16" else image
    if mode not in ("F", "I;16"):
        image = image.convert({"PA": "P", "HSV": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}.get(mode, mode)).convert(mode)
    image.getexif()[0x0112] = turn
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr", "F") else "x.png")
    (image.convert("RGB") if mode == "HSV" else image.convert("RGBA") if mode == "PA" else image).save(
        path, exif=image.getexif()
    )
    expected = data.open_images(path, 3).image(0)
    assert expected.shape == ((9, 6, 3) if turn == 6 else (6, 9, 3))
    for images in (image, [image], [np.zeros((2, 2)), image]):
        source = data.open_images(images, 3)
        np.testing.assert_array_equal(source.image(len(source) - 1), expected)
    # Not by the path: Pillow 12 forgets to turn a CMYK TIFF that it maps into memory.
    with Image.open(io.BytesIO(path.read_bytes())) as opened:
        np.testing.assert_array_equal(data.open_images([opened], 3).image(0), expected)


def test_a_damaged_pillow_image_is_unreadable(folder):
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(content[:-40])
    with Image.open(folder / "a.png") as image:
        source = data.open_images([image], 3)
        with pytest.raises(ValueError, match=r"Expected a readable image, received images\[0\] \("):
            source.image(0)


@pytest.mark.parametrize("form", ["array", "list", "npy"])
def test_one_image_with_its_channels_first_is_refused(form, tmp_path):
    image = np.zeros((3, 16, 16 if form == "array" else 20), "uint8")
    np.save(tmp_path / "x.npy", image)
    with pytest.raises(ValueError, match=r"received \(3, 16, .*\(C, H, W\); transpose it by \(1, 2, 0\)"):
        data.open_images({"array": image, "list": [image], "npy": tmp_path / "x.npy"}[form], 3)
    assert len(data.open_images(np.zeros((3, 16, 16), "uint8"), 1)) == 3  # three grey images for a grey model


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "received NoneType; pass some"),
        ([None], r"received NoneType for images\[0\]; convert it"),
        (["a.png", np.zeros((4, 4))], "received paths and ndarray; split them"),
        ([np.zeros((4, 4)), "a.png", 3], "received paths and ndarray; split them"),
        (np.array(["a.png"]), "received ndarray for images"),
    ],
)
def test_other_types_are_named(images, message):
    with pytest.raises(TypeError, match=message):
        data.open_images(images, 3)


def test_tensors_with_a_gradient_and_of_16_bits(rng):
    torch = pytest.importorskip("torch")
    image = rng.integers(0, 2, (4, 5, 3)).astype("float32")  # 0 and 1, which bfloat16 holds exactly
    tensor = torch.tensor(image)
    for given in (tensor.clone().requires_grad_(), tensor.bfloat16(), [tensor.bfloat16().requires_grad_()]):
        np.testing.assert_array_equal(data.open_images(given, 3).image(0), image * 255)
