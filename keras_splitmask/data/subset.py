"""A few images of a larger set, if it is labelled the same number of each class."""

import numpy as np

from keras_splitmask.data.sources import Source


class Subset(Source):
    """The images of `source` at `indices`, in that order."""

    def __init__(self, source, indices):
        super().__init__()
        self.source = source
        self.report = source.report
        self.indices = indices
        self.channels = source.channels
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[indices]

    def __len__(self):
        return len(self.indices)

    def name(self, i):
        return self.source.name(self.indices[i])

    def _read(self, i, plan=None):
        return self.source._read(self.indices[i], plan)

    def save_record(self):
        self.source.save_record()

    def _identity(self):
        return [self.source.fingerprint, [int(index) for index in self.indices]]


def balanced(source, count, seed=0):
    """`count` images of a labelled source, drawn by the seed, from each class the same number or one more.

    Raises:
        ValueError: if the source has no labels, or a class has too few images.
    """
    if source.labels is None:
        raise ValueError("Expected a labelled source, received one without labels; put the images of each class into a folder of its own.")
    classes, sizes = np.unique(source.labels, return_counts=True)
    if not len(classes) <= count:
        raise ValueError(f"Expected at least one image for each of the {len(classes)} classes, received count={count}.")
    rng = np.random.default_rng(seed)
    wanted = count // len(classes) + (rng.permutation(len(classes)) < count % len(classes))
    if (short := np.flatnonzero(sizes < wanted)).size:
        label = classes[short[0]]
        raise ValueError(f"Expected {wanted[short[0]]} images of each class, received {sizes[short[0]]} of class {label}; ask for fewer.")
    chosen = [rng.permutation(np.flatnonzero(source.labels == label))[:n] for label, n in zip(classes, wanted)]
    return Subset(source, np.sort(np.concatenate(chosen)))


def subset_of(source, amount, seed=0):
    """A part of a source, drawn by the seed: balanced if it has labels, of unlabelled images at random.

    Args:
        source: a `Source`.
        amount: how many images, such as "500", or what share of them, such as "1%".

    Raises:
        ValueError: if the amount is no such text, more than there is or too little.
    """
    number = amount.removesuffix("%")
    try:
        count = round(len(source) * float(number) / 100) if amount.endswith("%") else int(number)
    except (ValueError, OverflowError):
        raise ValueError(f"Expected a number of images as 500 or a share of them as 1%, received {amount!r}.") from None
    if not 1 <= count <= len(source):
        raise ValueError(f"Expected 1 to {len(source)} images, all there are, received {amount}, which is {count}.")
    if source.labels is not None:
        return balanced(source, count, seed)
    return Subset(source, np.sort(np.random.default_rng(seed).permutation(len(source))[:count]))
