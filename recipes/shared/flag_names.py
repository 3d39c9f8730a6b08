"""Messages of the library name its arguments; a program shows those that are flags of it as flags."""

import re

from absl import flags

FLAGS = flags.FLAGS


def with_flags(line):
    """Write arguments in a message as the flags of this program that have the same names: "raise max_bad_fraction" as
    "raise --max_bad_fraction".

    Only names with an underscore count, since others are ordinary words, and none inside of a path.
    """
    names = "|".join(name for name in FLAGS if "_" in name)
    return re.sub(rf"(?<![\w./\\-])({names})(?![\w/\\-]|\.\w)", r"--\1", line) if names else line
