"""Files that are written completely or not at all."""

import contextlib
import csv
import json
import os


@contextlib.contextmanager
def aside(path, name):
    """Yield the path of a temporary file beside `path`. It replaces `path` at the end, or is removed on an error."""
    part = path.with_name(name)
    try:
        yield part
        # A reader sees the old file or the new one, never half of one.
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


@contextlib.contextmanager
def csv_file(path, columns):
    """Yield a writer of rows, whose first row is written, for a file that is complete or not there."""
    # newline="": the writer of csv ends its lines by itself.
    with aside(path, f"{path.name}.part") as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield writer


def write_items(path, head, items):
    """Write a JSON object, one line per name, whose last member is a list of one line per item. With an empty `head`
    the list alone. Items are not kept in memory."""
    with aside(path, f"{path.name}.part") as part, open(part, "w", encoding="ascii") as file:
        file.write("{\n" if head else "")
        for name, value in head.items():
            file.write(f"{json.dumps(name)}: {json.dumps(value)},\n")
        file.write('"images": [' if head else "[")
        for i, item in enumerate(items):
            file.write(("," if i else "") + "\n" + json.dumps(item))
        file.write("\n]" + ("\n}\n" if head else "\n"))


def make_folders(folder):
    """Create a folder and its parents, and return the created ones, innermost first. If one fails, none is left."""
    # os.path: an error for a name that is too long is one of creating it.
    new = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(new)
        raise
    return new


def remove_empty(folders):
    """Remove the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
