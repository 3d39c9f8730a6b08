"""A folder of everything that goes wrong with image files."""

import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image


def bomb(path, side):
    """A small PNG that claims side x side pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def good_files(root):
    """Images (8, 12) of a colour near (200, 100, 50), or of that in grey, in every form that is read."""
    colour = Image.new("RGB", (12, 8), (200, 100, 50))
    for extension in ("png", "bmp", "gif", "tif", "webp", "ppm", "jpg", "JPEG"):
        colour.save(root / f"colour.{extension}", **({"quality": 100} if extension in ("webp", "jpg", "JPEG") else {}))
    colour.save(root / "a tiff.jpg", format="TIFF")
    colour.save(root / "progressive.jpg", progressive=True, quality=100)
    colour.convert("P").save(root / "palette.png")
    colour.convert("P").save(root / "palette.bmp")
    colour.convert("CMYK").save(root / "cmyk.jpg", quality=100)
    colour.convert("CMYK").save(root / "cmyk.tif")
    colour.convert("RGBA").save(root / "alpha.png")
    colour.convert("YCbCr").save(root / "ycbcr.jpg", quality=100)
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.transpose(Image.Transpose.ROTATE_90).save(root / "rotated.jpg", exif=exif, quality=100)
    colour.save(root / "animated.gif", save_all=True, append_images=[Image.new("RGB", (12, 8))])
    colour.save(root / "animated.webp", save_all=True, append_images=[Image.new("RGB", (12, 8))], lossless=True)
    (root / "trailing.jpg").write_bytes((root / "colour.jpg").read_bytes() + bytes(500))
    colour.save(root / "in\nline.png")
    colour.save(os.fsencode(root) + b"/caf\xe9.png")
    (root / "link.png").symlink_to(root / "colour.png")
    grey = colour.convert("L")
    level = grey.getpixel((0, 0))
    grey.save(root / "grey.png")
    grey.save(root / "grey.tif")
    Image.fromarray(np.full((8, 12), level * 257, "uint16")).save(root / "deep.png")
    Image.fromarray(np.full((8, 12), level * 257, "uint16")).save(root / "deep.tif")
    Image.fromarray(np.full((8, 12), level / 255, "float32")).save(root / "float.tif")
    np.save(root / "array.npy", np.asarray(colour))
    np.savez(root / "array.npz", np.asarray(grey))


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def bad_pictures(root):
    """name: pattern of the reason."""
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64), dtype="uint8"))
    for name in ("cut.jpg", "cut.png", "cut.gif"):
        noise.save(root / name)
        cut_short(root / name)
    (root / "empty.jpg").touch()
    (root / "text.jpg").write_text("<html>404 not found</html>")
    (root / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (root / "._mac.jpg").write_bytes(b"\x00\x05\x16\x07")
    (root / "phone.heic").write_bytes(b"\x00\x00\x00\x18ftypheic")
    bomb(root / "bomb.png", 20000)
    bomb(root / "small_bomb.png", 13360)
    Image.new("LAB", (12, 8)).save(root / "lab.tif")
    return {
        "cut.jpg": "truncated",
        "cut.png": "truncated|ended",
        "cut.gif": "truncated|ended|incomplete",
        "empty.jpg": "an empty file",
        "text.jpg": "not an image of a known format",
        "program.jpg": "not an image of a known format",
        "._mac.jpg": "what macOS notes about a file",
        "phone.heic": "the format .heic is not supported; convert",
        "bomb.png": "more than 178 million pixels",
        "small_bomb.png": "13360 x 13360 pixels, more than 178 million",
        "lab.tif": "colours in LAB",
    }


def no_files(root):
    """name: pattern of the reason, of links and of what would never end if it were read."""
    (root / "nowhere.jpg").symlink_to(root / "gone.jpg")
    (root / "itself.jpg").symlink_to(root / "itself.jpg")
    os.mkfifo(root / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket.png"))
    (root / "device.png").symlink_to("/dev/zero")
    not_regular = "no file but a FIFO, socket or device"
    return {
        "nowhere.jpg": "a link to nowhere",
        "itself.jpg": "a link to nowhere",
        **dict.fromkeys(("fifo.jpg", "socket.png", "device.png"), not_regular),
    }


def bad_arrays(root):
    """name: pattern of the reason."""
    np.save(root / "cut.npy", np.zeros((8, 12, 3), "uint8"))
    cut_short(root / "cut.npy")
    np.save(root / "objects.npy", np.array([[{}]]), allow_pickle=True)
    np.save(root / "batch.npy", np.zeros((2, 8, 12, 3), "uint8"))
    np.save(root / "integers.npy", np.zeros((8, 12), "int64"))
    np.save(root / "deep.npy", np.zeros((8, 12, 5), "uint8"))
    np.savez(root / "two.npz", a=np.zeros((8, 12)), b=np.zeros((8, 12)))
    (root / "no.npz").write_bytes(b"PK\x03\x04 and no more")
    return {
        "cut.npy": "an array that is cut short",
        "objects.npy": "pixels as object",
        "batch.npy": r"an array of shape \(2, 8, 12, 3\), not",
        "integers.npy": "pixels as int64, not",
        "deep.npy": "5 channels, not 3",
        "two.npz": "an .npz file of 2 arrays, not one",
        "no.npz": "not a zip file",
    }


@pytest.fixture
def nasty_folder(tmp_path):
    """The path of a folder, and {name: pattern of the reason} of its bad files. The good ones show one colour, or it in
    grey."""
    root = tmp_path / "nasty"
    root.mkdir()
    good_files(root)
    bad = {**bad_pictures(root), **no_files(root), **bad_arrays(root)}
    (root / "readme.txt").write_text("no image")
    for i in range(60 - len(os.listdir(root))):
        Image.new("RGB", (12, 8), (200, 100, 50)).save(root / f"more{i}.png")
    return root, bad
