"""The folder of a program's results: who may write there, and whether the program resumes or begins again."""

import contextlib
import json
import os

from absl import flags

from recipes.shared import commandline, paths, writing
from recipes.shared.record import InUse, Record

flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace results in --output that were computed with other flags, another model or other images.",
)
FLAGS = flags.FLAGS
SETTINGS = "settings.json"


@contextlib.contextmanager
def opened(folder, settings, last, clear=lambda: None):
    """Hold a folder for results, so that no other process can use it. A folder that is refused stays as it was.

    Args:
        folder: `pathlib.Path` of a new or empty folder, or one of earlier results.
        settings: {name: value} of everything that the results depend on, for JSON.
        last: name of the file that is written last.
        clear: a function that removes files of earlier results that the record does not list.

    Yields:
        A `Record`, or None if the results are complete.

    Raises:
        BadInput: if the folder holds anything else, or results of other settings without --overwrite.
    """
    record, made = None, []
    try:
        _check_folder(folder)
        with _writable():
            made = writing.make_folders(folder)
            record = Record(folder)
        # As JSON returns them, to be compared: tuples become lists.
        settings = json.loads(json.dumps(settings))
        before = _before(folder, record)
        # With --overwrite, complete results of the same settings are computed again; others go on.
        if before is not None and (before != settings or (FLAGS.overwrite and record.has(last))):
            _check_overwrite(folder, before, settings)
            clear()
            _clear(folder, record)
            before = None
        if before is None:
            record.add(SETTINGS)
            writing.write_json(folder / SETTINGS, settings)
        yield None if record.has(last) else record
    except InUse:
        raise commandline.BadInput(
            f"Another process is writing to --output={folder}; wait until it ends, or choose another one."
        ) from None
    finally:
        if record:
            record.close(remove=not record.names and os.listdir(folder) == [record.path.name])
        writing.remove_empty(made)


@contextlib.contextmanager
def removed_if_empty(record, part, has_results):
    """Remove what was written so far if a ValueError comes before the first result: the next command need not have the
    same settings, since there is nothing to go on with.

    Args:
        record: the `Record` of the folder.
        part: the open file or files of the results so far, which are closed first.
        has_results: a function that returns whether there are some.
    """
    try:
        yield
    except ValueError:
        if not has_results():
            part.close()
            record.clear()
        raise


@contextlib.contextmanager
def _writable():
    """Turn an error about the folder into one line about --output. A full or failing disk has a line of its own."""
    try:
        yield
    except OSError as error:
        if error.errno in commandline.REMEDIES:
            raise
        raise commandline.BadInput(
            f"Expected an --output that can be written to, received {FLAGS.output} ({error.strerror}); choose another."
        ) from error


def _check_folder(folder):
    from keras_splitmask.data import run_folders

    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder):
        raise commandline.BadInput(f"Expected --output to be a folder, received {folder}, which is a file.")
    names = sorted(os.listdir(folder))
    if names and not run_folders.is_record(folder / run_folders.RECORD):
        raise commandline.BadInput(
            f"Expected --output to be a new or empty folder, or one of earlier results, received {folder}, which"
            f" contains {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}; choose another folder."
        )


def _before(folder, record):
    """The settings of earlier results, or None if there are none."""
    if record.names and SETTINGS not in record.names:
        raise commandline.BadInput(
            f"Expected --output to be a folder of results, received {folder}, which holds a run; choose another folder."
        )
    try:
        return json.loads((folder / SETTINGS).read_text(encoding="utf-8")) if record.has(SETTINGS) else None
    except ValueError:
        return None


def _check_overwrite(folder, before, settings):
    if FLAGS.overwrite:
        return
    other = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
    raise commandline.BadInput(
        f"Expected a new --output, received {folder}, which holds results with other values of {', '.join(other[:3])}."
        " Choose another --output, or replace the results with --overwrite."
    )


def _clear(folder, record):
    """Remove the files of earlier results, and the folders that are then empty."""
    folders = sorted({path.parent for path in record.files()} - {folder}, reverse=True)
    record.clear()
    writing.remove_empty(folders)


def check_apart(output):
    """Stop if --output lies in a folder of --images, where it would be read as images later."""
    real = os.path.realpath(output)
    for path in paths.paths_of("images"):
        if os.path.isdir(path) and (real == path or real.startswith(os.path.join(path, ""))):
            raise commandline.BadInput(
                f"Expected --output outside of the images, received {output}, which is in {path}; choose another place."
            )
