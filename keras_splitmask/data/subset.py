"""Choose a subset of a source: a number of images, a fraction of them, or those that a file lists."""

import bisect
import os
import pathlib

import numpy as np

from keras_splitmask.data.labels import some
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.sources import Selection


class Subset(Selection):
    """The images of `source` at `indices`, in that order."""

    def read_pixels(self, i, plan=None):
        return self.source.read_pixels(self.indices[i], plan)

    def summary(self):
        return f"{len(self)} of {self.source.summary()}"

    def identity(self):
        return [self.source.fingerprint, [int(index) for index in self.indices]]


def balanced(source, count, seed=0):
    """Draw `count` images of a labelled source by the seed: equally from each class, or one more from some.

    A class that has fewer images gives all of them.

    Raises:
        ValueError: if the source has no labels, fewer images, or more classes.
    """
    source.check_labelled()
    return _drawn(source, count, seed, _equal)


def _drawn(source, count, seed, divide):
    """Draw `count` images of a labelled source; `divide(sizes, count, rng)` returns how many of each class."""
    classes, sizes = np.unique(source.labels, return_counts=True)
    _check_count(source, count, count)
    if count < len(classes):
        raise ValueError(
            f"Expected at least one image for each of the {len(classes)} classes, received {count}; choose"
            f" {len(classes)} or more."
        )
    rng = generator("subset", seed)
    chosen = [
        rng.permutation(np.flatnonzero(source.labels == label))[:n]
        for label, n in zip(classes, divide(sizes, count, rng), strict=True)
    ]
    return Subset(source, np.sort(np.concatenate(chosen)))


def _equal(sizes, count, rng):
    """Divide `count` images equally over classes of `sizes` (K,), as far as each has enough: (K,)."""
    # The largest number per class with which all classes together have at most `count` images.
    level = bisect.bisect_right(range(sizes.max() + 1), count, key=lambda level: np.minimum(sizes, level).sum()) - 1
    wanted = np.minimum(sizes, level)
    wanted[rng.permutation(np.flatnonzero(sizes > level))[: count - wanted.sum()]] += (
        1  # any of them have the remainder
    )
    return wanted


def _proportional(sizes, count, rng):
    """Divide `count` images over classes in proportion to their sizes, at least one each: (K,)."""
    wanted = np.maximum(1, sizes * count // sizes.sum())  # rounded down, at least one
    while wanted.sum() > count:  # rounding up to one image per class exceeded the count
        wanted[np.argmax(wanted)] -= 1
    # The random numbers decide between equal remainders only.
    missing = np.argsort(-(sizes * count / sizes.sum() - wanted) - rng.random(len(sizes)) * 1e-9)[
        : count - wanted.sum()
    ]
    wanted[missing] += 1
    return wanted


def subset_of(source, amount, seed=0):
    """Choose a subset of a source: a number or a fraction of images, drawn by the seed, or those that a file lists.

    Args:
        source: a `Source`.
        amount: a number, such as "500"; a fraction, such as "1%"; or the path of a file with a name per line, such as
            the subset.txt of a run. From labelled images, a number is drawn equally from each class, and a fraction is
            taken of each class, at least one image.
        seed: decides which images are drawn.

    Raises:
        ValueError: if the amount has another form, is too large or too small, or a name is not in the source.
    """
    if os.path.isfile(os.path.expanduser(amount)):
        return _listed(source, amount)
    by_share = amount.endswith("%")
    try:
        share = float(amount[:-1]) / 100 if by_share else 0
        count = round(len(source) * share) if by_share else int(amount)
    except (ValueError, OverflowError):
        raise ValueError(
            "Expected a number of images as 500, a share of them as 1%, or a file that lists them, received"
            f" {amount!r}."
        ) from None
    if share > 0 and source.labels is not None:
        count = max(count, len(np.unique(source.labels)))  # at least one of each class
    _check_count(source, count, amount)
    if source.labels is not None:
        return _drawn(source, count, seed, _proportional if by_share else _equal)
    return Subset(source, np.sort(generator("subset", seed).permutation(len(source))[:count]))


def _check_count(source, count, amount):
    if not 1 <= count <= len(source):
        which = f", which is {count}" if str(amount) != str(count) else ""
        raise ValueError(f"Expected 1 to {len(source)} images, all there are, received {amount}{which}.")


def _listed(source, path):
    try:
        names = list(
            dict.fromkeys(
                line
                for line in pathlib.Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig").splitlines()
                if line
            )
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected a text file that lists names of images, received {path} ({error}); correct the path."
        ) from error
    places = {source.name(i): i for i in range(len(source))}
    if missing := [name for name in names if name not in places]:
        raise ValueError(
            f"Expected names of images in {path}, such as {source.name(0)}, received {some(missing)}, "
            f"{'which is' if len(missing) == 1 else 'which are'} not among them."
        )
    if not names:
        raise ValueError(f"Expected names of images in {path}, received none.")
    return Subset(source, np.array([places[name] for name in names]))
