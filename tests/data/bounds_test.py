"""What reading one file may take: decided from its header, the same at the scan and at the read, before anything is
decoded."""

import io
import os
import resource
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import bounds, decoding, jpeg, open_source
from keras_splitmask.data.conversion import fit_channels, to_uint8
from keras_splitmask.data.decoding import read_pixels
from keras_splitmask.data.headers import read_header
from keras_splitmask.data.resizing import resize
from keras_splitmask.data.stored_numbers import read_file

SIDE = 9000  # 81 million pixels: within Pillow's limit, but 0.7 GB as RGB with its copies


def png(side, depth=8, kind=2):
    """A small PNG that claims side x side pixels; its pixels are not there."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def array(side, form):
    """An .npy or .npz file of float64 zeros (side, side, 3)."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({side}, {side}, 3), }}".encode().ljust(117) + b"\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w", force_zip64=True) as member,
    ):
        member.write(head)
        for _ in range(side):
            member.write(bytes(side * 3 * 8))
    return file.getvalue()


def jpeg_claiming(height, width, progressive=False):
    """A JPEG whose header claims other sides than it has."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=progressive)
    content = file.getvalue()
    place = content.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def webp_claiming(height, width):
    """A lossless WebP of 1 x 1 pixel whose header claims other sides."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "WEBP", lossless=True)
    content = bytearray(file.getvalue())
    place = content.index(b"VP8L") + 9
    content[place : place + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(content)


def exif(entries=6000, shared=60000):
    """A TIFF block whose tags all have the same bytes."""
    tags = b"".join(struct.pack("<HHII", tag, 1, shared, 8) for tag in range(1000, 1000 + entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + tags + bytes(shared)


FILES = {
    "rgb.png": lambda: png(SIDE),
    "rgba.png": lambda: png(SIDE, kind=6),
    "deep.png": lambda: png(SIDE, depth=16, kind=0),
    "a.webp": lambda: webp_claiming(SIDE, SIDE),
    "progressive.jpg": lambda: jpeg_claiming(13000, 13000, progressive=True),
    "a.npz": lambda: array(3800, "npz"),
    "tags.tif": exif,
    "text.ppm": lambda: b"P3 2000 2000 255\n" + b"1 " * 100,
}


@pytest.mark.parametrize("name", FILES)
def test_what_takes_too_much_is_left_out_by_its_header(tmp_path, name):
    content = FILES[name]()
    (tmp_path / name).write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reason = read_header(tmp_path / name)
    assert isinstance(reason, str) and any(
        words in reason for words in ("MB of memory", "share their bytes", "written as text")
    ), reason
    with pytest.raises(ValueError) as error:
        read_pixels(content, name, lambda height, width: ((0, 0, height, width), (32, 32)))
    assert reason in str(error.value)  # the same words, so the scan and the read agree
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB


@pytest.mark.parametrize(("side", "scans"), [(2000, 400), (16, 370_000)])
def test_a_jpeg_of_very_many_scans_is_refused_by_its_header(tmp_path, side, scans):
    """Their decoding takes a time that grows with scans times pixels: this one of 2,000 x 2,000 pixels takes 5 s."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(content[:-2] + last * scans + content[-2:])
    (tmp_path / "b.jpg").write_bytes(content[:-2] + last * 20 + content[-2:])
    started = time.monotonic()
    reason = read_header(tmp_path / "a.jpg")
    assert (
        reason == f"{side} x {side} pixels in {scans + 10} scans, which take too long to decode; save the image again"
    )
    with pytest.raises(ValueError) as error:
        read_pixels((tmp_path / "a.jpg").read_bytes(), "a.jpg", lambda height, width: ((0, 0, height, width), (32, 32)))
    assert reason in str(error.value) and time.monotonic() - started < 5
    assert read_header(tmp_path / "b.jpg") == (side, side, 3)


def test_a_file_that_grows_during_the_run_is_named_and_replaced(tmp_path, rng):
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), "uint8")).save(tmp_path / f"{i}.png")
    source = open_source(f"folder:{tmp_path}")
    (tmp_path / "1.png").write_bytes(png(SIDE))
    os.truncate(tmp_path / "2.png", 4_000_000_000)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i, reason in ((1, "make it smaller"), (2, "a file of 4000 MB, more than 450")):
        _, index = source.readable(i, source.image)
        assert index == 0 and reason in source.broken[f"{i}.png"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB


def test_a_large_photograph_is_read_at_the_resolution_that_fits(tmp_path, monkeypatch, rng):
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (40, 60, 3), "uint8"), 16, 0), 16, 1)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    content = (tmp_path / "a.jpg").read_bytes()
    monkeypatch.setattr(
        bounds, "MAX_BYTES", 640 * 960 * 9 // 16 + 2 * len(content) + 100
    )  # a quarter of the sides fits
    assert read_header(tmp_path / "a.jpg") == (640, 960, 3)
    shapes = []  # of what is decoded
    monkeypatch.setattr(decoding, "resize", lambda image, *given: shapes.append(image.shape) or resize(image, *given))
    for side in (500, 200, 80):
        read = read_pixels(content, "a.jpg", lambda h, w, s=side: ((0, 0, h, w), (s, s)))
        assert read.shape == (side, side, 3)
    assert shapes == [(160, 240, 3), (160, 240, 3), (80, 120, 3)]
    with pytest.raises(ValueError, match="640 x 960 pixels would take .* make it smaller"):
        read_pixels(content, "a.jpg")
    monkeypatch.setattr(bounds, "MAX_BYTES", 1000)
    assert "make it smaller" in read_header(tmp_path / "a.jpg")


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux to reset the peak of the memory")
@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_what_is_within_the_bound_takes_less_than_500_mb(name):
    """The factors hold: the largest square of the format that is not refused is read."""
    factor = {"a.webp": 4 + 3 + bounds.EXTRA["WEBP"], "a.png": bounds.LATER}[name]
    side = int((bounds.MAX_BYTES / factor) ** 0.5) - 300
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(
        file, name[2:], **({"lossless": True, "quality": 0, "method": 0} if "webp" in name else {"compress_level": 1})
    )
    read_pixels(jpeg_claiming(64, 64), "first.jpg")  # loads Pillow
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before = memory("VmHWM")
    pixels = read_pixels(file.getvalue(), name, lambda height, width: ((0, 0, height, width), (32, 32)))
    resize(fit_channels(to_uint8(pixels, name), 3, name), (32, 32))
    assert pixels.shape == (side, side, 3) and 200e6 < memory("VmHWM") - before < 500e6
    wider = int((bounds.MAX_BYTES / factor) ** 0.5) + 300
    with pytest.raises(ValueError, match="make it smaller"):
        read_pixels(webp_claiming(wider, wider) if "webp" in name else png(wider), name)


def memory(key):
    """Bytes that the kernel counts for this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def test_the_header_of_a_jpeg():
    plain, progressive = (jpeg.look(jpeg_claiming(64, 64, progressive)) for progressive in (False, True))
    assert (plain.samples, plain.buffered, plain.may_turn) == (1.5, False, False)  # 4:2:0
    assert progressive.buffered and progressive.scans > 1
    many = b"\xff\xd8" + b"\xff\xfe\0\2" * 20_000
    with pytest.raises(ValueError, match="more than 10000 segments"):
        jpeg.look(many)
    block = exif(5000, 1000)[:65000]
    bomb = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block
    with pytest.raises(ValueError, match="share their bytes"):
        jpeg.look(bomb * 3)


@pytest.mark.parametrize("start", [b"\0\0\0\x1cftypavif", b"\x89PNG\r\n\x1a\n", b"II*\0"])
def test_a_very_long_file_is_not_read_by_the_scan(tmp_path, start):
    (tmp_path / "a.png").write_bytes(start)
    os.truncate(tmp_path / "a.png", 4_000_000_000)  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_header(tmp_path / "a.png") == "a file of 4000 MB, more than 450; make it smaller"
    with pytest.raises(ValueError, match="received a .a file of 4000 MB, more than 450"):
        read_file(tmp_path / "a.png", "a")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
