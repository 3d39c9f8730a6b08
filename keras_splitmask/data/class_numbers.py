"""Find the class of each number in a label map, from classes.json or the label maps of the train split."""

import dataclasses
import itertools
import json
import pathlib

import numpy as np

from keras_splitmask.data.counting import counted
from keras_splitmask.data.stored_numbers import LARGEST

IGNORE = 255
BINARY = {0, IGNORE}
COUNTED = 64  # most classes to assume without classes.json if 255 occurs too
NUMBERED = '{"0": "background", "255": "cell"}'
FORMS = '{"classes": ["sky", "road"], "void": 255} or {"0": "sky", "7": "road"}'


@dataclasses.dataclass(frozen=True)
class Numbering:
    """The meaning of the numbers that label maps store.

    Attributes:
        classes: names of the classes.
        meaning: (65536,) int16: the class of each number, 255 to ignore it, -1 if it has no meaning.
        note: a line for the user about unusual numbers, or empty.
        assumed: whether 255 is ignored because nothing says what it is.
        path: path of classes.json, which may be missing.
        colours: the `colours.Colours` whose rows are the numbers, or None.
    """

    classes: list
    meaning: np.ndarray
    note: str = ""
    assumed: bool = False
    path: pathlib.Path | None = None
    colours: object = None

    def check_ignored(self, numbers, place):
        """Raise ValueError if 255 is ignored by default, but half of the label maps or more look like binary masks.

        Binary masks hold 0 and 255 only.

        Args:
            numbers: the numbers in each label map, a list of lists.
            place: path of the label maps.
        """
        masks = sum(set(of_map) == BINARY for of_map in numbers)
        if self.assumed and masks and 2 * masks >= len(numbers):
            others = sorted(set().union(*numbers) - BINARY)
            raise ValueError(
                f"Expected label maps in which 255 is to be ignored, received 0 and 255 only in {masks} of"
                f" {len(numbers)} in {place}{', and ' + _joined(others) + ' in others' if others else ''};"
                f" correct those, or write {self.path} as {FORMS}."
            )

    def note_ignored(self, count):
        """Write the note for the user if 255 occurs in `count` label maps and is ignored by default, or empty."""
        if not (self.assumed and count):
            return ""
        return (
            f"255 occurs in {counted(count, 'label map')} and is ignored by default; if it is a class, give the number"
            f' of each class in {self.path}, as in {NUMBERED}; if not, add "void": 255 there'
        )

    def unknown(self, numbers):
        """List the numbers that have no meaning."""
        return [number for number in numbers if self.meaning[number] < 0]

    def labelled(self, numbers):
        """Return whether one of the numbers is a class."""
        return any(0 <= self.meaning[number] != IGNORE for number in numbers)


def numbering(path, expected, numbers):
    """Find the `Numbering` of a data set.

    Args:
        path: path of its classes.json, which may be missing.
        expected: names of the classes if that file is missing, or None.
        numbers: a set of all numbers in the label maps of the train split.

    Raises:
        ValueError: if the file cannot be used, or there are fewer than 2 or more than 255 classes.
    """
    binary = numbers == BINARY
    if path.exists():
        classes, void = read_classes(path)
    else:
        classes, void = list(expected) if expected is not None else ["0", "1"] if binary else _counted(numbers), None
    # Masks of 0 and 255: if 255 were ignored, as it is by default, so would be the object itself.
    if isinstance(classes, list) and binary and len(classes) in (1, 2):
        if void:
            raise ValueError(
                f"Expected label maps of two classes, received 0 and 255 only, of which {path} has {_joined(void)} "
                'ignored; take "void" out of it, so that 255 is read as the second class.'
            )
        names = classes if len(classes) == 2 else ["background", *classes]
        note = f"The label maps hold 0 and 255 only: 255 is read as class 1 ({names[1]}), not ignored."
        return Numbering(names, _meaning({0: 0, IGNORE: 1}, []), note)
    # Masks that were resized smoothly have all greys up to 255, which would be taken for classes.
    if not path.exists() and expected is None and len(numbers) > COUNTED and IGNORE in numbers:
        raise ValueError(
            f"Expected class numbers in the label maps, received {len(numbers)} numbers from {min(numbers)} to 255 in"
            f" {path.parent}, as masks with soft edges have; resize masks to the nearest pixel, or write {path} as"
            f" {FORMS}."
        )
    assumed = IGNORE not in (void or ())
    void = {IGNORE} if void is None else void
    if isinstance(classes, list):
        # Names take the numbers from 0 on, without those to ignore.
        free = (number for number in itertools.count() if number not in void)
        classes = dict(zip(free, classes, strict=False))
    names = list(classes.values())
    if not 2 <= len(names) <= IGNORE:
        raise ValueError(
            f"Expected 2 to {IGNORE} classes, received {len(names)} in {path.parent}; name them in {path} as {FORMS}."
        )
    of_number, void = {number: label for label, number in enumerate(classes)}, void - classes.keys()
    note, assumed = _note(classes, void, numbers, path), assumed and IGNORE not in classes
    return Numbering(names, _meaning(of_number, void), note, assumed, path)


def _counted(numbers):
    return [str(k) for k in range(max(numbers - {IGNORE}, default=-1) + 1)]


def _meaning(of_number, void):
    # A table of all numbers, by which a label map is translated at once.
    meaning = np.full(LARGEST + 1, -1, "int16")
    meaning[[IGNORE, *void]] = IGNORE
    # Classes last: a class may have the number 255.
    meaning[list(of_number)] = list(of_number.values())
    return meaning


def _note(classes, void, numbers, path):
    """Write the note for the user: numbers that are not 0, 1, 2..., or classes that do not occur."""
    if numbers == BINARY and IGNORE not in classes:
        return f"The label maps hold 0 and 255 only: 255 is ignored; if it is a class, write {path} as {FORMS}."
    if list(classes) != list(range(len(classes))):
        shown = ", ".join(f"{number} is {name}" for number, name in itertools.islice(classes.items(), 3))
        return (
            "Numbers in the label maps:"
            f" {shown}{', ...' if len(classes) > 3 else ''}{f'; {_joined(void)} ignored' if void else ''}."
        )
    occur = sorted(number for number in numbers if number in classes)
    if not path.exists() and 2 * len(occur) < len(classes):
        found = f"Of {len(classes)} classes only {_joined(occur)} occur in the label maps"
        return f"{found}; write {path} as {FORMS} to name those."
    return ""


def _joined(numbers):
    numbers = sorted(numbers)
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")


def read_classes(path):
    """Read classes.json.

    Returns:
        A list of names, or {number: name} if the file states the numbers; and the set of numbers to ignore, or None.

    Raises:
        ValueError: if the file has another form.
    """
    try:
        if not path.is_file():
            raise ValueError("no file")
        facts = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        reason = str(error)[:100]
        raise ValueError(f"Expected {FORMS} in {path}, received no JSON ({reason}); correct it.") from error
    void = facts.get("void") if isinstance(facts, dict) else None
    if isinstance(facts, dict):
        facts = facts.get("classes", {key: value for key, value in facts.items() if key != "void"})
    classes, void = _by_number(facts), _void(void, path)
    if classes is None:
        raise ValueError(f"Expected {FORMS} in {path}, received {str(facts)[:100]}; correct it.")
    names = classes if isinstance(classes, list) else list(classes.values())
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"Expected classes of different names in {path}, received {twice[0]!r} twice; rename one.")
    if isinstance(classes, dict) and void and (both := sorted(void & classes.keys())):
        raise ValueError(
            f"Expected numbers to ignore that are no classes in {path}, received {both[0]} as both; take it out of one."
        )
    return classes, void


def _by_number(facts):
    """Return a list of names unchanged, {number: name} in order of the numbers, or None for anything else."""
    if (
        isinstance(facts, list) and facts and all(isinstance(entry, dict) for entry in facts)
    ):  # as COCO has its categories
        facts = {entry.get("id"): entry.get("name") for entry in facts}
    if isinstance(facts, list):
        return [str(name) for name in facts] if all(isinstance(name, (str, int)) for name in facts) else None
    if not isinstance(facts, dict) or not facts:
        return None
    if all(_number(key) is not None and isinstance(value, str) for key, value in facts.items()):
        found = {_number(key): value for key, value in facts.items()}
    elif all(isinstance(key, str) and _number(value) is not None for key, value in facts.items()):
        found = {_number(value): key for key, value in facts.items()}
    else:
        return None
    # None if two keys are one number, such as "7" and "07".
    return dict(sorted(found.items())) if len(found) == len(facts) else None


def _number(value):
    """Convert a number from 0 to 65535, or its text, to an int; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST else None


def _void(value, path):
    if value is None:
        return None
    numbers = [_number(number) for number in (value if isinstance(value, list) else [value])]
    if None in numbers:
        raise ValueError(
            f"Expected void to be a number from 0 to {LARGEST} or a list of such, received {str(value)[:100]} in"
            f" {path}; correct it."
        )
    return set(numbers)
