import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.backend.optional import optional
from keras_splitmask.data import decoding, jpeg, open_source
from keras_splitmask.data.conversion import fit_channels, to_uint8
from keras_splitmask.data.decoding import read_pixels
from keras_splitmask.data.headers import read_header
from keras_splitmask.data.resizing import resize
from keras_splitmask.data.stored_numbers import read_numbers

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
    image = read_pixels((tmp_path / "a.jpg").read_bytes(), "a.jpg")
    assert image.shape == (16, 32, 3) and np.abs(image.astype(int) - upright).max() < 30


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_orientation_that_does_not_exist_is_upright(mode, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image = Image.fromarray(photograph(16, 32)).convert(mode)
    image.save(file, "JPEG", exif=exif, quality=95)
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue()))).reshape(16, 32, -1)
    assert np.array_equal(read_pixels(file.getvalue(), "a.jpg"), expected)


@pytest.mark.parametrize(
    "before", [b"\xff", b"\xff" * 9, b"\xff\xfe\0\4ab\xff\xff", b"\xff\xd0", b"\xff\xfe\0\3a\xff\x01"]
)
def test_exif_is_found_behind_fill_bytes_and_markers_without_a_length(before):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(photograph(16, 32)).save(file, "JPEG", exif=exif, quality=95)
    content = file.getvalue()
    start = content.index(b"\xff\xe1")
    content = content[:start] + before + content[start:]
    assert jpeg.look(content).may_turn
    if (
        b"\xff\x01" not in before and b"\xff\xd0" not in before
    ):  # which Pillow takes for damage: such a file is left out
        assert read_pixels(content, "a.jpg").shape == (32, 16, 3)


def png(depth, kind, values, transparent=None):
    """A PNG of values (H, W) or (H, W, C), whose transparent value it names."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    bits = ["".join(format(value, f"0{depth}b") for value in np.ravel(row)) for row in values]
    rows = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8) for row in bits)
    header = struct.pack(">IIBBBBB", *np.shape(values)[1::-1], depth, kind, 0, 0, 0)
    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_grey_that_a_png_calls_transparent_is_white(rng, depth):
    values = rng.integers(0, 2**depth, (5, 8))
    key = int(values[2, 3])
    stored = read_pixels(png(depth, 0, values, [key]), "a.png")[..., 0]
    white = 65535 if depth == 16 else 255
    assert np.array_equal(stored, np.where(values == key, white, values * (white // (2**depth - 1))))


def test_the_colour_that_a_deep_png_calls_transparent_is_white():
    values = np.array([[[513, 40000, 65535], [10, 20, 30]]])
    assert read_pixels(png(16, 2, values, [513, 40000, 65535]), "a.png").tolist() == [[[255, 255, 255], [0, 0, 0]]]


def test_pnm_files_of_any_largest_value():
    twelve = np.array([[0, 1, 2048, 4095]], ">u2")
    assert read_pixels(b"P5 4 1 4095\n" + twelve.tobytes(), "a.pgm")[0, :, 0].tolist() == [0, 16, 32776, 65535]
    assert read_pixels(b"P5 4 1 100\n" + bytes([0, 40, 99, 100]), "a.pgm")[0, :, 0].tolist() == [0, 102, 252, 255]
    deep = read_pixels(b"P6 1 1 65535\n" + np.array([0, 300, 65535], ">u2").tobytes(), "a.ppm")
    assert deep.dtype == np.uint16 and deep.tolist() == [[[0, 300, 65535]]]  # all of its 16 bits
    with pytest.raises(ValueError, match="Expected a readable image, received a.pgm"):
        read_pixels(b"P5 4 1 4095\n" + bytes(3), "a.pgm")


@pytest.mark.parametrize("dtype", [">u2", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_the_other_byte_order(tmp_path, rng, dtype, order):
    values = rng.integers(0, 65536, (4, 5, 3)) if "u" in dtype else rng.random((4, 5, 3))
    array = np.asarray(values, dtype, order=order)
    for name, write in (("a.npy", np.save), ("b.npz", np.savez)):
        write(tmp_path / name, array)
    np.save(tmp_path / "set", np.asarray(array[None], order=order))
    expected = np.round(values / 257 if "u" in dtype else values.astype(dtype) * np.float32(255)).astype("uint8")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.npy", "b.npz"):
        (tmp_path / name).rename(folder / name)
    source = open_source(f"folder:{folder}")
    assert len(source) == 2 and all(np.array_equal(source.image(i), expected) for i in range(2))
    assert np.array_equal(open_source(f"npy:{tmp_path / 'set.npy'}").image(0), expected)


def test_palette_alpha_and_cmyk(tmp_path):
    two_halves("RGB", RED, GREEN).convert("P").save(tmp_path / "palette.png")
    two_halves("RGBA", (255, 0, 0, 255), (0, 255, 0, 0)).save(tmp_path / "alpha.png")
    two_halves("LA", (40, 255), (40, 0)).save(tmp_path / "grey_alpha.png")
    two_halves("CMYK", (0, 255, 255, 0), (255, 0, 255, 0)).save(tmp_path / "cmyk.tif")
    two_halves("1", 0, 1).save(tmp_path / "bits.png")
    paletted = two_halves("RGB", RED, GREEN).convert("P")
    paletted.save(tmp_path / "clear_palette.png", transparency=paletted.getpixel((3, 0)))

    def colours(name):
        image = read_pixels((tmp_path / name).read_bytes(), name)
        assert image.dtype == np.uint8 and image.shape[:2] == (2, 4)
        return [image[0, 0].tolist(), image[1, 3].tolist()]

    assert colours("palette.png") == [[255, 0, 0], [0, 255, 0]]
    assert colours("alpha.png") == [[255, 0, 0], [255, 255, 255]]  # what nobody sees is white, not the green underneath
    assert colours("grey_alpha.png") == [[40], [255]]
    assert colours("cmyk.tif") == [[255, 0, 0], [0, 255, 0]]
    two_halves("CMYK", (0, 255, 255, 0), (255, 0, 255, 0)).save(tmp_path / "cmyk.jpg", subsampling=0)
    assert (
        np.abs(np.array(colours("cmyk.jpg")) - [[255, 0, 0], [0, 255, 0]]).max() < 12
    )  # Adobe's JPEGs hold it inverted
    assert colours("bits.png") == [[0], [255]]
    assert colours("clear_palette.png") == [[255, 0, 0], [255, 255, 255]]


def test_half_transparent_red_is_pink(tmp_path):
    Image.new("RGBA", (1, 1), (255, 0, 0, 51)).save(tmp_path / "a.png")  # 20%: 255, 204, 204
    assert read_pixels((tmp_path / "a.png").read_bytes(), "a.png")[0, 0].tolist() == [255, 204, 204]


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, name):
    values = np.array([[0, 257, 32768, 65535]], "uint16")
    Image.fromarray(values).save(tmp_path / name)
    pixels = read_pixels((tmp_path / name).read_bytes(), name)
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
    with pytest.raises(ValueError, match="from 0 to 65535, received 0 to 70000 as int32 in a.tif; name their range"):
        open_source(f"folder:{tmp_path}").image(0)


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "empty.png", "text.png", "pickled.npy", "two.npz"])
def test_unreadable_files_are_named(tmp_path, name):
    Image.effect_noise((64, 64), 90).save(tmp_path / "cut.jpg")
    Image.effect_noise((64, 64), 90).save(tmp_path / "cut.png")
    for cut in ("cut.jpg", "cut.png"):
        content = (tmp_path / cut).read_bytes()
        (tmp_path / cut).write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("<html>404</html>")
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=f"Expected a readable image, received {name} .*; repair or remove") as error:
        read_pixels((tmp_path / name).read_bytes(), name)
    assert "\n" not in str(error.value)


def photograph(height, width):
    """Smooth, so that JPEG keeps it, and different everywhere."""
    rows, columns = np.meshgrid(np.linspace(0, 3, height), np.linspace(0, 4, width), indexing="ij")
    return np.stack([128 + 120 * np.sin(rows + k) * np.cos(columns - k) for k in range(3)], axis=-1).astype("uint8")


def test_a_jpeg_is_decoded_at_the_resolution_that_is_needed(tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(decoding, "resize", lambda image, *given: decoded.append(image) or resize(image, *given))
    pixels = photograph(400, 600)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    content = (tmp_path / "a.jpg").read_bytes()
    for side, factor in ((300, 1), (160, 2), (100, 4), (75, 4), (30, 8), (1, 8)):
        read = read_pixels(content, "a.jpg", lambda height, width, side=side: ((0, 0, height, width), (side, side)))
        assert read.shape == ((side, side, 3) if factor > 1 else pixels.shape)
        whole = decoded.pop() if factor > 1 else read
        assert whole.shape == (400 // factor, 600 // factor, 3) and not decoded
        assert np.abs(whole.astype(int) - np.asarray(Image.fromarray(pixels).reduce(factor))).max() < 6
    part = read_pixels(content, "a.jpg", lambda height, width: ((80, 120, 200, 300), (100, 150)))
    assert part.shape == (100, 150, 3)
    assert np.abs(part.astype(int) - np.asarray(Image.fromarray(pixels[80:280, 120:420]).reduce(2))).max() < 6
    assert (read_pixels(content, "a.jpg") == np.asarray(Image.open(tmp_path / "a.jpg"))).all()  # the same as Pillow's


def test_a_part_of_a_reduced_jpeg_lies_where_it_lies_in_the_whole(rng):
    """Colours tell row and column: one of 255 is 3 and 5 pixels, and one of a part's pixels is 3 to 40."""
    rows, columns = np.meshgrid(np.linspace(0, 255, 803), np.linspace(0, 255, 1201), indexing="ij")
    file = io.BytesIO()
    Image.fromarray(np.stack([rows, columns, 0 * rows], axis=-1).astype("uint8")).save(file, "JPEG", quality=95)
    whole, shifts = read_pixels(file.getvalue(), "a.jpg"), []
    for _ in range(100):
        height, width, new = (int(rng.integers(*ends)) for ends in ((300, 803), (300, 1201), (20, 100)))
        top, left = int(rng.integers(804 - height)), int(rng.integers(1202 - width))
        box = (top, left, height, width)
        small = read_pixels(file.getvalue(), "a.jpg", lambda *_, box=box, new=new: (box, (new, new)))
        expected = resize(whole[top : top + height, left : left + width], (new, new)).astype(int)
        assert small.shape == (new, new, 3)  # a twelfth of the height is more than is asked for
        shift = (small - expected)[..., :2].mean(axis=(0, 1)) / 255 * np.array([803, 1201])
        shifts.append(shift / np.array([height, width]) * new)
    assert np.std(shifts) < 0.05 and np.abs(np.mean(shifts)) < 0.03  # in pixels that are asked for


def test_a_rotated_jpeg_is_cropped_as_it_is_seen(tmp_path):
    upright, exif = photograph(600, 400), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1))).save(
        tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0
    )
    seen = []

    def plan(height, width):
        seen.append((height, width))
        return (400, 40, 160, 80), (80, 40)

    part = read_pixels((tmp_path / "a.jpg").read_bytes(), "a.jpg", plan)
    assert seen == [(600, 400)] and part.shape == (80, 40, 3)
    assert np.abs(part.astype(int) - np.asarray(Image.fromarray(upright[400:560, 40:120]).reduce(2))).max() < 6


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_ordinary_jpeg_is_read_without_pillow(tmp_path, monkeypatch, mode):
    for quality, options in ((60, {}), (95, {"subsampling": 0}), (90, {"progressive": True})):
        Image.fromarray(photograph(45, 70)).convert(mode).save(tmp_path / "a.jpg", quality=quality, **options)
        expected = np.asarray(Image.open(tmp_path / "a.jpg")).reshape(45, 70, -1)
        with monkeypatch.context() as patched:
            patched.setattr(decoding, "open_picture", None)
            assert (read_pixels((tmp_path / "a.jpg").read_bytes(), "a.jpg") == expected).all()


def test_a_jpeg_is_turned_as_its_xmp_says(tmp_path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(photograph(45, 70)).save(tmp_path / "a.jpg", xmp=xmp)
    expected = np.rot90(np.asarray(Image.open(tmp_path / "a.jpg")), -1)
    assert (read_pixels((tmp_path / "a.jpg").read_bytes(), "a.jpg") == expected).all()


def test_a_jpeg_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    size = content.index(b"\xff\xc0") + 5  # of the frame's header: marker, length and precision come first
    bomb = content[:size] + b"\xff\xdc\xff\xdc" + content[size + 4 :]
    with pytest.raises(ValueError, match="received bomb.jpg .65500 x 65500 pixels, more than 178 million"):
        read_pixels(bomb, "bomb.jpg")


def test_damage_inside_a_jpeg_is_noticed_and_harmless_bytes_are_not(tmp_path):
    Image.fromarray(photograph(64, 64)).save(tmp_path / "a.jpg", quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    assert read_pixels(content + b"what a camera appends", "a.jpg").shape == (64, 64, 3)
    for damage in (b"\xff\xd9", b"\xff\xd0"):  # an end and a restart where none should be
        middle = len(content) * 3 // 4
        with pytest.raises(ValueError, match="Expected a readable image, received a.jpg"):
            read_pixels(content[:middle] + damage + content[middle + 2 :], "a.jpg")


def test_white_as_zero_in_sixteen_bits(tmp_path):
    values = np.array([[0, 257, 32768, 65535]], "uint16")
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    if Image.open(tmp_path / "a.tif").tag_v2[262] != 0:
        pytest.skip("this Pillow does not write such files")
    assert read_pixels((tmp_path / "a.tif").read_bytes(), "a.tif")[0, :, 0].tolist() == [65535, 65278, 32767, 0]


@pytest.mark.parametrize(
    "content", [b"nothing of an image", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(40), b"II*\0garbage.."]
)
def test_the_reason_why_a_file_cannot_be_read_is_in_plain_words(content):
    for read in (read_pixels, read_numbers):
        with pytest.raises(ValueError, match="Expected a readable .*, received a.png ") as error:
            read(content, "a.png")
        assert "object at 0x" not in str(error.value) and "BytesIO" not in str(error.value)
    with pytest.raises(ValueError, match="received a.png .not an image of a known format.; repair or remove"):
        read_pixels(b"nothing of an image", "a.png")


def test_the_first_frame_of_several(tmp_path):
    frames = [Image.new("RGB", (4, 2), colour) for colour in (RED, GREEN)]
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {})
        )
        assert read_pixels((tmp_path / name).read_bytes(), name)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 2), (8, 9, 5), (8, 9, 13)])
@pytest.mark.parametrize("form", ["npy", "npz"])
def test_arrays_of_any_depth(tmp_path, shape, form):
    array = np.random.default_rng(0).integers(65536, size=shape).astype("uint16")
    {"npy": np.save, "npz": np.savez_compressed}[form](tmp_path / f"a.{form}", array)
    pixels = read_pixels((tmp_path / f"a.{form}").read_bytes(), "a")
    assert pixels.dtype == np.uint16 and (pixels == array.reshape(8, 9, -1)).all()


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
    with pytest.raises(
        ValueError, match="Expected an image of 2 channels, received 3 in a; only grey and RGB are converted"
    ):
        fit_channels(colour, 2, "a")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "JPEG")
    with pytest.raises(ImportError, match="Expected simplejpeg to be installed"):  # and not that the image is broken
        read_pixels(content.getvalue(), "a.jpg")
    with pytest.raises(
        ImportError, match=r"Expected grain to be installed, .*\. Run: pip install grain pillow simplejpeg pyyaml$"
    ) as error:
        optional("grain", "data")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("form", "least"), [("png", 1.0), ("gif", 0.0), ("webp", 0.0), ("tiff", 0.0), ("bmp", 0.0)])
def test_a_damaged_file_is_refused_or_read_but_never_blank(rng, form, least):
    image = Image.fromarray(rng.integers(1, 256, (12, 16, 3), "uint8"))
    file = io.BytesIO()
    image.save(
        file,
        form,
        **({"lossless": True} if form == "webp" else {"compression": "tiff_deflate"} if form == "tiff" else {}),
    )
    whole = read_pixels(file.getvalue(), "whole")
    refused = 0
    places = range(0, len(file.getvalue()), 7)
    for place in places:
        content = bytearray(file.getvalue())
        content[place] ^= 255
        try:
            pixels = read_pixels(bytes(content), "damaged")
        except ValueError as error:
            assert "damaged" in str(error)
            refused += 1
        else:
            assert pixels.any(), f"blank where byte {place} is wrong"
            assert least < 1 or np.array_equal(pixels, whole), f"other pixels where byte {place} is wrong"
    assert refused >= least * 0.9 * len(places)


def grey_tiff(values, sample_format):
    """A TIFF of grey values (H, W), whose SampleFormat is that number."""
    (height, width), bits = values.shape, 8 * values.itemsize
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: 1,
        273: 8 + 2 + 10 * 12 + 4,
        277: 1,
        278: height,
        279: values.nbytes,
        339: sample_format,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + values.tobytes()


def test_unsigned_values_of_32_bits_in_a_tiff():
    """Pillow gives the larger half of them as negative numbers."""
    values = np.array([[0, 2**31 - 1, 2**31, 2**32 - 1]], "<u4")
    pixels = read_pixels(grey_tiff(values, 1), "it")
    assert pixels[..., 0].tolist() == values.tolist() and to_uint8(pixels, "it", (0, 2**32 - 1))[0, :, 0].tolist() == [
        0,
        127,
        128,
        255,
    ]
    assert read_pixels(grey_tiff(np.array([[-5, 5]], "<i4"), 2), "it")[..., 0].tolist() == [[-5, 5]]


def test_signed_values_of_8_bits_in_a_tiff_are_left_out(tmp_path):
    """Pillow gives -1 as 255."""
    (tmp_path / "a.tif").write_bytes(grey_tiff(np.array([[-1, 1]], "int8"), 2))
    assert (
        read_header(tmp_path / "a.tif")
        == "a TIFF of signed 8-bit values, which Pillow reads as unsigned; save it as .npy"
    )
