"""Find the images and class names of a data set in the form of YOLO: Ultralytics' and Darknet's, and exports of it."""

import dataclasses
import functools
import os
import re
from pathlib import Path

from keras_splitmask.backend.optional import optional
from keras_splitmask.data.listing import read_content
from keras_splitmask.data.scan import printable
from keras_splitmask.data.split_folders import SPLIT_OF, named_as_splits

MAX_NAMES = 300_000  # bytes of data.yaml, or of a list of class names
MAX_LIST = 100_000_000  # bytes of a list of images
CLASSES = ("classes.txt", "obj.names", "data.names")  # as Label Studio, CVAT and Darknet call them
NO_LABELS = (*CLASSES, "notes.txt", *(f"{name}.txt" for name in SPLIT_OF))  # text files that are no labels
KEYS = ("path", "train", "val", "test", "names", "nc", "kpt_shape")


@dataclasses.dataclass
class Part:
    """Where the images of a split are.

    Attributes:
        folders: paths of folders.
        files: paths of single images, as a list of them says.
    """

    folders: list = dataclasses.field(default_factory=list)
    files: list = dataclasses.field(default_factory=list)

    @functools.cached_property
    def root(self):
        """The folder around all of them."""
        around = [*self.folders, *(path.parent for path in self.files)]
        return Path(os.path.commonpath(around))

    def holds(self, path):
        """Return whether an image, a path relative to `root`, belongs to the split."""
        if self.folders == [self.root]:
            return True
        path = self.root / path
        return path in self._files or any(path.is_relative_to(folder) for folder in self.folders)

    @functools.cached_property
    def _files(self):
        return set(self.files)


def check_together(part, root):
    """Refuse a split whose folders and files have only folders far above the data set around them: all of these would
    be searched. Raises ValueError."""
    own = (home_of(root).resolve(), *(path.resolve() for path in part.folders))
    around = part.root.resolve()
    if not any(around.is_relative_to(path) for path in (*own, home_of(root).resolve().parent)):
        raise ValueError(
            f"Expected the images of a split in one folder, or in {printable(str(home_of(root)))}, received images in"
            f" several whose common folder is {printable(str(around))}; move or link them into one."
        )


def home_of(root):
    """The folder of a data set that is named by itself or by its data.yaml."""
    return root.parent if root.is_file() else root


def splits(root):
    """Find the splits of a data set: {name: `Part`}. The name is empty if the data set is not divided.

    * the folders, or the lists of images, that train, val and test of ROOT/data.yaml name;
    * the lists of images ROOT/train.txt and so on;
    * ROOT/images/SPLIT with ROOT/labels/SPLIT, or ROOT/SPLIT/images with ROOT/SPLIT/labels;
    * ROOT/images with ROOT/labels, or ROOT/classes.txt with a text file beside each image.
    """
    home, facts = home_of(root), settings(root)
    if found := _named_splits(home, facts):
        return found
    lists = {path.stem.lower(): path for path in sorted(home.glob("*.txt")) if path.stem.lower() in SPLIT_OF}
    if lists:
        return {name: Part(files=_listed(path, home)) for name, path in lists.items()}
    found = {
        name: path
        for name, path in named_as_splits(home / "images").items()
        if _has_labels(home / "labels" / path.name) or _has_labels(path)
    } or {name: path / "images" for name, path in named_as_splits(home).items() if _has_labels(path / "labels")}
    if found:
        return {name: Part([path]) for name, path in found.items()}
    if _has_labels(home / "labels"):
        return {"": Part([home / "images"])}
    if any((home / name).is_file() for name in CLASSES) and _has_labels(home):
        return {"": Part([home])}
    return {}


def settings(root):
    """Read data.yaml, or the only other file of its kind: the keys of `KEYS` in it. Empty if there is none."""
    path = file_of_settings(root)
    if not path:
        return {}
    yaml = optional("yaml", "data")
    try:
        # BaseLoader leaves every value a text, so that a class called no is not a bool, and makes no objects.
        content = yaml.load(read_content(path, MAX_NAMES).decode("utf-8-sig"), yaml.BaseLoader)
        given = content if isinstance(content, dict) else {}
        return {key: _texts(key, given[key]) for key in KEYS if key in given}
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)  # PyYAML's own message has several lines
        reason = f"line {mark.line + 1} is no YAML" if mark else printable(str(error))[:100]
        raise ValueError(
            f"Expected path, train, val and names in {printable(str(path))}, received what cannot be read ({reason});"
            " write it as in https://docs.ultralytics.com/datasets/detect."
        ) from error


def _texts(key, value):
    """A value of data.yaml: a text, a list of texts, or a dictionary of them. Raises ValueError for another."""
    if isinstance(value, list):  # `- a: b` is meant as a name
        value = [": ".join(*item.items()) if isinstance(item, dict) and len(item) == 1 else item for item in value]
    parts = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{key} is neither a text nor a list or table of texts")
    return value


def file_of_settings(root):
    """The path of data.yaml, or of the only other file of its kind, or None."""
    if root.is_file():
        return root
    paths = sorted(path for path in root.glob("*.y*ml") if path.suffix in (".yaml", ".yml") and path.is_file())
    known = [path for path in paths if path.stem in ("data", "dataset")]
    return known[0] if known else paths[0] if len(paths) == 1 else None


def _named_splits(home, facts):
    """The `Part` of each split that data.yaml names. It may name some that are not there, but not only such."""
    found, errors = {}, []
    for name in ("train", "val", "test"):
        if facts.get(name):
            try:
                found[name] = _named(home, facts, name)
            except ValueError as error:
                errors.append(error)
    if errors and not found:
        raise errors[0]
    return found


def _named(home, facts, name):
    """The `Part` that data.yaml names: a folder, a list of images, or several of these."""
    values, part = facts[name], Part()
    for value in values if isinstance(values, list) else [values]:
        path = _place(home, facts.get("path"), value)
        if path.suffix == ".txt":
            part.files.extend(_listed(path, path.parent))
        else:
            part.folders.append(path)
    return Part(part.folders, part.files)


def _place(home, base, value):
    """Find a folder or list of data.yaml, which may lie elsewhere than it says: the longest end of it that exists."""
    value = str(value)
    bases = [Path(os.path.expanduser(base)), home / base] if isinstance(base, str) and base else []
    parts = [part for part in re.split(r"[/\\]", value) if part not in ("", ".", "..")]
    for path in (*(base / value for base in (*bases, home)), *(home.joinpath(*parts[i:]) for i in range(len(parts)))):
        if path.is_absolute() and path.exists():
            return Path(os.path.normpath(path))
        if (path := Path(os.path.abspath(path))).exists():
            return path
    raise ValueError(
        f"Expected the images of a split in {printable(value)}, as data.yaml says, received no such folder in"
        f" {printable(str(home))}; correct train, val or path there."
    )


def _listed(path, home):
    """Read a list of images: their paths. A path may begin with folders from elsewhere."""
    lines = os.fsdecode(read_content(path, MAX_LIST)).splitlines()
    found = []
    for line in filter(None, map(str.strip, lines)):
        parts = [part for part in re.split(r"[/\\]", line) if part not in ("", ".")]
        ends = [Path(line), *(home.joinpath(*parts[i:]) for i in range(len(parts)))]
        found.append(Path(os.path.abspath(next((end for end in ends if end.is_absolute() and end.exists()), ends[1]))))
    return list(dict.fromkeys(found))


def _has_labels(folder):
    """Whether there is a text file of labels in a folder or below it."""
    return any(path.suffix == ".txt" and path.name not in NO_LABELS for path in folder.rglob("*"))


def class_names(root, part):
    """Read the names of the classes: {number: name}, from data.yaml, or from a file of one name a line."""
    home, facts = home_of(root), settings(root)
    names = facts.get("names")
    if isinstance(names, list) and names:
        return dict(enumerate(names))
    if isinstance(names, dict) and names:
        if not all(key.isdigit() and len(key) < 10 for key in names):
            raise ValueError(
                f"Expected names as a list, or by their numbers, in {printable(str(file_of_settings(root)))}, received"
                f" {str(names)[:100]}; correct it."
            )
        return {int(key): name for key, name in names.items()}
    places = dict.fromkeys([home, home / "labels", part.root, labels_of(part.root), part.root.parent])
    path = next((place / name for place in places for name in CLASSES if (place / name).is_file()), None)
    if path is None:
        raise ValueError(
            f"Expected the names of the classes in data.yaml, classes.txt or obj.names in {printable(str(home))},"
            f" received none; write them into {printable(str(home / 'classes.txt'))}, one a line."
        )
    try:
        lines = read_content(path, MAX_NAMES).decode("utf-8-sig").rstrip().splitlines()
    except ValueError as error:
        raise ValueError(
            f"Expected the name of a class in each line of {printable(str(path))}, received {error}; save it as UTF-8."
        ) from error
    return {number: line.strip() or str(number) for number, line in enumerate(lines)}


def labels_of(path):
    """The path with its last folder images replaced by labels, as Ultralytics finds labels."""
    parts = path.parts
    last = max((i for i, part in enumerate(parts) if part == "images"), default=None)
    return path if last is None else Path(*parts[:last], "labels", *parts[last + 1 :])
