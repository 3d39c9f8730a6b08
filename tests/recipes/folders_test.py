"""The plain command of pre-training on folders of many sizes: within 8 GB, with a line of progress within a minute of
the first step."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
from PIL import Image

from tests.running import ROOT

pytestmark = [pytest.mark.backend, pytest.mark.endurance]
MEMORY = 8e9  # bytes, of the program and the processes that it starts
DIFFERENT = 24  # images of a folder that are not links to others, since thousands of 3,000 pixels would take hours


def make_folder(folder, count, side, grey):
    """Write JPEG images with some structure, most of them as links to the first ones."""
    random = np.random.default_rng(side)
    for i in range(count):
        path = folder / f"{i:05d}.jpg"
        if i >= DIFFERENT:
            os.link(folder / f"{i % DIFFERENT:05d}.jpg", path)
            continue
        coarse = random.integers(0, 256, (8, 8) if grey else (8, 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(image, "int16") + random.integers(-9, 10, (side, side) + coarse.shape[2:]), 0, 255)
        Image.fromarray(noisy.astype("uint8")).save(path, quality=90)


def peak_memory(pid):
    """The largest memory, in bytes, that a process and those that it started have each had so far, summed."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    return sum(own) + sum(peak_memory(int(child)) for child in children)


@pytest.mark.parametrize("grey", [True, False], ids=["grey", "colour"])
@pytest.mark.parametrize("side", [28, 100, 3000])
@pytest.mark.parametrize("count", [50, 1500, 20000])
def test_the_plain_command(tmp_path, record_property, count, side, grey):
    images = tmp_path / "images"
    images.mkdir()
    make_folder(images, count, side, grey)
    command = [
        sys.executable,
        "-u",
        "recipes/pretrain.py",
        f"--dataset=folder:{images}",
        f"--workdir={tmp_path / 'run'}",
    ]
    env = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": str(ROOT)}
    began, lines, peaks = time.monotonic(), [], [0]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as program:

        def watch():
            while program.poll() is None:
                peaks.append(peak_memory(program.pid))
                time.sleep(0.2)

        watching = threading.Thread(target=watch)
        watching.start()
        for line in program.stdout:
            lines.append((time.monotonic() - began, line.rstrip()))
            if line.startswith("time "):
                program.send_signal(signal.SIGTERM)
        watching.join()
    printed = "\n".join(f"{seconds:6.1f} s  {line}" for seconds, line in lines)
    print(f"{keras.backend.backend()} {count} x {side} px, peak {max(peaks) / 1e9:.2f} GB\n{printed}")
    # 75: it was asked to stop, saved, and goes on by the same command.
    assert program.returncode == 75, printed
    assert list((tmp_path / "run" / "checkpoints").iterdir()), printed
    assert max(peaks) < MEMORY, printed
    times = {kind: next(seconds for seconds, line in lines if line.startswith(kind)) for kind in ("step 0/", "time ")}
    # The line before the first step, and the line after three steps.
    assert times["time "] - times["step 0/"] < 60, printed
