"""Values that fill a part of their type: the option that names their range, and the line that says that it is
missing."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import batches, cached, open_detection, open_source, subset_of
from keras_splitmask.data.conversion import to_uint8
from keras_splitmask.data.headers import read_header
from keras_splitmask.data.stored_numbers import read_numbers


@pytest.fixture
def twelve_bits():
    return (np.arange(4096) % 4096).reshape(64, 64).astype("uint16")


def opened(name, **options):
    """A source, and what was reported of it but for the progress."""
    lines = []
    return open_source(name, report=lines.append, **options), [line for line in lines if not line.startswith("looking")]


def place(tmp_path, kind, image):
    """The name of a data set of that kind with eight images."""
    if kind == "folder":
        for i in range(8):
            Image.fromarray(image).save(tmp_path / f"{i}.png")
        return f"folder:{tmp_path}"
    images = np.stack([image] * 8)
    if kind == "npy":
        np.save(tmp_path / "a.npy", images)
    else:
        np.savez(tmp_path / "a.npz", images=images)
    return f"{kind}:{tmp_path / f'a.{kind}'}"


@pytest.mark.parametrize("kind", ["folder", "npy", "npz"])
def test_numbers_of_twelve_bits(tmp_path, twelve_bits, kind):
    name = place(tmp_path, kind, twelve_bits)
    source, lines = opened(name)
    assert len(np.unique(source.image(0))) == 17
    assert (
        len(lines) == 1
        and "uint16" in lines[0]
        and "17 of 256 grey levels" in lines[0]
        and " value_range=0,4095" in lines[0]
    )
    named, lines = opened(name, value_range=(0, 4095))
    image = named.image(0)[..., 0]
    assert not lines and len(np.unique(image)) == 256
    assert np.array_equal(image, np.round(twelve_bits / 4095 * 255))


@pytest.mark.parametrize(
    ("dtype", "low", "high", "suggested"),
    [
        ("uint16", 0, 9999, "0,10000"),
        ("uint16", 0, 16383, "0,16383"),
        ("uint16", 30000, 34000, "30000,34000"),
        ("float32", 0, 0.2, "0,0.2"),
    ],
)
def test_the_line_names_a_range_that_helps(tmp_path, dtype, low, high, suggested):
    values = np.linspace(low, high, 64 * 64).reshape(64, 64).astype(dtype)
    name = place(tmp_path, "npy", values)
    (line,) = opened(name)[1]
    assert f" value_range={suggested}," in line
    source, lines = opened(name, value_range=suggested.split(","))
    assert not lines and len(np.unique(source.image(0))) > 250


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "bool"])
def test_no_line_where_the_range_is_used(tmp_path, rng, dtype):
    values = rng.random((32, 32)) * (1 if dtype == "float32" else np.iinfo(dtype).max if dtype != "bool" else 2)
    assert not opened(place(tmp_path, "npy", values.astype(dtype)))[1]


def test_one_white_pixel_hides_no_dark_image(tmp_path, twelve_bits):
    twelve_bits[5, 5] = 65535
    assert len(opened(place(tmp_path, "npy", twelve_bits))[1]) == 1


def mixture(folder, dark, others):
    """The name of a folder in which one image of 16 bits in ten holds `dark`, and the others of 8 bits `others`."""
    folder.mkdir()
    for i in range(40):
        Image.fromarray(dark if i % 10 == 3 else others).save(folder / f"{i:02}.png")
    return f"folder:{folder}"


def test_images_of_each_depth_are_judged_separately(tmp_path, twelve_bits, rng):
    eight = rng.integers(0, 256, (64, 64), "uint8")
    name = mixture(tmp_path / "a", twelve_bits, eight)
    source, (line,) = opened(name, record=tmp_path / "data.json")
    assert line.startswith(f"{name}, 4 of 40 images: the values go from 4.095 to 4090.9")
    assert "a small part of the 0 to 65535 of uint16" in line
    assert line.endswith(" value_range=0,4095, to use all.")
    assert source.scan.deep == ["03.png", "13.png", "23.png", "33.png"]
    assert opened(name, record=tmp_path / "data.json")[1] == [line]  # known from data.json, without the headers
    named, lines = opened(name, value_range=(0, 4095))
    assert not lines and len(np.unique(named.image(3))) == 256 and np.array_equal(named.image(0)[..., 0], eight)
    assert not opened(mixture(tmp_path / "b", twelve_bits * 16, eight))[1]
    (line,) = opened(mixture(tmp_path / "c", twelve_bits * 16, eight // 8))[1]
    assert "36 of 40 images" in line and "of uint8" in line


def test_deep_images_of_two_types_are_judged_separately(tmp_path, twelve_bits):
    (tmp_path / "a").mkdir()
    for i in range(4):
        Image.fromarray(twelve_bits).save(tmp_path / "a" / f"{i}.png")
        np.save(tmp_path / "a" / f"{i}.npy", np.linspace(0, 1, 64 * 64, dtype="float32").reshape(64, 64))
    (line,) = opened(f"folder:{tmp_path / 'a'}")[1]
    assert "0 to 65535 of uint16" in line


@pytest.mark.parametrize("form", ["png", "tif", "npy", "pgm", "ppm"])
def test_the_depth_of_a_file_is_read_from_its_header(tmp_path, form):
    path = tmp_path / f"a.{form}"
    if form in ("pgm", "ppm"):
        path.write_bytes((b"P5" if form == "pgm" else b"P6") + b" 2 2 4095\n" + bytes(24 if form == "ppm" else 8))
    else:
        deep_colour(path, np.zeros((2, 2, 3), "uint16"))
    deep = []
    assert read_header(path, deep=deep) == (2, 2, 1 if form == "pgm" else 3) and deep == [path]


def deep_colour(path, values):
    """Write colours (H, W, 3) uint16 as a TIFF, a PNG or an .npy file; Pillow writes none."""
    height, width = values.shape[:2]
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".png":
        header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        chunks = [
            name + content for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        ]
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
        )
    else:
        tags = {256: width, 257: height, 258: 200, 259: 1, 262: 2, 273: 206, 277: 3, 278: height, 279: values.nbytes}
        entries = b"".join(
            struct.pack("<HHII", tag, 4 if tag == 279 else 3, 3 if tag == 258 else 1, value)
            for tag, value in tags.items()
        )
        start = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries
        path.write_bytes(start.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16) + values.astype("<u2").tobytes())


@pytest.mark.parametrize("form", ["png", "tif"])
def test_reading_16_bit_colour_with_8_bits_is_reported(tmp_path, twelve_bits, form):
    colours = np.stack([twelve_bits] * 3, axis=-1)
    deep_colour(tmp_path / f"a.{form}", colours)
    for options in ({}, {"value_range": (0, 4095)}):
        source, (line,) = opened(f"folder:{tmp_path}", **options)
        assert len(np.unique(source.image(0))) == 16 and source.image(0).max() == 15
        assert (
            "colour of 16 bits is read with 8 bits" in line and "16 of 256 levels. A value_range cannot restore" in line
        )
    (tmp_path / f"a.{form}").unlink()
    deep_colour(tmp_path / "a.npy", colours)  # as the line says
    source, lines = opened(f"folder:{tmp_path}", value_range=(0, 4095))
    assert not lines and len(np.unique(source.image(0))) == 256
    (tmp_path / "a.npy").unlink()
    deep_colour(tmp_path / f"a.{form}", colours * 16)  # where the range is used, nothing is lost
    source, lines = opened(f"folder:{tmp_path}")
    assert not lines and np.abs(source.image(0) - twelve_bits[..., None] / 16).max() <= 1


def test_dark_images_of_eight_bits_are_no_deep_colour(tmp_path, rng):
    Image.fromarray(rng.integers(0, 30, (16, 16, 3), "uint8")).save(tmp_path / "a.png")
    (line,) = opened(f"folder:{tmp_path}")[1]
    assert "of uint8" in line and "16 bits" not in line


@pytest.mark.parametrize("form", ["png", "tif"])
def test_a_label_map_of_deep_colour_is_refused(tmp_path, form):
    deep_colour(tmp_path / f"a.{form}", np.full((4, 4, 3), 7, "uint16"))
    with pytest.raises(
        ValueError, match="received a .colours of 16 bits, which are read with 8; save the numbers as a grey PNG"
    ):
        read_numbers((tmp_path / f"a.{form}").read_bytes(), "a")


def test_clipped_values_are_reported(tmp_path):
    values = np.linspace(-1024, 3071, 64 * 64).reshape(64, 64).astype("int16")  # as of a computed tomography
    name = place(tmp_path, "npy", values)
    with pytest.raises(
        ValueError, match="received -1024 to 3071 as int16 in .*; name their range, such as value_range=-1100,3100"
    ):
        open_source(name)
    source, lines = opened(name, value_range=(-1024, 3071))
    assert not lines and np.array_equal(source.image(0)[..., 0], np.round((values + 1024.0) / 4095 * 255))
    window, lines = opened(name, value_range=(0, 1000))
    assert window.image(0).min() == 0 and window.image(0).max() == 255
    assert len(lines) == 1 and "76% of the values" in lines[0] and "are clipped" in lines[0]


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "int32", "uint32", "int64", "uint64"])
def test_other_types_with_a_range_that_is_named(tmp_path, dtype):
    values = np.arange(256).astype(dtype).reshape(16, 16)
    assert np.array_equal(to_uint8(values, "a", (0, 255)), np.arange(256).reshape(16, 16))
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "a.npy", values)
    assert np.array_equal(
        open_source(f"folder:{folder}", value_range=(0, 255)).image(0)[..., 0].ravel(), np.arange(256)
    )
    if "int" in dtype:
        reason = "without value_range=LOW,HIGH" if "32" in dtype else f"{dtype}, not uint8"
        with pytest.raises(ValueError, match=reason):
            open_source(f"folder:{folder}", max_bad_fraction=0.5)


def test_channels_are_treated_alike_and_bytes_stay(rng):
    bands = rng.integers(0, 10000, (8, 9, 6)).astype("uint16")
    together = to_uint8(bands, "a", (0, 10000))
    assert np.array_equal(together, np.stack([to_uint8(bands[..., c], "a", (0, 10000)) for c in range(6)], axis=-1))
    eight = np.arange(256, dtype="uint8")
    assert to_uint8(eight, "a", (0, 4095)) is eight and np.array_equal(to_uint8(eight, "a", (0, 255)), eight)
    assert to_uint8(np.array([0, 1], "uint8"), "a", (0, 1)).tolist() == [0, 255]
    with pytest.raises(ValueError, match="Expected finite pixels, received NaN"):
        to_uint8(np.array([np.nan]), "a", (0, 4095))


def test_the_cache_and_a_subset_keep_the_range(tmp_path, twelve_bits):
    folder = tmp_path / "images"
    folder.mkdir()
    name = place(folder, "folder", twelve_bits)
    source, plain = open_source(name, value_range=(0, 4095)), open_source(name)
    other = open_source(name, value_range=(0, 1000))
    assert len({source.fingerprint, plain.fingerprint, other.fingerprint}) == 3
    image = source.image(0)
    for same in (
        subset_of(source, "4"),
        cached(source, 64, tmp_path / "cache"),
        cached(subset_of(source, "4"), 64, tmp_path / "other"),
    ):
        assert np.array_equal(same.image(0), image)
    assert np.array_equal(
        cached(other, 64, tmp_path / "cache").image(0), other.image(0)
    )  # packed again, since the range is another
    assert next(iter(batches(source, (64, 64, 1), 2, "none", workers=0))).max() == 255


@pytest.mark.parametrize(("high", "suggested"), [(255, "0,255"), (243.5, "0,255"), (4095, "0,4100")])
def test_floats_beyond_1_are_refused_with_their_range(tmp_path, high, suggested):
    name = place(tmp_path, "npy", np.linspace(0, high, 64, dtype="float32").reshape(8, 8))
    with pytest.raises(ValueError, match=rf"; rescale them, or name their range, such as value_range={suggested}\.$"):
        open_source(name).image(0)
    assert open_source(name, value_range=suggested.split(",")).image(0).max() > 240


@pytest.mark.parametrize(
    ("wrong", "received"),
    [
        ((4095, 0), "4095,0"),
        (["0", "0"], "0,0"),
        ((0,), "0"),
        ("ab", "ab"),
        ((0, float("nan")), "0,nan"),
        ([0, 1, 2], "0,1,2"),
    ],
)
def test_invalid_ranges_are_refused(wrong, received):
    with pytest.raises(
        ValueError,
        match=f"value_range as two numbers, the first less than the second, such as 0,4095, received {received}.$",
    ):
        open_source("sample", value_range=wrong)
    with pytest.raises(ValueError, match="Expected value_range as two numbers"):
        open_detection("coco:nowhere", "train", value_range=wrong)
