"""Files that are written whole or not at all."""

import contextlib
import json
import os


@contextlib.contextmanager
def aside(path, name):
    """The path of a file of this name beside `path`, which takes its place when it is complete, or is removed."""
    part = path.with_name(name)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path, text):
    """Write a text; the bytes of file names that are no UTF-8 are as they were."""
    with aside(path, f"{path.name}.part") as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path, values):
    """Write values as JSON, indented."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def make_folders(folder):
    """Make a folder with those above it, and return those that were not there, the innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def remove_empty(folders):
    """Remove those of the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
