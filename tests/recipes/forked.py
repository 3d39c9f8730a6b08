"""Runs a recipe again and again, each time in a process of its own that need not import Keras again.

Reads a line of JSON a run: the recipe's name, its arguments, and the file for what it prints. Writes the process' id,
and when it has ended, its exit status. The recipe is the whole recipe, with its flags and its handling of signals; only
its small sizes are smaller still, and TensorFlow steps eagerly, as in the other tests.
"""

import functools
import importlib
import json
import os
import pathlib
import runpy
import sys
import traceback

import keras

from keras_splitmask import data, encoder, evaluation, training  # noqa: F401, so that the children have them

RECIPES = pathlib.Path(__file__).resolve().parents[2] / "recipes"
encoder.SIZES["vit_micro"] = (16, 2, 2)


def run(name, arguments, log):
    """The recipe, as `python recipes/<name>.py` would run it; does not return."""
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [str(RECIPES / f"{name}.py"), *arguments]
    sys.path.insert(0, str(RECIPES.parent))
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


def main():
    importlib.import_module(keras.backend.backend())
    if keras.backend.backend() != "jax":
        keras.Model.compile = functools.partialmethod(keras.Model.compile, run_eagerly=True)
    for line in sys.stdin:
        child = (
            os.fork()
        )  # no backend has computed anything yet, so none has threads that would be missing in the child
        if not child:
            run(*json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
