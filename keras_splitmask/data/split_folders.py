"""Find the subfolders of a folder that are its splits: train, val and test."""

import collections
import hashlib
import os
from pathlib import Path

from keras_splitmask.data.counting import counted
from keras_splitmask.data.run_folders import what_is_written
from keras_splitmask.data.scan import printable
from keras_splitmask.data.sources import SPLITS, NoSuchSplit
from keras_splitmask.data.walking import EXTENSIONS, walk

SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}


def split_folders(root, report=None):
    """Find the subfolders that are splits by their names: {split: path}, train first; empty if `root` is not divided.

    A class may be called train or test, too. So the names count only if there are two splits, or a train folder with
    images in folders of classes, or one split and no image outside of it. Otherwise `report` receives a line that the
    folder is read like any other.

    Raises:
        ValueError: if two folders have names of one split.
    """
    root, named = Path(root), collections.defaultdict(list)
    for name in _names(root):
        # A run may lie among the images, in a folder called test.
        if name.lower() in SPLIT_OF and (root / name).is_dir() and not what_is_written(root / name):
            named[SPLIT_OF[name.lower()]].append(name)
    names = [name for of_split in named.values() for name in of_split]
    if not named or not (len(named) > 1 or _is_split(root, names, *named)):
        if named and report:
            report(
                f"{printable(str(root))}: {' and '.join(names)} is read as a folder like those beside it, since there"
                " is no other split"
            )
        return {}
    for split, of_split in named.items():
        if len(of_split) > 1:
            raise ValueError(
                f"Expected one folder of the split {split} in {root}, received {' and '.join(of_split)}; rename or"
                " merge them."
            )
    return {split: root / named[split][0] for split in SPLITS if split in named}


def named_as_splits(root):
    """Return {name of a split in lower case: path} of the folders in `root` that have such a name in any case.

    Raises:
        ValueError: if two names differ in case only.
    """
    found = {}
    for name in _names(root):
        if name.lower() in SPLIT_OF and (root / name).is_dir():
            if name.lower() in found:
                raise ValueError(
                    f"Expected one folder {name.lower()} in {root}, received {found[name.lower()].name} and {name};"
                    " rename or merge them."
                )
            found[name.lower()] = root / name
    return found


def choose_split(found, split, root):
    """Return the entry of `found` for a split.

    Args:
        found: {name of a split in lower case: anything}. If the data set is not divided, the name is empty, and the
            entry is its train split.
        split: "train", "val" or "test".
        root: path of the data set, for the error.

    Raises:
        NoSuchSplit: if there is none.
    """
    if "" in found and split != "train":
        raise NoSuchSplit(
            f"Expected a split {split} in {root}, received a data set that is not divided; divide it, or use the split"
            " train."
        )
    name = "" if "" in found else next((name for name in SPLITS[split] if name in found), None)
    if name is None:
        raise NoSuchSplit(f"Expected split to be one of {', '.join(found)}, which are in {root}, received {split!r}.")
    return found[name]


def drawn(names, fraction):
    """Draw a fraction of names to evaluate on, at least one, by checksums: a set, the same wherever the files lie."""
    in_order = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    return set(in_order[: max(1, round(fraction * len(in_order)))])


def note_of_division(root, drawn, total):
    """The line that says how many images of a data set that is not divided were drawn."""
    return (
        f"{printable(str(root))} is not divided into splits: {drawn} of {total} images, drawn by their names, are not"
        " trained on, but evaluated on."
    )


def _is_split(root, names, split):
    """Return whether the folders `names`, all of the same split, are no class."""
    # A class has its images directly in its folder; a split has folders of classes.
    if split == "train" and not any(
        _is_image(root / name / inside) for name in names for inside in _names(root / name)
    ):
        if any(walk(os.fspath(root / name)).paths for name in names):
            return True
    return not walk(os.fspath(root), skip=names).paths


def _names(folder):
    """List the names in a folder, sorted; empty if it cannot be read, which `scan` reports."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _is_image(path):
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and not path.is_dir()


def what_is_beside(root, folders):
    """Return {name: what it is} of what lies in `root` beside the folders of its splits and may be images."""
    found = walk(os.fspath(root), skip=[path.name for path in folders.values()])
    counts = collections.Counter(path.partition(os.sep)[0] if os.sep in path else "" for path in found.paths)
    loose = counts.pop("", 0)
    counts = {**({"images beside the splits": loose} if loose else {}), **dict(sorted(counts.items()))}
    images = {name: counted(count, "image") for name, count in counts.items()}
    return images | {name: reason for name, reason in found.not_entered.items() if os.sep not in name}
