"""The flags of a run as run.flags lists them, and which of them differ from those of an earlier run."""

import os
import re
import sys

from absl import flags

from recipes.shared import commandline, paths
from recipes.shared.flagfiles import FIRST_LINE

FLAGS = flags.FLAGS
# They say where and for how long a run computes, not what.
UNRECORDED = {"overwrite", "strategy", "devices", "model_devices", "time", "dry_run"}  # flags that run.flags lacks


def text(module):
    """Write the content of run.flags: the flags of this program, of the command line and of `module`."""
    return f"{FIRST_LINE}{os.getcwd()}\n{_resolved(module)}"


def differences(file, home, module, free):
    """List the flags whose values differ from those in a run.flags, as `--name`.

    Args:
        file: path of the run.flags.
        home: path of its folder now, which may have been moved.
        module: see `text`.
        free: names of flags that may differ.
    """
    before = file.read_text(encoding="utf-8", errors="surrogateescape")
    first = before.split("\n", 1)[0]
    before, now = _by_name(before), _by_name(_resolved(module))
    folder = first.removeprefix(FIRST_LINE) if first.startswith(FIRST_LINE) else os.curdir
    moved = os.path.join(folder, before.get("workdir", os.curdir)), home
    names = sorted({*before, *now} - free)
    return [f"--{name}" for name in names if not paths.same(name, before.get(name), now.get(name), folder, moved)]


def take(file, names):
    """Give flags that are None the values in a run.flags, and return their names."""
    values = _by_name(file.read_text(encoding="utf-8", errors="surrogateescape")) if file.is_file() else {}
    taken = [name for name in names if name in values and FLAGS[name].value is None]
    for name in taken:
        FLAGS[name].value = FLAGS[name].parser.parse(values[name])
    return taken


def _by_name(content):
    """Parse a run.flags to {flag: value}. The value of a boolean flag is its whole line."""
    lines = re.findall(r"^--(\w+)(?:=(.*))?$", content, re.MULTILINE)
    return {name if value else name.removeprefix("no"): value or name for name, value in lines}


def _resolved(module):
    """List the flags of this recipe and their values, one per line, as --flagfile reads them."""
    own = {
        flag.name: flag
        for name in (sys.argv[0], commandline.__name__, module)
        for flag in FLAGS.get_key_flags_for_module(name)
    }
    lines = [
        flag.serialize() for name, flag in sorted(own.items()) if flag.value is not None and name not in UNRECORDED
    ]
    return "\n".join(lines) + "\n"
