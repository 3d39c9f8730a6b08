"""Whether a folder may be the --workdir of a run: nothing of the user's is in it, and it is not itself data."""

import contextlib
import os
import pathlib

from absl import flags

from recipes.shared import commandline, noise, paths

FLAGS = flags.FLAGS


def check_folder(folder):
    """Stop unless the folder is new, empty or that of a run. It may hold a file that this process prints into."""
    from keras_splitmask.data import run_folders

    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise commandline.BadInput(
            f"Expected --workdir to be a folder, received {folder}, which is"
            f" {'a broken link' if folder.is_symlink() else 'a file'}."
        )
    names = [name for name in sorted(os.listdir(folder)) if not _is_own_output(folder / name)]
    record = folder / run_folders.RECORD
    if run_folders.is_record(record) or (
        names == [record.name] and record.is_file() and not record.stat().st_size
    ):  # killed when it began
        return
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise commandline.BadInput(
            f"Expected --workdir to be a new or empty folder, or that of a run, received {folder}, which contains"
            f" {', '.join(names[:3])}{more}; choose another folder."
        )


def _is_own_output(path):
    """Return whether stdout or stderr goes to this file."""
    for descriptor in (1, noise.direct or 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return True
    return False


def check_data(home):
    """Stop if --workdir or --cache is a folder of the data, which would then no longer be read as data."""
    cache = paths.paths_of("cache")
    for name in paths.DATASETS:
        if os.path.realpath(home) in paths.paths_of(name):
            raise commandline.BadInput(f"Expected --workdir to differ from --{name}, received {home} for both.")
        if cache and any(
            os.path.isdir(path) and pathlib.Path(path).is_relative_to(cache[0]) for path in paths.paths_of(name)
        ):
            raise commandline.BadInput(
                f"Expected --cache to be apart from the images, received {FLAGS.cache}, which contains those of"
                f" --{name}; choose another folder."
            )
