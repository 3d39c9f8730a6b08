import io
import json
import os
import re
import resource
import struct
import time

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import batches, open_source, subset_of
from keras_splitmask.data.scan import printable, scan


def images(root, count):
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (6 + i, 4), (10 * i, 0, 0)).save(root / f"{i}.png")
    return root


def test_a_nasty_folder_of_sixty_files(nasty_folder, tmp_path):
    root, bad = nasty_folder
    assert len(os.listdir(root)) == 60
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    source = open_source(f"folder:{root}", record=tmp_path / "data.json", max_bad_fraction=0.5)
    left_out = json.loads((tmp_path / "data.json").read_text())["left_out"]
    assert sorted(left_out) == sorted(bad) and left_out == source.left_out
    for name, pattern in bad.items():
        assert re.search(pattern, left_out[name]), f"{name}: {left_out[name]}"
    assert len(source) == 60 - len(bad) - 1 and source.channels == 3  # readme.txt is no image

    # What is left is read, in its own colours.
    for i in range(len(source)):
        image = source.image(i)
        assert image.shape == (8, 12, 3), source.name(i)
        colour = image.reshape(-1, 3).mean(axis=0)
        grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
        assert np.abs(colour - (200, 100, 50)).max() < 12 or np.abs(colour - grey).max() < 2, (
            f"{source.name(i)}: {colour}"
        )
    for batch in batches(source, (8, 8, 3), 8, steps=20):
        assert batch.shape == (8, 8, 8, 3)
    assert not source.broken
    assert time.monotonic() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # KiB


def test_names_can_be_shown_and_written(nasty_folder):
    root, _ = nasty_folder
    source = open_source(f"folder:{root}", max_bad_fraction=0.5)
    names = [source.name(i) for i in range(len(source))]
    assert r"caf\udce9.png" in names and r"in\nline.png" in names
    assert all(name.isprintable() and name.encode() for name in names)
    assert printable("grün 图.png") == "grün 图.png"


def test_names_that_print_alike_stay_different(tmp_path):
    """Each printed name in a subset.txt selects its own image."""
    names = [
        "a\nb",
        r"a\nb",
        r"a\\nb",
        "c\udcff",
        r"c\udcff",
        r"c\uDCFF",
        "\t",
        r"\t",
        "x\\\n",
        r"x\\n",
        "y\x7f",
        r"y\x7f",
        r"z\x7",
        r"z\b",
        "z\\",
    ]
    (tmp_path / "images").mkdir()
    for value, name in enumerate(names):
        Image.new("L", (2, 2), value).save(buffer := io.BytesIO(), "PNG")
        (tmp_path / "images" / f"{name}.png").write_bytes(buffer.getvalue())
    source = open_source(f"folder:{tmp_path / 'images'}")
    assert len({source.name(i) for i in range(len(source))}) == len(names)
    for value, name in enumerate(names):
        (tmp_path / "subset.txt").write_text(printable(f"{name}.png") + "\n")
        assert subset_of(source, str(tmp_path / "subset.txt")).image(0)[0, 0, 0] == value
    kept = [r"z\x7", r"z\b", "z\\", r"c\uDCFF", r"C:\photos\1.png"]  # backslashes that stand for no other character
    assert (
        [printable(name) for name in kept] == kept and printable("a\nb") == r"a\nb" and printable(r"a\nb") == r"a\\nb"
    )


def test_the_run_stops_above_a_share_of_bad_files(nasty_folder, tmp_path):
    root, bad = nasty_folder
    counted = (
        len(bad) - 2
    )  # of another depth is one, and what macOS notes beside each file is listed, but says nothing of the images
    with pytest.raises(
        ValueError, match=f"Expected at most 10% of the files in .* to be unreadable, received {counted} of"
    ) as error:
        open_source(f"folder:{root}", record=tmp_path / "data.json")
    assert re.search(
        r"batch.npy: an array .*; and \d+ more\); repair or remove them, or raise max_bad_fraction", str(error.value)
    )
    assert "\n" not in str(error.value)
    assert "empty.jpg" in json.loads((tmp_path / "data.json").read_text())["left_out"]


def test_the_first_screen_describes_the_data(tmp_path):
    root = images(tmp_path / "a", 5)
    assert open_source(f"folder:{root}").summary() == "5 images of 4x6 to 4x10"
    for name in "abcd":
        (root / f"{name}.jpg").touch()
    summary = open_source(f"folder:{root}", max_bad_fraction=0.5).summary()
    assert (
        summary
        == "5 images of 4x6 to 4x10; 4 left out (a.jpg: an empty file; b.jpg: an empty file; c.jpg: an empty file; and"
        " 1 more)"
    )


def test_images_of_several_pages_or_frames_are_counted(tmp_path):
    """Only their first is read. A JPEG with a preview inside is one image."""
    root, record = tmp_path / "images", tmp_path / "data.json"
    root.mkdir()
    pages = [Image.new("RGB", (6, 4), (60 * i, 0, 0)) for i in range(3)]
    names = ["a.gif", "b.png", "c.tif", "d.webp"]
    for name in (*names, "e.mpo"):
        pages[0].save(root / name, save_all=True, append_images=pages[1:])
    for name in ("one.gif", "one.png", "one.tif", "one.webp"):
        pages[1].save(root / name)
    found = scan(root, record)
    assert found.several == names and len(found.images) == 9
    assert found.summary().endswith(
        "; of 4 with several pages or frames only the first is read (a.gif; b.png; c.tif; and 1 more)"
    )
    assert scan(root, record) == found  # remembered


def test_only_changed_files_are_read_again(tmp_path, monkeypatch):
    root, record, read = images(tmp_path / "a", 5), tmp_path / "run" / "data.json", []
    from keras_splitmask.data import scan as module

    monkeypatch.setattr(
        module,
        "read_header",
        lambda path, *rest, read_header=module.read_header: read.append(path) or read_header(path, *rest),
    )
    first = scan(root, record)
    assert len(read) == 5
    assert scan(root, record) == first and len(read) == 5
    Image.new("RGB", (50, 40)).save(root / "3.png")
    Image.new("RGB", (7, 7)).save(root / "new.png")
    (root / "1.png").unlink()
    read.clear()
    second = scan(root, record)
    assert sorted(map(os.path.basename, read)) == ["3.png", "new.png"]
    assert list(second.images) == ["0.png", "2.png", "3.png", "4.png", "new.png"] and second.images["3.png"] == (
        40,
        50,
        3,
    )
    assert second == scan(root) and scan(tmp_path / "a", record).root == str(root)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 3, "root": "elsewhere"}', "\xff"])
def test_a_damaged_record_is_written_again(tmp_path, content):
    root, record = images(tmp_path / "a", 3), tmp_path / "data.json"
    first = scan(root)
    record.write_text(content, encoding="latin-1")
    assert scan(root, record) == first and json.loads(record.read_text())["version"] == 3


def test_a_resumed_run_keeps_its_images(tmp_path):
    root, record = images(tmp_path / "a", 5), tmp_path / "data.json"
    before = open_source(f"folder:{root}", record=record)
    (root / "1.png").unlink()
    Image.new("RGB", (7, 7)).save(root / "new.png")
    after = open_source(f"folder:{root}", record=record, frozen=True)
    assert after.paths == before.paths and after.fingerprint == before.fingerprint
    batch = next(iter(batches(after, (4, 4, 3), 5)))
    assert batch.shape == (5, 4, 4, 3) and list(after.broken) == ["1.png"]
    after.save_record()
    assert "No such file" in json.loads(record.read_text())["broken"]["1.png"]
    assert open_source(f"folder:{root}", record=record).fingerprint != before.fingerprint  # without `frozen` it looks


def test_progress_is_reported(tmp_path, monkeypatch):
    from keras_splitmask.data import scan as module

    monkeypatch.setattr(module, "INTERVAL", 0.0)
    lines = []
    scan(images(tmp_path / "a", 5), report=lines.append)
    assert re.fullmatch(r"looking at .*a: 1 of 5 files, 0 s", lines[0])


def test_a_folder_that_cannot_be_entered_is_listed(tmp_path, monkeypatch):
    root = images(tmp_path / "a", 3)
    (root / "closed").mkdir()

    def scandir(path, scandir=os.scandir):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert scan(root).left_out == {"closed": "a folder that cannot be read (Permission denied)"}


def test_arrays_with_channels_first_are_left_out(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 3), "uint8"))
    np.save(tmp_path / "b.npy", np.zeros((3, 8, 8), "uint8"))
    found = scan(tmp_path)
    assert found.images == {"a.npy": (8, 8, 3)}
    assert found.left_out == {
        "b.npy": "an array of shape (3, 8, 8), which seems to be (C, H, W); transpose it by (1, 2, 0)"
    }


def test_the_images_of_most_channels_are_taken(tmp_path):
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", np.zeros((4, 6, 5), "uint8"))
    Image.new("RGB", (6, 4)).save(tmp_path / "colour.png")
    source = open_source(f"folder:{tmp_path}", max_bad_fraction=0.2, record=tmp_path / "data.json")
    assert (
        source.channels == 5
        and source.image_shape == (4, 6, 5)
        and source.left_out == {"colour.png": "3 channels, not 5"}
    )
    colour = open_source(f"folder:{tmp_path}", channels=3, max_bad_fraction=0.9, record=tmp_path / "data.json")
    assert len(colour) == 1 and len(colour.left_out) == 5
    assert len(open_source(f"folder:{tmp_path}", max_bad_fraction=0.2, record=tmp_path / "data.json")) == 5
    with pytest.raises(ValueError, match="received 1 of 6 .colour.png: 3 channels, not 5"):
        open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize("samples", [2, 4, 5, 13])
def test_a_tiff_of_channels_that_pillow_drops_is_left_out(tmp_path, samples):
    """A TIFF (little-endian) of one strip, chunky, without a word on what the channels mean."""
    pixels = bytes(4 * 6 * samples)
    bits_at = 8 + len(pixels)
    tags = [
        (256, 3, 1, 6), (257, 3, 1, 4), (258, 3, samples, bits_at), (259, 3, 1, 1),
        (262, 3, 1, 2 if samples > 3 else 1), (273, 4, 1, 8), (277, 3, 1, samples), (278, 3, 1, 4),
        (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    if samples == 2:
        tags[2] = (258, 3, 2, 8 | 8 << 16)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    bits = struct.pack(f"<{samples}H", *[8] * samples)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", bits_at + len(bits)) + pixels + bits + directory)
    found = scan(tmp_path)
    assert not found.images and re.search("a TIFF of|not an image of a known format", found.left_out["a.tif"])
