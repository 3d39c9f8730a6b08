"""What pre-training gained where it was measured, said at the end of a run. docs/results.md has all of it.

tests/docs_test.py compares these numbers with the logs.
"""

import math
import typing

from recipes.shared import screen


class Measured(typing.NamedTuple):
    """Pre-training beside training from scratch, in about the same minutes.

    Names of the log, of the images and of the preset; the number of images, the labels used, the minutes planned in
    all, the steps of pre-training, and the top-1 accuracies in percent from scratch and pre-trained.
    """

    log: str
    name: str
    preset: str
    images: int
    labels: int
    minutes: int
    steps: int
    scratch: float
    pretrained: float


MEASURED = (
    Measured("cifar10_500_15min", "images of CIFAR-10", "small", 50_000, 500, 15, 1507, 33.4, 38.8),
    Measured("cifar10_500_30min", "images of CIFAR-10", "small", 50_000, 500, 30, 3313, 32.6, 40.3),
    Measured("cifar10_500_60min", "images of CIFAR-10", "small", 50_000, 500, 60, 4953, 31.8, 41.9),
    Measured("cifar10_500_15min", "images of CIFAR-10", "paper", 50_000, 500, 15, 645, 33.4, 31.9),
    Measured("grocery_500_15min", "photographs of groceries", "small", 2_640, 500, 15, 1027, 47.4, 40.7),
    Measured("grocery_500_30min", "photographs of groceries", "small", 2_640, 500, 30, 2499, 46.9, 47.9),
)


def distance(one, other):
    """How many times as large one number is as the other; the same for double and half."""
    return abs(math.log(one / max(1, other)))


def sentences(preset, images, steps):
    """Say what a preset gained where images, and then steps, were most like this run's, and what to do after it.

    Args:
        preset: name of the run's preset.
        images, steps: numbers of this run.

    Returns:
        List of three texts: the run, what it reached, and what to do.
    """
    found = [one for one in MEASURED if one.preset == preset]
    one = min(found, key=lambda one: (distance(one.images, images), distance(one.steps, steps)))
    longest = max(other.steps for other in found if other.name == one.name)
    advice = (
        f"This run had only {steps:,} steps. More of them would teach more."
        if steps < longest
        else "To see what it gains on your own labelled images:"
        f" {screen.program('reproduce')} --dataset=folder:LABELLED --methods=scratch,splitmask --time=1h"
    )
    return [
        f"The measured run that is most like this one: {one.steps:,} steps of --preset={preset} on {one.images:,}"
        f" {one.name}.",
        f"Fine-tuned on {one.labels} labels, it classified {one.pretrained:.1f}% correctly. Training from scratch"
        f" reached {one.scratch:.1f}%. Both were planned for {one.minutes} min of one CPU thread in all"
        " (docs/results.md).",
        advice,
    ]
