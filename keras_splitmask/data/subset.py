"""A few images of a larger set: the same number of each class, or those that a file lists."""

import pathlib

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
    """A part of a source: so many images, drawn by the seed, balanced if there are labels; or those that a file lists.

    Args:
        source: a `Source`.
        amount: how many images, such as "500", or what share of them, such as "1%"; or the path of a file with a name in each line, as a
            run's subset.txt is.

    Raises:
        ValueError: if the amount is no such text, more than there is or too little, or a name is not one of the source's.
    """
    if pathlib.Path(amount).is_file():
        return _listed(source, amount)
    number = amount.removesuffix("%")
    try:
        count = round(len(source) * float(number) / 100) if amount.endswith("%") else int(number)
    except (ValueError, OverflowError):
        raise ValueError(f"Expected a number of images as 500, a share of them as 1%, or a file that lists them, received {amount!r}.") from None
    if not 1 <= count <= len(source):
        raise ValueError(f"Expected 1 to {len(source)} images, all there are, received {amount}, which is {count}.")
    if source.labels is not None:
        return balanced(source, count, seed)
    return Subset(source, np.sort(np.random.default_rng(seed).permutation(len(source))[:count]))


def _listed(source, path):
    names = [line for line in pathlib.Path(path).read_text().splitlines() if line]
    places = {source.name(i): i for i in range(len(source))}
    if missing := [name for name in names if name not in places]:
        raise ValueError(f"Expected names of images in {path}, such as {source.name(0)}, received {missing[0]}, which is not among them.")
    if not names:
        raise ValueError(f"Expected names of images in {path}, received none.")
    return Subset(source, np.array([places[name] for name in names]))
