"""What pre-training gained where it was measured, said at the end of a run. docs/results.md has all of it.

tests/docs_test.py compares these numbers with the logs.
"""

import math
import typing


class Measured(typing.NamedTuple):
    """A comparison at equal minutes: names of the log and of the images, their number, the labels used, the minutes in
    all, and the top-1 accuracies in percent from scratch and with --preset=small."""

    log: str
    name: str
    images: int
    labels: int
    minutes: int
    scratch: float
    pretrained: float


MEASURED = (
    Measured("cifar10_500_15min", "CIFAR-10", 50_000, 500, 15, 33.4, 38.8),
    Measured("grocery_500_15min", "photographs of groceries", 2_640, 500, 15, 47.4, 40.7),
)


def sentence(images):
    """Say what was measured on the set whose number of images is nearest to this one."""
    one = min(MEASURED, key=lambda one: abs(math.log(one.images / max(1, images))))
    gain = one.pretrained - one.scratch
    verdict = f"{gain:.1f} points more than" if gain > 0 else f"{-gain:.1f} points less than"
    return (
        f"on {one.name} ({one.images:,} images, {one.labels} labels, about {one.minutes} min of one CPU thread in all)"
        f" this preset reached {one.pretrained:.1f}% top-1, {verdict} training from scratch; see docs/results.md"
    )
