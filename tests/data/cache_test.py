import json
import os

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import balanced, batches, cached, names_of, open_source
from keras_splitmask.data import cache as module


@pytest.fixture
def folder(tmp_path):
    """Twelve photographs of two classes, of 160 to 171 rows and 240 columns."""
    rng = np.random.default_rng(0)
    for i in range(12):
        image = Image.fromarray(rng.integers(256, size=(5, 6, 3), dtype="uint8")).resize((240, 160 + i), Image.Resampling.BICUBIC)
        path = tmp_path / "images" / "ab"[i % 2] / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=95)
    return tmp_path / "images"


def opened(folder):
    return open_source(f"folder:{folder}")


def packed(monkeypatch):
    """The names of the images that are packed from now on."""
    names = []
    small = module._small
    monkeypatch.setattr(module, "_small", lambda source, i, side: names.append(source.name(i)) or small(source, i, side))
    return names


def test_cached_images_are_the_images_made_smaller(folder, tmp_path):
    source = opened(folder)
    small = cached(source, 80, tmp_path / "cache")
    assert len(small) == 12 and small.channels == 3 and small.classes == ["a", "b"]
    assert (small.labels == source.labels).all() and [small.name(i) for i in range(12)] == source.paths
    for i in range(12):
        image = small.image(i)
        assert image.dtype == np.uint8 and image.shape == (80, round(240 * 80 / source.image(i).shape[0]), 3)
        exact = np.asarray(Image.fromarray(source.image(i)).resize(image.shape[1::-1], Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(image - exact).mean() < 2
    assert (cached(source, 1000, tmp_path / "large").image(3) == source.image(3)).all()  # never enlarged


def test_batches_of_a_cache(folder, tmp_path):
    small = cached(opened(folder), 32, tmp_path / "cache")
    expected = list(batches(small, (16, 16, 3), 5, steps=6, labels=True, workers=0))
    again = cached(opened(folder), 32, tmp_path / "cache")
    for workers in (1, 2, 4):
        found = batches(again, (16, 16, 3), 5, steps=6, labels=True, workers=workers)
        assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(expected, found, strict=True))
    assert names_of(small, 5, 0, 3) == names_of(opened(folder), 5, 0, 3)  # the order is that of the images themselves


def test_it_is_packed_once_and_anew_when_the_images_change(folder, tmp_path, monkeypatch):
    names, cache = packed(monkeypatch), tmp_path / "cache"
    cached(opened(folder), 20, cache)
    assert len(names) == 12
    cached(opened(folder), 20, cache)
    assert len(names) == 12
    Image.new("RGB", (60, 40)).save(folder / "a" / "00.jpg")
    changed = cached(opened(folder), 20, cache)
    assert len(names) == 24 and changed.image(0).max() == 0
    cached(opened(folder), 24, cache)
    assert len(names) == 36
    cached(open_source(f"folder:{folder}", channels=1), 24, cache)
    assert len(names) == 48
    assert len(os.listdir(cache)) == 2  # what was replaced is gone


def test_an_interrupted_packing_leaves_what_was_there(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = cached(opened(folder), 20, cache)
    small = module._small

    def interrupted(source, i, side):
        if i == 7:
            raise KeyboardInterrupt
        return small(source, i, side)

    monkeypatch.setattr(module, "_small", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached(opened(folder), 24, cache)
    assert len(os.listdir(cache)) == 2
    monkeypatch.setattr(module, "_small", small)
    assert (cached(opened(folder), 20, cache).image(5) == first.image(5)).all()
    # Killed outright, it leaves a part of a file behind, which the next packing removes.
    (cache / "images-killed.array_record").write_bytes(b"half a file")
    names = packed(monkeypatch)
    cached(opened(folder), 20, cache)
    assert not names
    cached(opened(folder), 24, cache)
    assert len(names) == 12 and len(os.listdir(cache)) == 2


@pytest.mark.parametrize("damage", ["cut", "gone", "index", "index gone"])
def test_an_incomplete_cache_is_packed_anew(folder, tmp_path, monkeypatch, damage):
    cache = tmp_path / "cache"
    first = cached(opened(folder), 20, cache)
    (records,) = cache.glob("*.array_record")
    if damage == "cut":
        records.write_bytes(records.read_bytes()[:-100])
    elif damage == "gone":
        records.unlink()
    elif damage == "index":
        (cache / "index.json").write_text((cache / "index.json").read_text()[:-20])
    else:
        (cache / "index.json").unlink()
    names = packed(monkeypatch)
    again = cached(opened(folder), 20, cache)
    assert len(names) == 12 and all((first.image(i) == again.image(i)).all() for i in range(12))


def test_flipped_bits_are_noticed_and_read_from_the_image_itself(folder, tmp_path):
    cache = tmp_path / "cache"
    first = cached(opened(folder), 20, cache)
    intact = [first.image(i) for i in range(12)]
    (records,) = cache.glob("*.array_record")
    content = bytearray(records.read_bytes())
    for place in np.random.default_rng(0).integers(70000, len(content) - 70000, size=6) if len(content) > 200000 else (5000, 12000):
        content[place] ^= 1
    records.write_bytes(content)
    damaged, said = cached(opened(folder), 20, cache), []
    damaged.report = said.append
    assert all((damaged.image(i) == intact[i]).all() for i in range(12))
    assert damaged.broken and len(said) == len(damaged.broken)
    assert all("Expected the cached " in line and "hash mismatch" in line and "\n" not in line for line in said)


def test_unreadable_images_are_not_packed(folder, tmp_path):
    source, said = opened(folder), []
    source.report = said.append
    (folder / "b" / "03.jpg").write_bytes(b"broken since")
    small = cached(source, 20, tmp_path / "cache")
    assert len(small) == 11 and "b/03.jpg" not in [small.name(i) for i in range(11)] and small.labels.tolist().count(1) == 5
    assert list(source.broken) == ["b/03.jpg"] and said[0].endswith("It is left out.")
    source = opened(folder)
    for path in folder.glob("*/*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match=f"Expected images to pack, received {len(source)} that cannot be read"):
        cached(source, 20, tmp_path / "other")
    assert os.listdir(tmp_path / "other") == []


def test_a_full_disk_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, options):
            self.file = open(path, "wb")

        def write(self, record):
            self.file.write(record[:10])

        def close(self):
            self.file.close()
            raise RuntimeError("write() failed: No space left on device; writing a file; at byte 10")

    monkeypatch.setattr("array_record.python.array_record_module.ArrayRecordWriter", Full)
    with pytest.raises(ValueError, match="Expected to write into .*, received write.. failed: No space left on device; make room"):
        cached(opened(folder), 20, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_a_cache_sums_up_what_it_is_of(folder, tmp_path):
    (folder / "a" / "empty.jpg").touch()
    small = cached(opened(folder), 20, tmp_path / "cache")
    assert small.summary() == (
        "12 images of 160x240 to 171x240; 1 left out (a/empty.jpg: an empty file); packed with a short side of 20 pixels"
    )
    assert small.left_out == {"a/empty.jpg": "an empty file"}
    small.save_record()


def test_what_may_be_cached(folder, tmp_path):
    sample = open_source("sample", "test")
    assert cached(sample, 20, tmp_path / "sample") is sample and not (tmp_path / "sample").exists()
    subset = balanced(opened(folder), 4)
    small = cached(subset, 20, tmp_path / "subset")
    assert len(small) == 4 and (small.labels == subset.labels).all()
    with pytest.raises(ValueError, match="Expected a short side of at least 1 pixel, received short_side=0"):
        cached(subset, 0, tmp_path / "none")


def test_five_channels_and_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    (tmp_path / "images").mkdir()
    for i in range(3):
        np.save(tmp_path / "images" / f"{i}.npy", np.full((30, 40, 5), 10 * i, "uint8"))
    lines = []
    small = cached(opened(tmp_path / "images"), 15, tmp_path / "cache", report=lines.append)
    assert small.image(2).shape == (15, 20, 5) and (small.image(2) == 20).all() and lines == ["packing images: 3 of 3"]
    assert json.loads((tmp_path / "cache" / "index.json").read_text())["short_side"] == 15
