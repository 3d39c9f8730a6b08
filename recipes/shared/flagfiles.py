"""Flag files: --flagfile=PATH is replaced by the lines of the file."""

import os

from absl import flags

LARGEST = 1 << 20  # bytes


def expanded(arguments, around=()):
    """Replace each --flagfile=PATH in the arguments by the flags in that file, which may name more flag files.

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


def _content(path, around):
    real = os.path.realpath(path)
    if real in around:
        raise flags.Error(f"{path} includes itself; remove the line with --flagfile={path}.")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise flags.Error(f"Flag file not found: {path}. Check the path after --flagfile.") from error
    except OSError as error:
        raise flags.Error(f"The flag file {path} cannot be read ({error.strerror}).") from error
    if len(content) > LARGEST or b"\0" in content:
        raise flags.Error(f"Expected a text file with one flag per line, received --flagfile={path}.")
    text = content.decode("utf-8-sig", "surrogateescape")  # a path may contain bytes that are not UTF-8
    lines = [line.strip() for line in text.split("\n")]
    return expanded([line for line in lines if line and not line.startswith(("#", "//"))], (*around, real))
