"""The folder of a run: who may write there, whether its run resumes or is replaced, and which files a run writes."""

import atexit
import contextlib
import json
import os
import pathlib
import shutil
import tempfile

from absl import flags

from recipes.shared import commandline, paths, run_flags, workdir_checks, writing
from recipes.shared.record import InUse, Record

flags.DEFINE_string("workdir", None, "Folder of the run: a new or empty folder, or that of a run to resume.")
flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace the run in --workdir if it is finished or has other flags. An unfinished run with the same flags resumes.",
)
FLAGS = flags.FLAGS
# A run may resume with other values of these.
FREE = {"workdir", "overwrite", "backend", "strategy", "devices", "model_devices", "accumulate", "workers", "data_dir"}
FREE |= {
    "pictures",
    "probe",
    "probe_limit",
    "probe_every",
    "save_every",
    "keep_every",
    "rewind",
    "max_bad_fraction",
    "logger",
}
FLAGS_FILE, METRICS, DATA = "run.flags", "metrics.jsonl", "data.json"
CHECKPOINTS = "checkpoints"
SHOWN = (("results", "result.json"), ("results", "probe.json"), ("best", "best.keras"))  # at the end of a run
SHOWN += (("model", "model.keras"), ("report", "report.html"))
RESULTS = ("model.keras", "result.json", "probe.json", "report.html", "pictures")  # besides METRICS and CHECKPOINTS


@contextlib.contextmanager
def opened(host=0, free=(), auto=()):
    """Open the run in --workdir, which either resumes or begins. See `held`.

    `free` names flags, besides those in `FREE`, that may have other values when a run resumes. `auto` names flags that
    are None unless given; a run that resumes takes them from its run.flags.

    Raises:
        BadInput: if the folder holds a run with other flags that has trained, and --overwrite was not given.
        SystemExit: if the folder holds this run, and it is finished.
    """
    with held(host) as run:
        run.decide({*FREE, *free}, auto)
        yield run


@contextlib.contextmanager
def held(host=0):
    """Hold the `Run` in --workdir, so that no other process can use it. A run that is refused leaves no file.

    If there are several hosts, only the first writes there; the others write to temporary folders.

    Raises:
        BadInput: if the folder is not empty and holds no run, or if another process holds it.
    """
    commandline.require("workdir")
    folder = pathlib.Path(FLAGS.workdir)
    record, made = None, []
    try:
        workdir_checks.check_folder(folder)
        if not host:
            made = writing.make_folders(folder)
            record = Record(folder)
        run = Run(folder, record)
    except InUse:
        raise commandline.BadInput(
            f"Another process is running in --workdir={folder}; wait until it ends, or choose another folder."
        ) from None
    except OSError as error:
        writing.remove_empty(made)
        raise commandline.BadInput(
            f"Expected a --workdir that can be written to, received {folder} ({error.strerror})."
        ) from error
    try:
        yield run
    finally:
        if record:
            record.close(remove=record.new and not run.started and os.listdir(folder) == [record.path.name])
            writing.remove_empty(made)


class Run:
    """The files of a run.

    Attributes:
        home: path of --workdir.
        folder: path of the folder to write to; a temporary one on all hosts but the first.
        resumed: whether the run resumes from a checkpoint.
    """

    def __init__(self, home, record):
        self.home = home
        self.record = record
        self.folder = home if record else _temporary_folder()
        self.resumed = False
        self.started = False

    def decide(self, free, auto=()):
        """Decide whether the run in the folder resumes or is replaced, and stop if it must not be touched."""
        workdir_checks.check_data(self.home)
        before = self.home / FLAGS_FILE
        taken = run_flags.take(before, auto)
        begun = any((self.home / CHECKPOINTS).glob("*.checkpoint"))
        if begun and not before.is_file() and not FLAGS.overwrite:
            raise commandline.BadInput(
                f"File not found: {before}, which lists the flags of the checkpoints; choose another --workdir."
            )
        # A start that failed before its first step is no run: it is replaced, whatever its flags.
        replaced = FLAGS.overwrite or not has_results(self.home)
        other = run_flags.differences(before, self.home, __name__, free) if before.is_file() else []
        # A folder of images that was only moved, with the same files in it, is the same data.
        if "--dataset" in other and self._data_moved():
            other.remove("--dataset")
        if not replaced and (unknown := [name for name in other if name.removeprefix("--") not in FLAGS]):
            names = f"a run of another recipe or version with {', '.join(unknown[:3])}"
            kind = "a pre-training run" if "--method" in unknown else names
            raise commandline.BadInput(
                f"Expected a new --workdir, received {self.home}, which holds {kind}; choose another folder."
            )
        if other and not replaced:
            raise commandline.BadInput(
                f"Expected a new --workdir, received {self.home}, which holds a run with other values of"
                f" {_first(other)}. Choose another folder, use the values in {before}, or replace that run with"
                " --overwrite."
            )
        finished = before.is_file() and (self.home / "model.keras").exists()
        if finished and not FLAGS.overwrite:
            print(
                f"{self.home} already holds this run, finished. Choose another --workdir for a new run, or replace it"
                " with --overwrite.",
                flush=True,
            )
            raise SystemExit(0)
        self.resumed = begun and before.is_file() and not other and not finished
        if not self.resumed:
            for name in taken:
                FLAGS[name].value = None
            if self.record:
                self._check_removal()

    def _data_moved(self):
        from keras_splitmask.data import scan

        return any(scan.is_moved(self.home / DATA, path) for path in paths.paths_of("dataset"))

    def _check_removal(self):
        """Stop if replacing the run would delete a file that a flag names, or if there are checkpoints that the run did
        not write."""
        files = self.record.files()
        for name in sorted({*paths.PATHS, *paths.DATASETS} - {"workdir"}):
            for path in map(pathlib.Path, paths.paths_of(name)):
                if any(file.resolve().is_relative_to(path) for file in files):
                    raise commandline.BadInput(
                        f"The run would delete --{name}={path} in {self.home}; choose another --workdir."
                    )
        for path in sorted((self.home / CHECKPOINTS).glob("*.checkpoint")):
            if path not in files:
                raise commandline.BadInput(
                    f"{path} is a checkpoint that this run did not write; move it, or choose another --workdir."
                )

    def has(self, name):
        """Return whether the file exists and an earlier process of this run wrote it."""
        return (self.home / name).is_file() and (self.record is None or self.record.has(name))

    def start(self, source=None, listed=False):
        """Remove the run that is replaced, and write run.flags; with `listed`, also the images of the source to
        subset.txt."""
        if self.record and not self.resumed:
            self.record.clear()
        self.write_text(FLAGS_FILE, run_flags.text(__name__))
        self.file(METRICS)
        if source:
            source.record = self.file(DATA)
        if listed:
            self.write_text("subset.txt", "".join(f"{source.name(i)}\n" for i in range(len(source))))

    def file(self, name):
        """Return the path of a file that the run will write, such as "pictures/detections.png". A file of the user's
        there is renamed."""
        path = self.folder / name
        if self.record:
            self.started = True
            if os.path.lexists(path.parent) and not path.parent.is_dir():  # such as a file named pictures
                _put_aside(path.parent)
            if os.path.lexists(path) and not self.record.has(name):
                _put_aside(path)
            self.record.add(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_text(self, name, text):
        writing.write_text(self.file(name), text)

    def write_json(self, name, values):
        writing.write_json(self.file(name), values)

    def write_report(self):
        """Write report.html from the other files of the run."""
        from keras_splitmask import evaluation

        self.file("report.html")
        evaluation.write_report(self.folder)

    def save_model(self, model, name=None):
        """Write the model completely or not at all. By default it is the run's model, which is written last: a folder
        with model.keras holds a finished run."""
        from keras_splitmask.interchange import MODEL_FILE

        name = name or MODEL_FILE
        # "part-" in front, since Keras saves this format only to names that end in .keras.
        part = self.file(f"part-{name}")
        with writing.aside(self.file(name), part.name):
            model.save(part)

    def show_files(self):
        """Print where the results, the model and the report of the run are."""
        for title, name in SHOWN:
            if self.has(name):
                print(f"{title:<10}{self.folder / name}", flush=True)

    def checkpoints(self, model, **options):
        """Create the checkpoints of the run, and load the newest one into the compiled model. Their `step` is where
        training resumes."""
        from keras_splitmask import training

        run = self

        class Recorded(training.Checkpoints):
            def write(self, arrays):
                run.file(f"{CHECKPOINTS}/step-{self.step:010d}.checkpoint")
                super().write(arrays)

        checkpoints = Recorded(self.home / CHECKPOINTS, **options)
        if self.resumed and checkpoints.resume(model):
            print(f"resumed at step {checkpoints.step}", flush=True)
        return checkpoints


def has_results(home):
    """Return whether a folder holds more of a run than what its start writes: run.flags, data.json, subset.txt and what
    was measured before the first step."""
    if any((home / name).exists() for name in RESULTS) or any((home / CHECKPOINTS).glob("*")):
        return True
    try:
        lines = (home / METRICS).read_bytes().split(b"\n")[:-1]
        return any(json.loads(line)["step"] for line in lines)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):  # not a log of this version
        return True


def _temporary_folder():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="keras-splitmask-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _put_aside(path):
    """Rename a file of the user's that is in the way of a file of the run, and print a line about it."""
    number = next(n for n in range(1, 10**6) if not os.path.lexists(path.with_name(f"{path.name}.{n}")))
    path.rename(path.with_name(f"{path.name}.{number}"))
    print(f"{path} was not written by this run; renamed it to {path.name}.{number}", flush=True)


def _first(names):
    """Join the first few names of flags, since those of another program differ in dozens."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
