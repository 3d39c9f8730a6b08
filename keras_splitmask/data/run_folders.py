"""Recognise folders that this library wrote and that are never data: runs and caches of packed images."""

import os
import stat

RECORD = "run.files"  # lists the files of a run, in its folder
HEADER = "# keras_splitmask: the files of this run; no others are replaced or removed\n"


def what_is_written(folder):
    """Name what this library wrote into a folder, "a run" or "a cache"; None if nothing."""
    if is_record(os.path.join(folder, RECORD)):
        return "a run"
    # By names only: an index may list millions of images, and this is asked of every folder of a scan.
    if os.path.isfile(os.path.join(folder, "index.json")) and any(
        name.endswith(".array_record") for name in os.listdir(folder)
    ):
        return "a cache"
    return None


def is_record(path):
    """Return whether a file is the record of a run."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a FIFO waits for ever
            return False
        with open(path, "rb") as file:
            return file.read(len(HEADER)) == HEADER.encode()
    except OSError:
        return False
