"""The orientation that annotations are turned by is the one that the image is turned by when it is read."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from keras_splitmask.data import turning
from keras_splitmask.data.decoding import TURNS, read_pixels
from keras_splitmask.data.turning import orientation

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
LOSSLESS = {"WEBP": {"lossless": True}}


def exif(turn):
    block = Image.Exif()
    block[0x0112] = turn
    return block


def saved(form, turn, by, pixels):
    """An image file turned by its EXIF or its XMP block."""
    options = {"exif": exif(turn)} if by == "exif" else {"xmp": XMP % turn}
    if by == "xmp" and form == "PNG":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", (XMP % turn).decode())
    if by == "xmp" and form == "TIFF":
        options = {"tiffinfo": {700: XMP % turn}}
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options, **LOSSLESS.get(form, {}))
    return file.getvalue()


def after_the_pixels(content):
    """A PNG whose eXIf or iTXt chunk stands after its pixels."""
    chunks, place = [], 8
    while place < len(content):
        length = struct.unpack_from(">I", content, place)[0] + 12
        chunks.append(content[place : place + length])
        place += length
    return content[:8] + b"".join(
        sorted(chunks, key=lambda chunk: (chunk[4:8] == b"IEND", chunk[4:8] in (b"eXIf", b"iTXt")))
    )


def check(tmp_path, content, pixels, turn, tolerance=0):
    (tmp_path / "a").write_bytes(content)
    read = read_pixels(content, "a").astype(int)
    expected = TURNS[turn](pixels) if turn in TURNS else pixels
    assert read.shape == expected.shape and np.abs(read - expected).max() <= tolerance
    assert orientation(tmp_path / "a") == turn


@pytest.mark.parametrize("turn", [1, 3, 6, 7])
@pytest.mark.parametrize("by", ["exif", "xmp"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_orientation_is_the_one_that_is_applied(tmp_path, form, by, turn):
    rows, columns = np.meshgrid(np.arange(24), np.arange(40), indexing="ij")
    pixels = np.stack([rows * 8, columns * 5, 0 * rows + 90], axis=-1).astype("uint8")
    content = saved(form, turn, by, pixels)
    check(tmp_path, content, pixels, turn, 30 if form == "JPEG" else 0)
    if form == "PNG":
        check(tmp_path, after_the_pixels(content), pixels, turn)


def test_a_block_behind_a_long_profile_is_found(tmp_path):
    content = saved("JPEG", 6, "exif", np.full((24, 40, 3), 90, "uint8"))
    profiles = b"".join(b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000) for _ in range(4))
    check(tmp_path, content[:2] + profiles + content[2:], np.full((24, 40, 3), 90), 6, 3)


def test_pixels_are_decoded_only_where_a_block_may_follow_them(tmp_path, monkeypatch):
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "a program that writes no orientation")
    image = Image.fromarray(np.zeros((24, 40, 3), "uint8"))
    image.save(tmp_path / "a.png", pnginfo=text)
    image.save(tmp_path / "a.jpg")
    opened = []
    monkeypatch.setattr(turning, "open_picture", opened.append)
    assert [orientation(tmp_path / name) for name in ("a.png", "a.jpg")] == [1, 1]
    assert not opened
    assert orientation(tmp_path) == orientation(tmp_path / "none") == 1
