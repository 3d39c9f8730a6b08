"""Run recipes and benchmarks by their command, or in this process, where they start faster."""

import contextlib
import functools
import io
import os
import pathlib
import runpy
import subprocess
import sys
import types
from unittest import mock

import keras
from absl import flags

from keras_splitmask import encoder

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Flags of finetune.py: a classifier that trains in seconds.
FROM_SCRATCH = (
    "--size=vit_micro",
    "--patch_size=4",
    "--image_size=8",
    "--dataset=sample",
    "--labelled=20",
    "--batch_size=4",
    "--crop_ratio=0.9",
)
TINY = {"vit_micro": (16, 2, 2), "vit_tiny": (24, 2, 3)}


def script_of(name):
    """Return the path of a program below the root."""
    return next(
        f"{folder}/{name}.py" for folder in ("benchmarks", "recipes") if (ROOT / folder / f"{name}.py").exists()
    )


class End(types.SimpleNamespace):
    """How a recipe ended: its exit `status`, what it printed in `out`, and in `err` what it wrote on stderr."""


def run_by_command(name, *arguments, **environment):
    """Run `python recipes/<name>.py` with these arguments."""
    env = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, script_of(name), *map(str, arguments)]
    end = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    return End(status=end.returncode, out=end.stdout, err=end.stderr)


def run_here(name, *arguments):
    """Run a recipe in this process and on its backend. The small encoders are even smaller, and steps run uncompiled
    where possible."""
    script = str(ROOT / script_of(name))
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


KEPT = []  # absl knows a module that defines flags for others by its id, which no other module may get


def forget(recipe):
    """Remove the flags of a recipe and its modules, because the next recipe defines flags of the same names."""
    shared = [
        name
        for name, module in sys.modules.items()
        if (getattr(module, "__file__", None) or "").startswith((str(ROOT / "recipes"), str(ROOT / "benchmarks")))
    ]
    for module in (recipe, *shared):
        for flag in list(flags.FLAGS.flags_by_module_dict().get(module, ())):
            delattr(flags.FLAGS, flag.name)
    for module in shared:
        if module == "recipes.shared.common_flags":
            KEPT.append(sys.modules[module])
        del sys.modules[module]


@contextlib.contextmanager
def parsed_here(name, *arguments):
    """Yield what a recipe defines, with its `flags` parsed from these arguments, without running it."""
    script = str(ROOT / script_of(name))
    with (
        mock.patch.object(sys, "argv", [script, *map(str, arguments)]),
        mock.patch.object(sys, "path", [os.path.dirname(script), *sys.path]),
    ):
        try:
            recipe = types.SimpleNamespace(**runpy.run_path(script, run_name="recipe"))
            flags.FLAGS(sys.argv)
            if "method" in flags.FLAGS and (methods := sys.modules.get("recipes.shared.methods")):
                methods.settle_flags()
            recipe.flags = flags.FLAGS
            yield recipe
        finally:
            forget("recipe")
