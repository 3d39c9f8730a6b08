import sys

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import open_source
from keras_splitmask.data.decoding import fit_channels, read_image, to_uint8
from keras_splitmask.data.optional import optional

RED, GREEN = (255, 0, 0), (0, 255, 0)


def two_halves(mode, left, right):
    """2 rows, 4 columns."""
    image = Image.new(mode, (4, 2), left)
    image.paste(right, (2, 0, 4, 2))
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((16, 32, 3), "uint8")
    upright[:8, :16] = RED
    upright[8:, 16:] = GREEN
    # What a camera stores for each tag: the inverse of what the tag tells a viewer to do.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    image = read_image(tmp_path / "a.jpg", "a.jpg")
    assert image.shape == (16, 32, 3) and np.abs(image.astype(int) - upright).max() < 30


def test_palette_alpha_and_cmyk(tmp_path):
    two_halves("RGB", RED, GREEN).convert("P").save(tmp_path / "palette.png")
    two_halves("RGBA", (255, 0, 0, 255), (0, 255, 0, 0)).save(tmp_path / "alpha.png")
    two_halves("LA", (40, 255), (40, 0)).save(tmp_path / "grey_alpha.png")
    two_halves("CMYK", (0, 255, 255, 0), (255, 0, 255, 0)).save(tmp_path / "cmyk.tif")
    two_halves("1", 0, 1).save(tmp_path / "bits.png")
    paletted = two_halves("RGB", RED, GREEN).convert("P")
    paletted.save(tmp_path / "clear_palette.png", transparency=paletted.getpixel((3, 0)))

    def colours(name):
        image = read_image(tmp_path / name, name)
        assert image.dtype == np.uint8 and image.shape[:2] == (2, 4)
        return [image[0, 0].tolist(), image[1, 3].tolist()]

    assert colours("palette.png") == [[255, 0, 0], [0, 255, 0]]
    assert colours("alpha.png") == [[255, 0, 0], [255, 255, 255]]  # what nobody sees is white, not the green underneath
    assert colours("grey_alpha.png") == [[40], [255]]
    assert colours("cmyk.tif") == [[255, 0, 0], [0, 255, 0]]
    two_halves("CMYK", (0, 255, 255, 0), (255, 0, 255, 0)).save(tmp_path / "cmyk.jpg", subsampling=0)
    assert np.abs(np.array(colours("cmyk.jpg")) - [[255, 0, 0], [0, 255, 0]]).max() < 12  # Adobe's JPEGs hold it inverted
    assert colours("bits.png") == [[0], [255]]
    assert colours("clear_palette.png") == [[255, 0, 0], [255, 255, 255]]


def test_half_transparent_red_is_pink(tmp_path):
    Image.new("RGBA", (1, 1), (255, 0, 0, 51)).save(tmp_path / "a.png")  # 20%: 255, 204, 204
    assert read_image(tmp_path / "a.png", "a.png")[0, 0].tolist() == [255, 204, 204]


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, name):
    values = np.array([[0, 257, 32768, 65535]], "uint16")
    Image.fromarray(values).save(tmp_path / name)
    pixels = read_image(tmp_path / name, name)
    assert pixels.dtype == np.uint16 and (pixels[..., 0] == values).all()
    source = open_source(f"folder:{tmp_path}")
    assert source.image_shape == (1, 4, 1) and source.image(0)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_tiff(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], "float32")).save(tmp_path / "a.tif")
    source = open_source(f"folder:{tmp_path}")
    assert source.image(0)[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0.0, 700.0]], "float32")).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="Expected float pixels in 0..1, received 0 to 700 in a.tif"):
        source.image(0)


def test_integers_beyond_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], "int32")).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="received a.tif .grey values from 0 to 70000 do not fit 16 bits"):
        open_source(f"folder:{tmp_path}").image(0)


def test_an_unreadable_file_is_named(tmp_path):
    Image.effect_noise((64, 64), 90).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("<html>404</html>")
    source = open_source(f"folder:{tmp_path}")
    for i, name in enumerate(("cut.jpg", "empty.png", "text.png")):
        with pytest.raises(ValueError, match=f"Expected a readable image, received {name} .*; repair or remove") as error:
            source.image(i)
        assert "\n" not in str(error.value)


def test_scaling_to_uint8():
    every = np.arange(256)
    assert (to_uint8(every.astype("uint16") * 257, "a") == every).all()
    assert (to_uint8(every.astype("float32") / 255, "a") == every).all()
    assert (to_uint8(every / 255, "a") == every).all()
    assert to_uint8(np.array([False, True]), "a").tolist() == [0, 255]
    deep = np.arange(65536)
    assert np.abs(to_uint8(deep.astype("uint16"), "a") - deep / 257).max() <= 0.5  # rounded, not cut off


def test_channels():
    colour = np.array([[[10, 20, 30], [255, 255, 255]]], "uint8")
    assert fit_channels(colour, 1, "a").tolist() == [[[18], [255]]]  # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15
    assert (fit_channels(colour, 1, "a")[..., 0] == np.asarray(Image.fromarray(colour).convert("L"))).all()
    assert fit_channels(colour[..., :1], 3, "a").tolist() == [[[10] * 3, [255] * 3]]
    assert fit_channels(colour, None, "a") is colour and fit_channels(colour, 3, "a") is colour
    with pytest.raises(ValueError, match="Expected an image of 2 channels, received 3 in a; only grey and RGB are converted"):
        fit_channels(colour, 2, "a")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r'Expected grain to be installed, .*; run pip install "keras_splitmask\[data') as error:
        optional("grain", "data")
    assert "\n" not in str(error.value)
