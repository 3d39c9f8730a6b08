"""Read JSON of unknown origin: strictly, and with ValueError for every failure."""

import json

LIMIT = 2**20  # bytes of a file


def read(path):
    """Read a JSON file of at most `LIMIT` bytes; errors are those of `parse`.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ValueError(f"more than {LIMIT} bytes")
    return parse(content)


def parse(text):
    """Parse a JSON text.

    Raises:
        ValueError: in one line, if the text is no JSON, is nested too deeply, has a name twice in one object, a number
            of thousands of digits, NaN or Infinity, also as the value of a number such as 1e999.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_without_repetition)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def _refuse(text):
    raise ValueError(f"{text[:40]} is no finite number")


def _finite(text):
    number = float(text)
    return number if abs(number) != float("inf") else _refuse(text)


def _without_repetition(pairs):
    # Python keeps the last of two equal names; another program may keep the first, and check that.
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in found if names.count(name) > 1)[:40]!r} is there twice")
    return found
