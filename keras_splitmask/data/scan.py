"""Scan a folder of images: the size and depth of each file, and why files are left out; kept in a JSON file."""

import dataclasses
import filecmp
import json
import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keras_splitmask.data.counting import counted
from keras_splitmask.data.headers import read_header
from keras_splitmask.data.record import write
from keras_splitmask.data.run_folders import what_is_written
from keras_splitmask.data.walking import EXTENSIONS, walk

THREADS = 8
INTERVAL = 2.0  # seconds between two reports
NAMED = 3  # files named in a message
COMPARED = 16  # files to compare, to see whether a folder was moved
VERSION = 3  # of the JSON file
ESCAPED = re.compile(
    r"\\([\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"
)  # what `printable` may write for one character


@dataclasses.dataclass
class Scan:
    """The images of a folder.

    Attributes:
        root: path of the folder.
        images: relative path: (height, width, channels) as stored, in order of the paths.
        left_out: relative path: reason.
        others: number of files whose names are not those of images.
        files: relative path: (bytes, time of change in ns) of the images and of the files left out.
        not_entered: relative path: reason, of folders that hold no data.
        several: relative paths of images with several pages or frames; only the first is read.
        deep: relative paths of images with more than 8 bits for each value.
    """

    root: str
    images: dict
    left_out: dict
    others: int
    files: dict
    not_entered: dict = dataclasses.field(default_factory=dict)
    several: list = dataclasses.field(default_factory=list)
    deep: list = dataclasses.field(default_factory=list)

    def check(self, max_bad_fraction):
        """Raise ValueError if there is no image, or too many files are left out. Hidden files do not count."""
        bad = [path for path in self.left_out if not os.path.basename(path).startswith(".")]
        if len(bad) > max_bad_fraction * (len(bad) + len(self.images)):
            raise ValueError(
                f"Expected at most {max_bad_fraction:.0%} of the files in {printable(self.root)} to be unreadable,"
                f" received {len(bad)} of {len(bad) + len(self.images)} ({reasons(self.left_out, bad)}); repair or"
                " remove them, or raise max_bad_fraction."
            )
        if not self.images:
            others = f" with {counted(self.others, 'other file')}" if self.others else ", which is empty"
            left_out = f"; left out is {reasons(self.left_out)}" if self.left_out else ""
            raise ValueError(
                f"Expected images ({' '.join(EXTENSIONS)}) in {printable(self.root)}, received a"
                f" folder{others}{left_out}; correct the path."
            )

    def facts(self):
        """Collect what a JSON file must hold so that `scan` can reuse it."""
        return {"version": VERSION, **vars(self), "root": os.path.abspath(self.root)}

    def summary(self):
        """The number of images, their range of sizes, and what was left out, in a line."""
        sizes = sorted({(shape[0] * shape[1], shape[0], shape[1]) for shape in self.images.values()})
        ends = dict.fromkeys(f"{rows}x{columns}" for _, rows, columns in (sizes[0], sizes[-1]))
        left_out = f"; {len(self.left_out)} left out ({reasons(self.left_out)})" if self.left_out else ""
        folders = counted(len(self.not_entered), "folder")
        not_entered = f"; {folders} not entered ({reasons(self.not_entered)})" if self.not_entered else ""
        several = [printable(path) for path in self.several if path in self.images]
        names = "; ".join(several[:NAMED] + [f"and {len(several) - NAMED} more"] * (len(several) > NAMED))
        first = f"; of {len(several)} with several pages or frames only the first is read ({names})" if several else ""
        return f"{counted(len(self.images), 'image')} of {' to '.join(ends)}{left_out}{not_entered}{first}"


def reasons(by_path, paths=None):
    """Join the first few paths and their reasons, {path: reason}; by default of all paths."""
    paths = list(by_path) if paths is None else paths
    more = [f"and {len(paths) - NAMED} more"] if len(paths) > NAMED else []
    return "; ".join([f"{printable(path)}: {by_path[path]}" for path in paths[:NAMED]] + more)


def scan(root, record=None, report=None, frozen=False, value_range=None):
    """Scan all files under a folder. Only headers are read.

    A second scan reads only the headers of files that are new, changed or left out.

    Args:
        root: path of the folder. Links to folders are followed; see `walking.walk` for the folders that are not
            entered.
        record: path of a JSON file that remembers the scan, such as the run's data.json.
        report: a function that receives a line about the progress every few seconds.
        frozen: use the content of `record` unchanged, if it is about this folder or all its files are there. A
            resumed run then has the same images.
        value_range: see `headers.read_header`.

    Returns:
        A `Scan`.
    """
    root = os.fspath(root)
    before = _load(record)
    # The record of another folder says nothing about this one, unless it is that folder, moved.
    if before and os.path.realpath(before.root) != os.path.realpath(root) and not (frozen and _is_at(before, root)):
        before = None
    if frozen and before:
        return dataclasses.replace(before, root=root)
    if what := what_is_written(root):
        raise ValueError(
            f"Expected a folder of images, received {printable(root)}, which holds {what}; correct the path."
        )
    seen = walk(root)
    files, images, left_out, todo = {}, {}, seen.left_out, []
    for path in seen.paths:
        try:
            files[path] = _stamp(os.path.join(root, path))
        except ValueError as error:
            left_out[path] = str(error)
            continue
        if before and before.files.get(path) == files[path] and path in before.images:
            images[path] = before.images[path]
        else:  # files left out are read again: they are few, and another run may be able to use them
            todo.append(path)
    several, deep = (
        [os.path.join(root, path) for path in known if path in images]
        for known in ((before.several, before.deep) if before else ((), ()))
    )
    headers = _headers(root, todo, report or (lambda line: None), value_range, several, deep)
    for path, header in zip(todo, headers, strict=True):
        (left_out if isinstance(header, str) else images)[path] = header
    in_order = (dict(sorted(facts.items())) for facts in (images, left_out))
    several, deep = (sorted(os.path.relpath(path, root) for path in paths) for paths in (several, deep))
    found = Scan(root, *in_order, seen.others, files, seen.not_entered, several, deep)
    if record and found != before:
        write(found.facts(), record)
    return found


def scan_files(paths, report=None, value_range=None):
    """Look at the headers of files by their paths: a `Scan` whose root is empty.

    Args:
        paths: paths of files, each listed once.
        report, value_range: see `scan`.
    """
    files, left_out, several, deep = {}, {}, [], []
    for path in paths:
        try:
            files[path] = _stamp(path)
        except ValueError as error:
            left_out[path] = str(error)
    todo = list(files)
    headers = zip(todo, _headers("", todo, report or (lambda line: None), value_range, several, deep), strict=True)
    # `update` returns None: what has a reason is noted there, and is not among the images.
    images = {
        path: header for path, header in headers if not isinstance(header, str) or left_out.update({path: header})
    }
    return Scan("", images, left_out, 0, files, {}, sorted(several), sorted(deep))


def printable(name):
    """Escape the characters of a file name that cannot be printed. Different names stay different.

    So the backslashes of a name that already looks escaped, such as one with a backslash before an n, are doubled.
    """
    if name.isprintable() and not ESCAPED.search(name):
        return name
    return "".join(c if c.isprintable() and c != "\\" else repr(c)[1:-1] for c in name)


def is_moved(record, folder):
    """Return whether another folder, or its part for the split, has all files of the scan in a JSON file.

    Files are compared by their paths and sizes.
    """
    found = _load(record)
    return found is not None and any(
        _is_at(found, root) for root in (folder, os.path.join(folder, os.path.basename(found.root)))
    )


def _is_at(found, root):
    """Return whether a folder has all files of a scan, by paths and sizes.

    If the scanned files are still there, the bytes of some are compared too.
    """
    try:
        if not found.files or any(
            os.stat(os.path.join(root, path)).st_size != size for path, (size, _) in found.files.items()
        ):
            return False
    except OSError:
        return False
    compared = list(found.files)[:: -(-len(found.files) // COMPARED)]
    return not any(_differ(os.path.join(found.root, path), os.path.join(root, path)) for path in compared)


def _differ(before, now):
    """Return whether two files both exist and differ."""
    try:
        return not filecmp.cmp(before, now, shallow=False)
    except OSError:
        return False


def _load(record):
    """Load the scan from a JSON file; None if it holds none."""
    try:
        facts = json.loads(Path(record).read_text(encoding="ascii"))
        if facts.pop("version") != VERSION:
            return None
        found = Scan(**{field.name: facts[field.name] for field in dataclasses.fields(Scan)})
        found.images, found.files = (
            {path: tuple(fact) for path, fact in facts.items()} for facts in (found.images, found.files)
        )
        return found
    except (
        TypeError,
        KeyError,
        ValueError,
        AttributeError,
        RecursionError,
        OSError,
    ):  # no file, or one without a scan
        return None


def _stamp(path):
    """Return (bytes, time of change in ns) of a file. Raise ValueError if it should not even be opened."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise ValueError("a link to nowhere" if os.path.islink(path) else error.strerror) from error
    if stat.S_ISDIR(found.st_mode):
        raise ValueError("a folder, not a file")
    if not stat.S_ISREG(found.st_mode):  # opening a FIFO waits for ever
        raise ValueError("no file but a FIFO, socket or device")
    return found.st_size, found.st_mtime_ns


def _headers(root, paths, report, value_range, several, deep):
    """Yield (height, width, channels) of each file in order, or the reason to leave it out.

    See `read_header` for `several` and `deep`.
    """
    started = said = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for i, header in enumerate(
            pool.map(lambda path: read_header(os.path.join(root, path), value_range, several, deep), paths)
        ):
            yield header
            # Less and less often, so that minutes do not fill the screen.
            if time.monotonic() - said > max(INTERVAL, (said - started) / 2):
                said = time.monotonic()
                report(f"looking at {printable(root)}: {i + 1} of {len(paths)} files, {said - started:.0f} s")
