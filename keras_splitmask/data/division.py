"""Divide labelled images into those to train on and those to evaluate on, with copies of an image on one side."""

import bisect
import collections
import csv
import io
import os
import pathlib

import numpy as np

from keras_splitmask.data.labels import some
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.sources import SPLITS
from keras_splitmask.data.subset import Subset

COLUMNS = ["name", "split"]


def copies(*sources):
    """Find images with the same content.

    Args:
        *sources: one `Source` or several of one kind, whose images are numbered one after the other. Of a folder, only
            files that may be the same are read.

    Returns:
        (B,) int64: for each image the index of the first one with the same content, which may be its own. An image
        that cannot be read counts as different from all others.
    """
    ends = np.cumsum([len(source) for source in sources]).tolist()
    first, groups = np.arange(ends[-1]), [range(ends[-1])]

    def of_all(keys):
        def key(i):
            number = bisect.bisect_right(ends, i)  # of the source that has image i
            return keys[number](i - ends[number] + len(sources[number]))

        return key

    # From cheap to expensive: only files of one size are opened, and only those that begin alike are read whole.
    for key in map(of_all, zip(*(source.content_keys() for source in sources), strict=True)):
        groups = [same for group in groups for same in _same(group, key)]
    for group in groups:
        first[group] = group[0]
    return first


def _same(indices, key):
    """The groups of at least two indices with the same key."""
    found = collections.defaultdict(list)
    for i in indices:
        try:
            found[key(i)].append(i)
        except (OSError, ValueError):
            pass
    return [group for group in found.values() if len(group) > 1]


def read_groups(path):
    """Read which images belong together, such as near-duplicates or photographs of one object.

    Args:
        path: of a CSV file with the columns group and file, as `embed --duplicates` writes it. Others are ignored.

    Returns:
        The groups, a list of lists of names. A name may be in several groups.

    Raises:
        ValueError: if the file cannot be read, or has no such columns.
    """
    header, *rows = _rows_of(path, "groups")
    if not {"group", "file"} <= set(header) or any(len(row) != len(header) for row in rows):
        raise ValueError(f"Expected the columns group and file in {path}, received {','.join(header)}.")
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row[header.index("group")]].append(row[header.index("file")])
    return list(groups.values())


def joined(first, names, groups):
    """Join groups of images that share an image.

    Args:
        first: (B,) int64, as `copies` returns it.
        names: the names of the B images.
        groups: lists of names; those that are not among `names` are ignored.

    Returns:
        (B,) int64: for each image the index of the first one in its group, which may be its own. Groups that have an
        image or a copy of one in common are one group.
    """
    first, index = np.array(first), {name: i for i, name in enumerate(names)}

    def root(i):
        while first[i] != i:
            # Path halving keeps chains short. The targets are assigned from left to right, so `first[i]` has the old i.
            first[i] = i = first[first[i]]
        return i

    for group in groups:
        roots = {root(index[name]) for name in group if name in index}
        for i in roots:
            # The smallest index leads a group, as `copies` has it.
            first[i] = min(roots)
    return np.array([root(i) for i in range(len(first))], "int64")


def divided(source, fraction, seed=0, least=2, first=None):
    """Divide a labelled source in two: a fraction of each class is drawn by the seed.

    Copies of an image are drawn together, so that none is on both sides. A class of `least` images or more gives at
    least one, and keeps at least one, unless all of them are copies. A group counts for the class of its first image.

    Args:
        source: a `Source` with labels.
        fraction: of the images of each class, between 0 and 1.
        seed: of what is drawn.
        least: smallest number of images of a class that gives any if the fraction alone would be less than one.
        first: what `copies` or `joined` returns, if it is known: which images are drawn together.

    Returns:
        Two `Subset`s: the images that were not drawn, and those that were.

    Raises:
        ValueError: if there are no labels, the fraction is out of range, or one side would be empty.
    """
    source.check_labelled()
    if not 0 < fraction < 1:
        raise ValueError(f"Expected a fraction of the images above 0 and below 1, received {fraction}.")
    first = copies(source) if first is None else first
    # Copies that lie in folders of two classes are drawn with the class of the first.
    sizes, labels = np.bincount(first, minlength=len(source)), np.asarray(source.labels)[first]  # (B,) each
    rng, drawn = generator("division", seed), np.zeros(len(source), bool)  # by the first of the copies
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Never all images of a class: some must stay on the other side.
        count = min(max(round(len(members) * fraction), int(len(members) >= least)), len(members) - 1)
        groups, taken = rng.permutation(np.unique(first[members])), 0
        for group in groups:
            if taken + sizes[group] <= count:
                drawn[group], taken = True, taken + sizes[group]
        # Every group of copies is larger than the count: the smallest is drawn.
        if count and not taken and len(groups) > 1:
            drawn[groups[np.argmin(sizes[groups])]] = True
    drawn = drawn[first]  # from the first image of each group to all of it
    if drawn.all() or not drawn.any():
        raise ValueError(
            f"Expected at least two different images of one class, to divide {len(source)} images into two parts,"
            " received fewer; add images."
        )
    return Subset(source, np.flatnonzero(~drawn)), Subset(source, np.flatnonzero(drawn))


def write_division(parts):
    """Write what `read_division` reads: a CSV text of the columns name and split.

    Args:
        parts: {split: source}.
    """
    text = io.StringIO()
    rows = ([parts[split].name(i), split] for split in SPLITS if split in parts for i in range(len(parts[split])))
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    return text.getvalue()


def read_division(source, path):
    """Divide a source as a CSV file lists: the columns name and split, which is train, val or test.

    Args:
        source: a `Source`. Its images that are not listed are in no part.
        path: of a file such as a run's split.csv.

    Returns:
        {split: `Subset`}, with "train" among them.

    Raises:
        ValueError: if the file cannot be read, has other columns, names an image twice or one that is not in the
            source, or lists none to train on.
    """
    header, *rows = _rows_of(path, "a split")
    if header != COLUMNS or any(len(row) != 2 for row in rows):
        raise ValueError(
            f"Expected the columns name,split in {path}, received {','.join(header)}; see a run's split.csv."
        )
    split_of = {name: split for split, names in SPLITS.items() for name in names}
    if wrong := [split for _, split in rows if split.lower() not in split_of]:
        raise ValueError(f"Expected the splits train, val or test in {path}, received {some(sorted(set(wrong)))}.")
    names = [name for name, _ in rows]
    if len(set(names)) < len(names):
        twice = [name for name, count in collections.Counter(names).items() if count > 1]
        raise ValueError(f"Expected each image once in {path}, received {some(twice)} more than once.")
    index = {source.name(i): i for i in range(len(source))}
    if missing := [name for name in names if name not in index]:
        raise ValueError(f"Expected names of images in {path}, such as {source.name(0)}, received {some(missing)}.")
    parts = collections.defaultdict(list)
    for name, split in rows:
        parts[split_of[split.lower()]].append(index[name])
    if "train" not in parts:
        raise ValueError(f"Expected images of the split train in {path}, received none.")
    return {split: Subset(source, np.array(sorted(parts[split]))) for split in SPLITS if split in parts}


def _rows_of(path, what):
    """The rows of a CSV file that are not empty, with the header first."""
    try:
        # "utf-8-sig": spreadsheets write a byte order mark.
        text = pathlib.Path(os.path.expanduser(path)).read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
        if not rows:
            raise ValueError("it is empty")
    except FileNotFoundError as error:
        raise ValueError(f"File not found: {path}. Give a CSV file that lists {what}.") from error
    except (OSError, ValueError, csv.Error) as error:  # ValueError: other bytes than UTF-8, or no line at all
        raise ValueError(f"Expected a CSV file that lists {what}, received {path} ({error}).") from error
    return rows
