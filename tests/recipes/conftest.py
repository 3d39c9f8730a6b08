"""Fixtures of the recipes' tests: one pre-training run that others start from, and a way to stop a run."""

import json
import pathlib
import signal

import numpy as np
import pytest

import keras_splitmask as ks
from tests import running


def read_lines(path):
    """Parse the lines of a metrics.jsonl; NaN and Infinity are not JSON, and fail."""
    return [json.loads(line, parse_constant=pytest.fail) for line in pathlib.Path(path).read_text().splitlines()]


@pytest.fixture
def lines():
    return read_lines


@pytest.fixture
def stop_at_step(monkeypatch):
    """Send SIGTERM in the middle of a step; `monkeypatch.undo()` ends it."""

    def stop_at(step, patch=monkeypatch):
        begin = ks.training.RunLog.on_train_batch_begin

        def stop(self, batch, logs=None):
            if self.step == step - 1:
                signal.raise_signal(signal.SIGTERM)
            return begin(self, batch, logs)

        patch.setattr(ks.training.RunLog, "on_train_batch_begin", stop)

    return stop_at


@pytest.fixture(scope="session")
def arrays(tmp_path_factory):
    """A labelled npz file of 24 + 24 images of 48x80x5: in class 1 the last channel is bright."""
    rng = np.random.default_rng(0)
    content = {}
    for split in ("train", "test"):
        labels = np.arange(24) % 2
        images = rng.integers(0, 128, (24, 48, 80, 5), "uint8")
        images[..., 4] += (127 * labels[:, None, None]).astype("uint8")
        content.update({f"{split}_images": images, f"{split}_labels": labels})
    path = tmp_path_factory.mktemp("arrays") / "five.npz"
    np.savez(path, **content)
    return path


@pytest.fixture(scope="session")
def pretrained(arrays, tmp_path_factory):
    """The folder of a pre-training run on the arrays, with every file that a run can write."""
    workdir = tmp_path_factory.mktemp("runs") / "pretrained"
    given = (
        f"--dataset=npz:{arrays}",
        f"--probe=npz:{arrays}",
        f"--workdir={workdir}",
        "--size=vit_micro",
        "--patch_size=16",
        "--vocabulary=8",
    )
    end = running.run_here("pretrain", *given, "--batch_size=4", "--steps=5", "--log_every=2")
    assert end.status == 0, end.err
    return workdir
