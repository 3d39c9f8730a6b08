"""Flag files: --flagfile=PATH is replaced by the lines of the file. Those of the project are found everywhere."""

import difflib
import os
import pathlib

from absl import flags

LARGEST = 1 << 20  # bytes
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "flags"


def expanded(arguments, around=()):
    """Replace each --flagfile=PATH in the arguments by the flags in that file, which may name more flag files.

    If there is no such file, PATH may be the name of one that comes with the project: "paper/mae", "paper/mae.flags" or
    "recipes/flags/paper/mae.flags".

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
    return expanded([line for line in lines if line and not line.startswith(("#", "//"))], (*around, real))
