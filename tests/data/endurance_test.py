"""How fast and how steady the input is. `python -m pytest -m endurance -s tests/data/endurance_test.py` prints the
figures.

Real images are taken from the folders that the environment variables PHOTOS (photographs) and SMALL_IMAGES (60,000
small files) name.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import batches, cached, crop_box, open_source
from keras_splitmask.data.arrays import ArraySource
from keras_splitmask.data.scan import scan

pytestmark = pytest.mark.endurance
SIDE = 224
ROUNDS = 9


def folder_of(variable):
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name a folder of images")
    return os.environ[variable]


def plain(paths, rng):
    """Open, convert, crop, resize, by Pillow alone."""
    for path in paths:
        image = Image.open(path).convert("RGB")
        top, left, height, width = crop_box(image.height, image.width, rng)
        np.asarray(image.crop((left, top, left + width, top + height)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def ours(source, count):
    for _ in batches(source, (SIDE, SIDE, 3), 32, "crop", steps=count // 32, workers=0):
        pass


def times_plain(ways, count):
    """name: images per second of one core as a multiple of the first way's, the median over rounds of all ways in
    turn."""
    rates = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.process_time()
            way()
            rates[name].append(count / (time.process_time() - started))
    plain = next(iter(rates.values()))
    ratios = {
        name: statistics.median(rate / other for rate, other in zip(rates[name], plain, strict=True)) for name in rates
    }
    print(
        f"\n{', '.join(f'{name} {statistics.median(rates[name]):.0f} ({ratios[name]:.2f})' for name in rates)} images/s"
        " of one core"
    )
    return ratios


def test_images_per_second_of_one_core(tmp_path):
    """Beside plain Pillow, on photographs at 224 pixels: from small files, whose decoding is most of the work, and from
    the cache."""
    folder, count = folder_of("PHOTOS"), 960
    source = open_source(f"folder:{folder}", channels=3)
    paths = [os.path.join(folder, source.paths[i]) for i in np.random.default_rng(0).permutation(len(source))[:count]]
    small = cached(source, 256, tmp_path)
    ways = {"plain Pillow": lambda: plain(paths, np.random.default_rng(0)), "files": lambda: ours(source, count)}
    ratios = times_plain({**ways, "cache": lambda: ours(small, count)}, count)
    assert ratios["files"] >= 2 and ratios["cache"] >= 2


def test_images_per_second_from_large_photographs(tmp_path):
    """Where a camera's photographs are decoded at a fraction of their resolution."""
    folder, count = folder_of("PHOTOS"), 64
    for name in sorted(os.listdir(folder))[:count]:
        image = Image.open(os.path.join(folder, name)).convert("RGB")
        image.resize((6 * image.width, 6 * image.height)).save(tmp_path / name, quality=90)
    source = open_source(f"folder:{tmp_path}")
    paths = [os.path.join(tmp_path, path) for path in source.paths]
    ratios = times_plain(
        {"plain Pillow": lambda: plain(paths, np.random.default_rng(0)), "files": lambda: ours(source, count)}, count
    )
    assert ratios["files"] >= 2


def test_photographs_are_the_same_for_any_number_of_workers():
    source = open_source(f"folder:{folder_of('PHOTOS')}", channels=3)
    once = list(batches(source, (SIDE, SIDE, 3), 64, steps=10, workers=0))
    for workers in (1, 2):
        again = batches(source, (SIDE, SIDE, 3), 64, steps=10, workers=workers)
        assert all((a == b).all() for a, b in zip(once, again, strict=True))


def resident():
    """Bytes of memory of this process."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_stays_flat_over_ten_thousand_batches(tmp_path, workers):
    rng = np.random.default_rng(0)
    for i in range(64):
        content = Image.fromarray(rng.integers(256, size=(48, 64, 3), dtype="uint8"))
        content.save(tmp_path / f"{i}.jpg" if i % 2 else tmp_path / f"{i}.png")
    source = open_source(f"folder:{tmp_path}")
    memory = []
    for step, _ in enumerate(batches(source, (32, 32, 3), 8, steps=10_000, workers=workers)):
        if step % 1000 == 999:
            memory.append(resident() / 1e6)
    print(f"\n{workers} workers, MB after every 1,000 batches: {' '.join(f'{m:.1f}' for m in memory)}")
    assert memory[-1] - memory[1] < 10


def test_a_far_step_costs_nothing():
    source = ArraySource(np.zeros((60_000, 8, 8, 3), "uint8"))
    started = time.perf_counter()
    next(iter(batches(source, (8, 8, 3), 256, start=10**9)))
    assert time.perf_counter() - started < 1


@pytest.fixture
def small_images():
    folder = folder_of("SMALL_IMAGES")
    count = sum(len(names) for _, _, names in os.walk(folder))
    if count < 60_000:
        pytest.skip(f"{folder} has {count} files, not 60,000")
    return folder, count


def test_scanning_sixty_thousand_files(small_images, tmp_path):
    """Under 60 s the first time, 2 s from the cache, the latter in a process of its own."""
    folder, count = small_images
    started = time.perf_counter()
    found = scan(folder, tmp_path / "data.json")
    first = time.perf_counter() - started
    code = (
        "import sys, time; from keras_splitmask.data.scan import scan; started = time.perf_counter(); "
        "found = scan(*sys.argv[1:]); print(time.perf_counter() - started, len(found.images))"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, folder, str(tmp_path / "data.json")], capture_output=True, text=True, check=True
    )
    second, images = again.stdout.split()
    print(
        f"\n{count} files: {first:.1f} s, again {float(second):.2f} s, data.json"
        f" {os.path.getsize(tmp_path / 'data.json') / 1e6:.1f} MB"
    )
    assert len(found.images) == int(images) == count and first < 60 and float(second) < 2
    assert json.loads((tmp_path / "data.json").read_text())["left_out"] == {}
