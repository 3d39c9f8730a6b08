"""What an earlier run says about itself: its flags and its results."""

import json
import math
import pathlib

from recipes.shared import commandline

LARGEST = {"class_numbers": 65535, "category_ids": 2**63 - 1}  # what label maps of 16 bits and readers of JSON hold


def flag_of_run(path, name):
    """Read a flag's value from the run.flags of a run's folder, or of the folder of a file; "" if there is none. Of a
    bool "true" or ""."""
    try:
        lines = (_folder(path) / "run.flags").read_text(encoding="utf-8", errors="replace").splitlines()
        given = (line.partition("=") for line in lines)
        return next((value if equals else "true" for flag, equals, value in given if flag == f"--{name}"), "")
    except OSError:
        return ""


def result_of_run(path, name):
    """Read a value from the result.json of a run's folder, or of the folder of a file; None if there is none."""
    try:
        return json.loads((_folder(path) / "result.json").read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError):
        return None


def results_of_run(path):
    """Read the finite numbers of a run's result.json: {name: value}."""
    try:
        found = json.loads((_folder(path) / "result.json").read_text(encoding="utf-8"))
        numbers = {name: value for name, value in found.items() if type(value) in (int, float)}
        return {name: value for name, value in numbers.items() if math.isfinite(value)}
    except (OSError, ValueError, AttributeError):
        return {}


def crop_ratio(path, model):
    """The fraction of an image's side that a model was evaluated on; None if it knows none.

    Classifiers of earlier versions do not hold it: only the flags of their run say it.

    Raises:
        BadInput: if those say anything but a number above 0 and at most 1.
    """
    text = flag_of_run(path, "crop_ratio")
    if not text:
        return getattr(model, "crop_ratio", None)
    try:
        ratio = float(text)
    except ValueError:
        ratio = 0
    if not 0 < ratio <= 1:
        raise commandline.BadInput(
            f"Expected crop_ratio above 0 and at most 1 in {_folder(path) / 'run.flags'}, received {text}; correct it,"
            " or give --crop_ratio."
        )
    return ratio


def class_numbers(path, name, count):
    """Read the numbers of `count` classes in the data set from the result.json of a run's folder; None if there are
    none, or not as many. `name` is one of `LARGEST`.

    Raises:
        BadInput: unless they are different whole numbers from 0 to the largest.
    """
    numbers = result_of_run(path, name)
    if not numbers or (isinstance(numbers, list) and len(numbers) != count):
        return None
    whole = isinstance(numbers, list) and all(
        type(number) is int and 0 <= number <= LARGEST[name] for number in numbers
    )
    if not whole or len(set(numbers)) < count:
        raise commandline.BadInput(
            f"Expected {name} in {_folder(path) / 'result.json'} as different whole numbers from 0 to {LARGEST[name]},"
            f" received {str(numbers)[:80]}; correct or remove them."
        )
    return numbers


def doubts(path):
    """List what the metrics of a pre-training run say against its features: too few steps, or a collapse."""
    from keras_splitmask.evaluation import metrics, verdict

    try:
        lines = metrics.read_metrics(_folder(path) / "metrics.jsonl")
    except OSError:
        return []
    found = (rule(lines, {}, {}) for rule in (verdict.few_steps, verdict.collapsed))
    return [text for _, text in filter(None, found)]


def _folder(path):
    path = pathlib.Path(path).expanduser()
    return path if path.is_dir() else path.parent
