"""Files that are written completely or not at all."""

import contextlib
import json
import os


@contextlib.contextmanager
def aside(path, name):
    """Yield the path of a temporary file beside `path`. It replaces `path` at the end, or is removed on an error."""
    part = path.with_name(name)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path, text):
    """Write a text. File names that are not UTF-8 keep their bytes."""
    with aside(path, f"{path.name}.part") as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path, values):
    """Write values as JSON, indented."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def make_folders(folder):
    """Create a folder and its parents, and return the created ones, innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def remove_empty(folders):
    """Remove the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
