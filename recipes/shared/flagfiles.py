"""Flag files: --flagfile=PATH is replaced by the lines of the file. Those of the project are found everywhere."""

import difflib
import os
import pathlib
import re

from absl import flags

from recipes.shared import paths

LARGEST = 1 << 20  # bytes
FIRST_LINE = "# Relative paths begin in "  # of a run.flags, followed by a folder
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "flags"


def expanded(arguments, around=()):
    """Replace each --flagfile=PATH in the arguments by the flags in that file, which may name more flag files.

    If there is no such file, PATH may be the name of one that comes with the project: "paper/mae", "paper/mae.flags" or
    "recipes/flags/paper/mae.flags".

    Relative paths in the run.flags of a run begin in the folder that its first line names, if that still exists.

    `around` holds the real paths of the files that the arguments come from.

    Raises:
        flags.Error: if a file cannot be read, is not text, or includes itself.
    """
    result, rest = [], iter(arguments)
    for argument in rest:
        name, equals, path = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            result.append(argument)
        elif path := os.path.expanduser(path if equals else next(rest, "")):
            result += _content(path, around)
        else:
            raise flags.Error("Expected --flagfile=PATH, received no path.")
    return result


def names():
    """List the names of the flag files that come with the project, such as "quickstart" and "paper/mae"."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.flags"))


def _found(path):
    """Return the path of a file: that of the user's, or else that of the project's file of this name."""
    name = _name(path)
    return path if os.path.lexists(path) or name not in names() else str(FOLDER / f"{name}.flags")


def _name(path):
    return os.path.normpath(path).removeprefix("recipes/flags/").removesuffix(".flags")


def _content(path, around):
    path = _found(path)
    real = os.path.realpath(path)
    if real in around:
        raise flags.Error(f"{path} includes itself; remove the line with --flagfile={path}.")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        near = difflib.get_close_matches(_name(path), names(), 1)
        advice = f"Did you mean --flagfile={near[0]}?" if near else "Check the path after --flagfile."
        raise flags.Error(f"Flag file not found: {path}. {advice}") from error
    except OSError as error:
        raise flags.Error(f"The flag file {path} cannot be read ({error.strerror}).") from error
    if len(content) > LARGEST or b"\0" in content:
        raise flags.Error(f"Expected a text file with one flag per line, received --flagfile={path}.")
    text = content.decode("utf-8-sig", "surrogateescape")  # a path may contain bytes that are not UTF-8
    lines = [line.strip() for line in text.split("\n")]
    lines = _begun_in(text.split("\n", 1)[0], [line for line in lines if line and not line.startswith(("#", "//"))])
    return expanded(lines, (*around, real))


def _begun_in(first, lines):
    """Let the relative paths in lines of flags begin in the folder that the first line of their file names, if it names
    another than the current one."""
    folder = first.removeprefix(FIRST_LINE)
    if folder == first or not os.path.isdir(folder) or os.path.samefile(folder, os.curdir):
        return lines
    matches = [(line, re.fullmatch(r"--(\w+)=(.*)", line)) for line in lines]
    return [f"--{found[1]}={paths.begun_in(folder, found[1], found[2])}" if found else line for line, found in matches]
