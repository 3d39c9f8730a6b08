import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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
        image = Image.fromarray(rng.integers(256, size=(5, 6, 3), dtype="uint8")).resize(
            (240, 160 + i), Image.Resampling.BICUBIC
        )
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
    monkeypatch.setattr(
        module, "_small", lambda source, i, side: names.append(source.name(i)) or small(source, i, side)
    )
    return names


def contents(folder):
    """The bytes of all files in a folder, by their paths."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_cached_images_are_the_images_made_smaller(folder, tmp_path):
    source = opened(folder)
    small = cached(source, 80, tmp_path / "cache")
    assert len(small) == 12 and small.channels == 3 and small.classes == ["a", "b"]
    assert (small.labels == source.labels).all() and [small.name(i) for i in range(12)] == source.paths
    for i in range(12):
        image = small.image(i)
        assert image.dtype == np.uint8 and image.shape == (80, round(240 * 80 / source.image(i).shape[0]), 3)
        exact = np.asarray(
            Image.fromarray(source.image(i)).resize(image.shape[1::-1], Image.Resampling.BICUBIC)
        ).astype(int)
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


def test_it_is_packed_once_and_again_when_the_images_change(folder, tmp_path, monkeypatch):
    names, cache, said = packed(monkeypatch), tmp_path / "cache", []
    first = cached(opened(folder), 20, cache)
    assert len(names) == 12
    before, pixels = contents(cache), [first.image(i) for i in range(12)]
    cached(opened(folder), 20, cache)
    assert len(names) == 12
    Image.new("RGB", (60, 40)).save(folder / "a" / "00.jpg")
    for _ in range(2):  # at first packed, then found
        assert cached(opened(folder), 20, cache, said.append).image(0).max() == 0
        assert cached(opened(folder), 24, cache, said.append).image(0).shape[0] == 24
        assert cached(open_source(f"folder:{folder}", channels=1), 24, cache, said.append).image(1).shape[2] == 1
        monkeypatch.setattr(module, "_small", lambda *_: pytest.fail("It is packed already."))
    assert (
        len(names) == 48
        and len([line for line in said if line.startswith(f"{cache} holds other files, or a cache of other images")])
        == 3
    )
    # Another run may be reading the first one, so it is still there.
    assert before.items() <= contents(cache).items() and all((first.image(i) == pixels[i]).all() for i in range(12))


def test_an_interrupted_packing_keeps_the_old_pack(folder, tmp_path, monkeypatch):
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


def test_files_of_a_killed_packing_are_removed_by_the_next(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in (
        "images-0123456789ab-1.array_record",
        "images-0123456789ab-2.array_record.part",
        "images-0123456789ab-2.json.part",
        module.packs.LOCK,
    ):
        (cache / name).write_bytes(b"half a file")
    names = packed(monkeypatch)
    assert cached(opened(folder), 20, cache).image(11).shape[0] == 20
    assert len(names) == 12 and len(os.listdir(cache)) == 2 and len(list(cache.glob("images-*.array_record"))) == 1


@pytest.mark.parametrize(
    "own",
    [
        {"index.json": b'{"mine": 1}'},
        {"index.json": b"[1]", "images-holiday.array_record": b"mine"},
        {"index.json": None},
        {"a.png": b"mine"},
    ],
)
def test_other_files_in_the_folder_are_never_touched(folder, tmp_path, monkeypatch, own):
    cache = tmp_path / "cache"
    own = {**own, "images-1.json.part": b"mine", "notes/index.json": b"mine", ".hidden": b"mine"}
    for name, content in own.items():
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).mkdir() if content is None else (cache / name).write_bytes(content)
    before, names = contents(cache), packed(monkeypatch)
    for _ in range(2):
        assert cached(opened(folder), 20, cache).image(3).shape[0] == 20
    Image.new("RGB", (60, 40)).save(folder / "a" / "00.jpg")
    cached(opened(folder), 20, cache)
    assert (
        len(names) == 24
        and before.items() <= contents(cache).items()
        and (own.get("index.json", b"") is not None or (cache / "index.json").is_dir())
    )


def test_of_two_runs_in_one_folder_one_packs_and_the_other_waits(folder, tmp_path, monkeypatch):
    names, said, go_on, cache = packed(monkeypatch), [], threading.Event(), tmp_path / "cache"
    small = module._small
    monkeypatch.setattr(module, "_small", lambda *given: go_on.wait() and small(*given))

    def report(line):
        said.append(line)
        if len(said) == 2:
            go_on.set()

    with ThreadPoolExecutor(3) as pool:  # each opens the lock for itself, as another process does
        found = [pool.submit(cached, opened(folder), side, cache, report) for side in (20, 20, 24)]
        a, b, c = [task.result() for task in found]
    assert said[:2] == [f"waiting for another run, which packs images into {cache}"] * 2 and "waiting" not in " ".join(
        said[2:]
    )
    assert len(names) == 24 and all((a.image(i) == b.image(i)).all() for i in range(12)) and c.image(0).shape[0] == 24
    assert module.packs.LOCK not in os.listdir(cache)


def test_the_lock_of_a_killed_process_does_not_count(folder, tmp_path):
    hold = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True);"
        " time.sleep(600)"
    )
    (tmp_path / "cache").mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "cache" / module.packs.LOCK)], stdout=subprocess.PIPE
    )
    assert run.stdout.readline() == b"held\n"
    said = []

    def report(line):
        said.append(line)
        run.kill()

    cached(opened(folder), 20, tmp_path / "cache", report)
    assert said == [f"waiting for another run, which packs images into {tmp_path / 'cache'}"] and run.wait() == -9
    assert len(os.listdir(tmp_path / "cache")) == 2


def damage_index(cache, index, how):
    """Changes an index.json as its name says."""
    (cache.parent / "outside").mkdir()
    outside = cache.parent / "outside" / index["file"]
    outside.write_bytes((cache / index["file"]).read_bytes())
    last, link = index["shapes"][-1], index["file"].replace("images-", "images-0")[:-15][:19] + "9.array_record"
    changes = {
        "file number": {"file": 5},
        "file list": {"file": [index["file"]]},
        "above": {"file": f"../outside/{index['file']}"},
        "absolute": {"file": str(outside)},
        "link": {"file": link},
        "bytes": {"bytes": "many"},
        "absurd shapes": {"shapes": [[10**6, 10**6, 3]] * 12},
        "huge shapes": {"shapes": [[10**30, 1, 3]] * 12},
        "turned shape": {"shapes": [*index["shapes"][:-1], [last[1], last[0], 3]]},
        "text shapes": {"shapes": "none"},
        "uneven shapes": {"shapes": [[20], *index["shapes"][1:]]},
        "fewer": {"shapes": index["shapes"][1:], "indices": index["indices"][1:]},
        "none": {"shapes": [], "indices": []},
        "out of range": {"indices": [*range(11), 99]},
        "negative": {"indices": [-1, *range(1, 12)]},
        "exchanged": {"indices": [1, 0, *range(2, 12)]},
        "text indices": {"indices": [str(i) for i in range(12)]},
        "key": {"short_side": None},
    }[how]
    (cache / link).symlink_to(outside)
    changed = {**index, **changes}
    return json.dumps({**changed, "sha256": module.packs._digest(changed)} if how != "turned shape" else changed)


SMALL = module._small
TEXTS = {
    "list": "[]",
    "null": "null",
    "deep": "[" * 100_000,
    "number": "9" * 5000,
    "not ascii": "\u00e9",
    "empty": "",
    "half": None,
}
CHANGES = [
    "file number",
    "file list",
    "above",
    "absolute",
    "link",
    "bytes",
    "absurd shapes",
    "huge shapes",
    "turned shape",
    "text shapes",
]
CHANGES += ["uneven shapes", "fewer", "none", "out of range", "negative", "exchanged", "text indices", "key"]


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory):
    """Six small photographs, and a cache of them."""
    place = tmp_path_factory.mktemp("packed")
    (place / "images").mkdir()
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(256, size=(24, 30, 3), dtype="uint8")).save(
            place / "images" / f"{i:02}.png"
        )
    cached(opened(place / "images"), 20, place / "cache")
    return place


@pytest.mark.parametrize(
    "damage", ["records cut", "records gone", "records' head", "index gone", "index a pipe", *TEXTS, *CHANGES]
)
def test_a_damaged_cache_is_packed_again(packed_once, tmp_path, monkeypatch, damage):
    cache, source = tmp_path / "cache", opened(packed_once / "images")
    shutil.copytree(packed_once / "cache", cache)
    (records,), index = cache.glob("*.array_record"), json.loads((cache / "index.json").read_text())
    content = records.read_bytes()
    if damage.startswith("records"):
        changed = {"cut": content[:-100], "gone": None, "head": b"".join((content[:65542], b"?", content[65543:]))}[
            damage.split()[1]
        ]
        records.write_bytes(changed) if changed else records.unlink()
    elif damage.startswith("index"):
        (cache / "index.json").unlink()
        if damage == "index a pipe":
            os.mkfifo(cache / "index.json")
    else:
        text = TEXTS[damage] if damage in TEXTS else damage_index(cache, index, damage)
        (cache / "index.json").write_text(json.dumps(index)[:-20] if text is None else text)
    names = packed(monkeypatch)
    for _ in range(2):
        again = cached(source, 20, cache)
        assert len(names) == 12 and again.indices.tolist() == list(range(12))
        assert all((again.image(i) == SMALL(source, i, 20)).all() for i in range(12)) and not again.broken


def test_flipped_bits_are_noticed_and_read_from_the_image_itself(folder, tmp_path):
    cache = tmp_path / "cache"
    first = cached(opened(folder), 20, cache)
    intact = [first.image(i) for i in range(12)]
    (records,) = cache.glob("*.array_record")
    content = bytearray(records.read_bytes())
    for place in (
        np.random.default_rng(0).integers(70000, len(content) - 70000, size=6)
        if len(content) > 200000
        else (5000, 12000)
    ):
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
    assert (
        len(small) == 11
        and "b/03.jpg" not in [small.name(i) for i in range(11)]
        and small.labels.tolist().count(1) == 5
    )
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
    with pytest.raises(
        ValueError, match="Expected to write into .*, received write.. failed: No space left on device; make room"
    ):
        cached(opened(folder), 20, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize("room", [0, 1000, 100_000, 250_000])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_full_disk_at_any_point_keeps_the_old_pack(folder, tmp_path, room, earlier):
    """The kernel refuses to write (EFBIG: no file may be larger), as it does where the disk is full."""
    cache, source = tmp_path / "cache", opened(folder)
    before = contents(cache) if earlier and cached(source, 20, cache) else {}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(ValueError, match="Expected to write into .*File too large.*; make room") as error:
            cached(source, 160, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value) and contents(cache) == before and len(os.listdir(cache)) == len(before)


def test_an_index_that_cannot_be_written_leaves_nothing(folder, tmp_path, monkeypatch):
    def full(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".json.part"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ValueError,
        match="Expected to write into .*, received No space left on device; make room, or choose another folder",
    ):
        cached(opened(folder), 20, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_made_is_refused(folder, tmp_path):
    (tmp_path / "cache").write_bytes(b"mine")
    with pytest.raises(
        ValueError, match="Expected a folder for the cache, received .*/cache, which is a file; choose another path"
    ):
        cached(opened(folder), 20, tmp_path / "cache")
    with pytest.raises(ValueError, match="into .*/cache/within, received Not a directory; choose another folder.$"):
        cached(opened(folder), 20, tmp_path / "cache" / "within")
    assert (tmp_path / "cache").read_bytes() == b"mine"


def test_a_cache_sums_up_what_it_is_of(folder, tmp_path):
    (folder / "a" / "empty.jpg").touch()
    small = cached(opened(folder), 20, tmp_path / "cache")
    assert (
        small.summary()
        == "12 images of 160x240 to 171x240; 1 left out (a/empty.jpg: an empty file); packed with a short side of 20"
        " pixels"
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
