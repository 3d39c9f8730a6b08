"""Messages for the user of a program: those of the library name its arguments, those of absl speak of Python."""

import re

from absl import flags

FLAGS = flags.FLAGS
KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false"}


def with_flags(line):
    """Write arguments in a message as the flags of this program that have the same names: "raise max_bad_fraction" as
    "raise --max_bad_fraction".

    Only names with an underscore count, since others are ordinary words, and none inside of a path.
    """
    names = "|".join(name for name in FLAGS if "_" in name)
    return re.sub(rf"(?<![\w./\\-])({names})(?![\w/\\-]|\.\w)", r"--\1", line) if names else line


def with_kind(message):
    """Say of what kind a flag's value should be, where absl passes on what Python says of converting it."""
    match = re.fullmatch(r"flag --(\w+)=(.*?): (could not convert|invalid literal|\('Non-boolean).*", message)
    kind = match and KINDS.get(FLAGS[match[1]].flag_type())
    return f"Expected --{match[1]} to be {kind}, received {match[2]!r}." if kind else message
