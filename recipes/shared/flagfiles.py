"""Flag files: their lines stand where --flagfile=PATH stood."""

import os

from absl import flags

LARGEST = 1 << 20  # bytes


def expanded(arguments, around=()):
    """The arguments, with the lines of each flag file, and of those that it names, in its place. `around`: real paths
    of the files that they are from.

    Raises:
        flags.Error: if a file cannot be read, is no text, or includes itself.
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
    place = os.path.realpath(path)
    if place in around:
        raise flags.Error(
            f"Expected flag files that do not include themselves, received {path} within itself; remove that line."
        )
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise flags.Error(f"Expected a flag file, received --flagfile={path} ({error.strerror}).") from error
    if len(content) > LARGEST or b"\0" in content:
        raise flags.Error(f"Expected a text file with a flag in each line, received --flagfile={path}, which is none.")
    lines = [
        line.strip() for line in content.decode("utf-8-sig", "surrogateescape").split("\n")
    ]  # paths may be of other bytes
    return expanded([line for line in lines if line and not line.startswith(("#", "//"))], (*around, place))
