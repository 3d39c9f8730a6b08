"""Read the metrics.jsonl of a run, and average what it measured over intervals of different lengths."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from keras_splitmask.backend.typing import Array, Float, Num

# Measured at a step; every other number is the mean over the steps of its interval.
AT_A_STEP = (
    "learning_rate",
    "knn_accuracy",
    "val_accuracy",
    "test_accuracy",
    "ap",
    "ap50",
    "mask_ap",
    "mean_iou",
    "pixel_accuracy",
)


# Kinds of runs, by a flag that only they have.
KINDS = {"method": "Pre-training", "mixup": "Fine-tuning", "max_objects": "Detection", "inference": "Segmentation"}


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Read the lines of a metrics.jsonl as dictionaries; skip broken lines and those without a step."""
    lines = []
    for text in pathlib.Path(path).read_text(errors="replace").splitlines():
        try:
            values = json.loads(text)
        # RecursionError: JSON that is nested too deeply, which is no line of a run.
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and _is_number(values.get("step")):
            lines.append(values)
    return lines


def series(lines: Sequence[dict], name: str, axis: str = "step") -> Float[Array, "3 n"]:
    """Return the values of a metric.

    Args:
        lines: list of dictionaries, see `read_metrics`.
        name: name of the metric, such as "loss".
        axis: what `positions` are: "step" or "seconds".

    Returns:
        Three float64 arrays (n,): `positions`; `weights`, the number of steps of each interval; and the values.
    """
    rows, before = [], 0
    for line in lines:
        if _is_number(line.get(name)) and _is_number(line.get(axis, 0)):
            # At least 1: no step comes before the line of step 0.
            rows.append((line.get(axis, 0), max(1, line["step"] - before), line[name]))
        # In lines without this metric, too: an interval begins where the line before it ended.
        before = line["step"]
    return np.array(rows, float).reshape(-1, 3).T  # (3, n), also for n = 0


def mean_between(lines: Sequence[dict], name: str, start: float, stop: float) -> float | None:
    """Mean of a metric over the intervals that end in a part of the run, weighted by their numbers of steps.

    Args:
        start, stop: the part, in fractions of the run; an interval belongs to it if it ends after `start` and at
            `stop` or before.

    Returns:
        A float, or None if the metric was not measured there.
    """
    steps, weights, values = series(lines, name)
    last = lines[-1]["step"] if lines else 0
    inside = (steps > start * last) & (steps <= stop * last)
    return float(np.average(values[inside], weights=weights[inside])) if inside.any() else None


def latest(lines: Sequence[dict], name: str) -> float | None:
    """The newest value of a metric; of one that is a mean, the mean over at least as many steps as a whole interval.

    So a last interval that is shorter counts no more than it should. None if the metric was not measured.
    """
    _, weights, values = series(lines, name)
    if not len(values):
        return None
    if name in AT_A_STEP:
        return float(values[-1])
    first = len(values) - 1
    while first and weights[first:].sum() < weights.max():
        first -= 1
    return float(np.average(values[first:], weights=weights[first:]))


def newest(lines: Sequence[dict], name: str) -> float | None:
    """The last value of a metric, as the log and the end of its curve show it. None if the metric was not measured."""
    values = series(lines, name)[2]
    return float(values[-1]) if len(values) else None


def kind_of(flags: Mapping[str, str]) -> str:
    """Name the kind of a run by its flags. Curves of different kinds, such as their losses, are not comparable."""
    return next((kind for name, kind in KINDS.items() if name in flags), "Other runs")


def planned_steps(lines: Sequence[dict], flags: Mapping[str, str]) -> int | None:
    """Steps of the whole run by its flags, --steps or --epochs; None if an unfinished run does not say.

    Args:
        flags: dictionary of the run's flags, as strings.
    """
    if (text := flags.get("steps", "")).isdigit():
        return int(text)
    try:
        epochs = float(flags.get("epochs", ""))
        return max(1, round(epochs * lines[-1]["step"] / lines[-1]["epoch"]))
    except (ValueError, LookupError, TypeError, ArithmeticError):  # ArithmeticError: no epoch yet, or infinitely many
        return None


def unfinished(lines: Sequence[dict], flags: Mapping[str, str]) -> str:
    """Say how far a run is that has steps left, such as "step 66 of 445"; "" of a finished one."""
    step, steps = lines[-1]["step"] if lines else 0, planned_steps(lines, flags)
    # With --epochs the number is computed back from a rounded epoch, and may be one too large.
    return f"step {step:,} of {steps:,}" if steps and step < steps - ("steps" not in flags) else ""


def smoothed(weights: Num[Array, " n"], values: Num[Array, " n"], steps: float) -> Float[Array, " n"]:
    """Running mean of a curve, in which each interval counts by its number of steps.

    Args:
        weights: (n,) numbers of steps of the intervals.
        values: (n,) means over the intervals.
        steps: number of steps over which the memory falls to 1/e.

    Returns:
        (n,) float64.
    """
    total, weight, means = 0.0, 0.0, []
    for length, value in zip(weights, values, strict=True):
        # A constant of time rather than of lines: a long interval leaves less of what was before.
        kept = np.exp(-length / steps)
        total = kept * total + (1 - kept) * value
        weight = kept * weight + (1 - kept)
        # The mean starts from 0; the weight corrects that, as in Adam.
        means.append(total / weight)
    return np.array(means)


def _is_number(value):
    # True is an int, too, and JSON of other programs may hold NaN.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
