"""Recipes run by their command, or in this process where they start at once; and one pre-training run for what comes after it."""

import contextlib
import functools
import io
import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import types
from unittest import mock

import keras
import numpy as np
import pytest
from absl import flags

import keras_splitmask as ks
from keras_splitmask import encoder

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = {"vit_micro": (16, 2, 2), "vit_tiny": (24, 2, 3)}
# What TensorFlow's C++ writes on stderr as it is imported, before its level of logging is known.
NOISE = re.compile(r"(WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} \d\d:\d\d:).*\n")


class End(types.SimpleNamespace):
    """How a recipe ended: its exit `status`, what it printed in `out`, and in `err` what it wrote on stderr."""


def run_by_command(name, *arguments, **environment):
    """`python recipes/<name>.py` with these arguments."""
    env = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, f"recipes/{name}.py", *map(str, arguments)]
    end = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    return End(status=end.returncode, out=end.stdout, err=NOISE.sub("", end.stderr))


def run_here(name, *arguments):
    """The same in this process and on its backend: small sizes are smaller still, and nothing is compiled that need not be."""
    script = str(ROOT / "recipes" / f"{name}.py")
    out, err, status = io.StringIO(), io.StringIO(), 0
    compile_model = functools.partialmethod(keras.Model.compile, run_eagerly=keras.backend.backend() != "jax")
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(encoder.SIZES, TINY))
        stack.enter_context(mock.patch.object(keras.Model, "compile", compile_model))
        stack.enter_context(mock.patch.dict(os.environ, {"KERAS_BACKEND": keras.backend.backend()}))
        stack.enter_context(mock.patch.object(sys, "argv", [script, *map(str, arguments)]))
        stack.enter_context(mock.patch.object(sys, "path", [os.path.dirname(script), *sys.path]))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = end.code
        finally:
            keras.config.set_dtype_policy("float32")
            forget(script)
    return End(status=status, out=out.getvalue(), err=err.getvalue())


def forget(recipe):
    """The flags of a recipe and its modules, since the next one defines flags of the same names."""
    shared = [name for name, module in sys.modules.items() if (getattr(module, "__file__", None) or "").startswith(str(ROOT / "recipes"))]
    for module in (recipe, *shared):
        for flag in list(flags.FLAGS.flags_by_module_dict().get(module, ())):
            delattr(flags.FLAGS, flag.name)
    for module in shared:
        del sys.modules[module]


@contextlib.contextmanager
def parsed_here(name, *arguments):
    """What a recipe defines, with these arguments read as its `flags`, but not run."""
    script = str(ROOT / "recipes" / f"{name}.py")
    with mock.patch.object(sys, "argv", [script, *map(str, arguments)]), mock.patch.object(sys, "path", [os.path.dirname(script), *sys.path]):
        try:
            recipe = types.SimpleNamespace(**runpy.run_path(script, run_name="recipe"))
            flags.FLAGS(sys.argv)
            if "methods" in sys.modules:
                sys.modules["methods"].settle_flags()
            recipe.flags = flags.FLAGS
            yield recipe
        finally:
            forget("recipe")


def read_lines(path):
    """The lines of a metrics.jsonl; NaN and Infinity are no JSON."""
    return [json.loads(line, parse_constant=pytest.fail) for line in pathlib.Path(path).read_text().splitlines()]


@pytest.fixture
def command():
    return run_by_command


@pytest.fixture
def recipe_module(monkeypatch):
    """Imports a module of recipes/ that defines no flags."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    yield __import__
    for name in ("flagfiles", "places", "record", "screen"):
        sys.modules.pop(name, None)


@pytest.fixture
def here():
    return run_here


@pytest.fixture
def parsed():
    return parsed_here


@pytest.fixture
def lines():
    return read_lines


@pytest.fixture
def stop_at_step(monkeypatch):
    """Makes SIGTERM come in the middle of that step; `monkeypatch.undo()` ends it."""

    def stop_at(step, patch=monkeypatch):
        begin = ks.training.RunLog.on_train_batch_begin

        def stop(self, batch, logs=None):
            if self.step == step - 1:
                signal.raise_signal(signal.SIGTERM)
            return begin(self, batch, logs)

        patch.setattr(ks.training.RunLog, "on_train_batch_begin", stop)

    return stop_at


@pytest.fixture
def refused(here, tmp_path):
    """Runs a recipe that must end in one line of stderr and exit status 2, with nothing written; returns that line."""

    def run(name, *arguments, runner=here):
        before = sorted(tmp_path.rglob("*"))
        end = runner(name, *arguments)
        assert end.status == 2, (end.status, end.err)
        assert end.err.startswith(f"{name}.py: ") and end.err.count("\n") == 1 and end.err.endswith("\n"), end.err
        assert sorted(tmp_path.rglob("*")) == before
        return end.err

    return run


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
    """The folder of a run on the arrays, with everything that a run can leave."""
    workdir = tmp_path_factory.mktemp("runs") / "pretrained"
    given = (f"--dataset=npz:{arrays}", f"--probe=npz:{arrays}", f"--workdir={workdir}", "--size=vit_micro", "--vocabulary=8")
    end = run_here("pretrain", *given, "--batch_size=4", "--steps=5", "--log_every=2")
    assert end.status == 0, end.err
    return workdir
