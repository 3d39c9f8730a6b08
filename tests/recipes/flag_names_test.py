"""Arguments of the library in messages are shown as the flags of the program."""

import pytest
from absl import flags

from recipes.shared import flag_names


@pytest.fixture(autouse=True)
def own_flags(monkeypatch):
    values = flags.FlagValues()
    for name in ("value_range", "max_bad_fraction", "size"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    monkeypatch.setattr(flag_names, "FLAGS", values)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("remove them, or raise max_bad_fraction.", "remove them, or raise --max_bad_fraction."),
        ("such as value_range=0,4095, to use all.", "such as --value_range=0,4095, to use all."),
        ("lies in (value_range); --value_range=0,1", "lies in (--value_range); --value_range=0,1"),
        ("a of size 3, batch_size=4", "a of size 3, batch_size=4"),  # no name with an underscore, no flag
        ("received data/value_range/1.png, value_range.png", "received data/value_range/1.png, value_range.png"),
        ("received my-value_range, value_ranges", "received my-value_range, value_ranges"),
    ],
)
def test_arguments_become_flags(line, expected):
    assert flag_names.with_flags(line) == expected
