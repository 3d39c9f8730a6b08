"""What every recipe does around its work: flags in, one clear line for bad input, and the folder of a run."""

import atexit
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import traceback

from absl import app, flags

BACKENDS = ("tensorflow", "jax", "torch")

# These do not change the result.
flags.DEFINE_enum("backend", None, BACKENDS, "Keras backend. Left out: $KERAS_BACKEND, or the first of these that is installed.")
flags.DEFINE_enum("precision", "float32", ("float32", "bfloat16", "float16"), "bfloat16 is faster on GPUs and TPUs, float16 on old GPUs; weights stay float32.")
flags.DEFINE_string("workdir", None, "Folder for what the run leaves behind.")
flags.DEFINE_bool("overwrite", False, "Replace the run that is in --workdir already.")
FLAGS = flags.FLAGS
LEFT_BEHIND = ("run.flags", "metrics.jsonl", "model.keras", "result.json", "probe.json", "report.html", "subset.txt", "pictures/*.png", "checkpoints/*", "data.json")
# A run may go on with other values of these.
FREE = {"backend", "strategy", "devices", "model_devices", "accumulate", "workers", "data_dir", "jit"}
FREE |= {"pictures", "probe", "probe_limit", "probe_every", "save_every", "keep_every", "rewind", "max_bad_fraction"}


class BadInput(ValueError):
    """A bad value given by the user; its one line is all that they see."""


def run(main, settle_flags=lambda: None):
    """Parse the flags, `settle_flags()` which need it, choose the backend and run `main()`.

    Bad input ends in one line and exit status 2, SIGTERM in status 75.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        app.define_help_flags()
        rest = FLAGS(sys.argv)[1:]
        if rest:
            raise BadInput(f"Expected flags only, received {' '.join(rest)!r}; write --name=value.")
        settle_flags()
        _choose_backend()
        _check_workdir()
        main()
    except SystemExit as end:  # absl prints the help and leaves with 1
        raise SystemExit(0 if any(a.startswith(("--help", "-help")) for a in sys.argv) else end.code)
    except Exception as error:
        if not (line := _line_for_user(error)):
            raise
        print(f"{pathlib.Path(sys.argv[0]).name}: {line}", file=sys.stderr)
        raise SystemExit(2)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number, frame):
    """What SIGTERM does before training and after it; while it lasts, see `training.Checkpoints`."""
    print("stopped by SIGTERM; the same command goes on", flush=True)
    raise SystemExit(os.EX_TEMPFAIL)


def _line_for_user(error):
    """The error's message on one line if absl or this project wrote it for the user; nothing if a library failed us."""
    raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    library = sys.modules.get("keras_splitmask")
    ours = library and raised_in.is_relative_to(pathlib.Path(library.__file__).parent)
    if isinstance(error, (flags.Error, BadInput)) or (ours and isinstance(error, (ValueError, ImportError, FloatingPointError))):
        return " ".join(str(error).split())
    # TensorFlow hands an error of the input pipeline on inside a message of its own.
    return next((line.split("ValueError: ", 1)[1] for line in str(error).splitlines() if "ValueError: Expected " in line), None)


def _choose_backend():
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    backend = FLAGS.backend or os.environ.get("KERAS_BACKEND") or (installed or BACKENDS)[0]
    if backend not in BACKENDS:
        raise BadInput(f"Expected the backend to be one of {', '.join(BACKENDS)}, received KERAS_BACKEND={backend!r}.")
    if backend not in installed:
        raise BadInput(f"The backend {backend} is not installed; run: pip install 'keras-splitmask[{backend.replace('tensorflow', 'tf')}]'")
    FLAGS.backend = os.environ["KERAS_BACKEND"] = backend  # so that run.flags names it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    keras.config.set_dtype_policy("float32" if FLAGS.precision == "float32" else f"mixed_{FLAGS.precision}")


def _check_workdir():
    """Stop if the folder holds a run with other flags, or this run, finished."""
    workdir = pathlib.Path(FLAGS.workdir or "")
    if not FLAGS.workdir or FLAGS.overwrite or not workdir.exists():
        return
    if not workdir.is_dir():
        raise BadInput(f"Expected --workdir to be a folder, received {workdir}, which is a file.")
    before = (workdir / "run.flags").read_text() if (workdir / "run.flags").exists() else _resolved_flags()
    other = {line.lstrip("-").removeprefix("no").split("=")[0] for line in set(before.splitlines()) ^ set(_resolved_flags().splitlines())}
    if other := sorted(f"--{name}" for name in other - FREE):
        raise BadInput(
            f"Expected --workdir to be a new folder, received {workdir}, which holds a run with other values of {', '.join(other)}; "
            "choose another, or add --overwrite."
        )
    if (workdir / "model.keras").exists():
        print(f"{workdir} holds this run, finished; --overwrite makes it anew")
        raise SystemExit(0)


def resumes():
    """Whether there are checkpoints to go on from."""
    return not FLAGS.overwrite and any(pathlib.Path(FLAGS.workdir).glob("checkpoints/*.checkpoint"))


def _resolved_flags():
    """The flags of this recipe and their values, one a line, as --flagfile reads them."""
    own = {flag.name: flag for module in (sys.argv[0], __name__) for flag in FLAGS.get_key_flags_for_module(module)}
    lines = [flag.serialize() for name, flag in sorted(own.items()) if flag.value is not None and name != "overwrite"]
    return "\n".join(lines) + "\n"


def require(*names):
    """Stop unless these flags were given."""
    for name in names:
        if FLAGS[name].value is None:
            raise BadInput(f"Expected --{name}: {FLAGS[name].help}")


def image_size():
    """(height, width) from --image_size, such as 32 or 48x80; None if it was left out."""
    text = FLAGS.image_size
    sides = text.lower().split("x") if text else []
    if any(not side.isdigit() or not int(side) for side in sides) or len(sides) > 2:
        raise BadInput(f"Expected --image_size as 32 or 48x80 (height x width), received {text!r}.")
    return (int(sides[0]), int(sides[-1])) if sides else None


def image_shape(source):
    """(height, width, channels) to work at: --image_size, or an array's own size, or 224."""
    own_size = FLAGS.dataset.split(":")[0] in ("sample", "npz", "npy")
    return *(image_size() or (source.image_shape[:2] if own_size else (224, 224))), source.image_shape[-1]


def jit():
    """Whether to compile the step with XLA. On CPUs TensorFlow's own kernels are faster than XLA's."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return "auto"
    if FLAGS.jit is not None:
        return FLAGS.jit
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))


def open_checkpoints(model, **options):
    """The checkpoints of the run, the newest of which the compiled model is given; their `step` is where to go on."""
    from keras_splitmask import training

    checkpoints = training.Checkpoints(pathlib.Path(FLAGS.workdir) / "checkpoints", **options)
    if resumes() and checkpoints.resume(model):
        print(f"resumed at step {checkpoints.step}", flush=True)
    return checkpoints


def fit(model, batches, steps, interval, log, checkpoints):
    """`fit` up to `steps` steps, where each Keras epoch is one interval of the log; the first and the last may be shorter.

    `batches(start)` gives the batches from a step on. Of a run of no steps the log has what it measures beforehand.
    """
    if not steps:
        log.on_train_begin()
    with contextlib.closing(log), checkpoints.listening():
        while (start := checkpoints.step) < steps:
            length = min(interval - start % interval, steps - start)
            epochs = (steps - start) // interval if length == interval else 1
            feed = checkpoints.devices.feed(lambda: log.timed(batches(start), measured=checkpoints.devices.strategy is None))
            model.fit(feed, steps_per_epoch=length, epochs=epochs, callbacks=[log, checkpoints], verbose=0, shuffle=False)
        if checkpoints.saved < steps:
            checkpoints.save()


def start_run(source=None, listed=False, host=0):
    """Make the folder of the run, write the resolved flags and what the source is into it, and return its path.

    What another run left there is removed. `listed` is whether to write down which images the source has. Of several hosts the first
    works in --workdir; the others get folders that are forgotten.
    """
    workdir = pathlib.Path(tempfile.mkdtemp(prefix="keras-splitmask-") if host else FLAGS.workdir)
    if host:
        atexit.register(shutil.rmtree, workdir, ignore_errors=True)
        if source:
            source.record = None
    workdir.mkdir(parents=True, exist_ok=True)
    for pattern in LEFT_BEHIND if not resumes() else ():
        for path in workdir.glob(pattern):
            path.unlink()
    write_text(workdir / "run.flags", _resolved_flags())
    if source:
        source.save_record()
        if listed:
            write_text(workdir / "subset.txt", "".join(f"{source.name(i)}\n" for i in range(len(source))))
    return workdir


def write_text(path, text):
    """Write a whole file or nothing."""
    with _aside(path, f"{path.name}.part") as aside:
        aside.write_text(text)


def save_model(workdir, model):
    """Write the model into the folder of its run, whole or not at all."""
    from keras_splitmask.interchange import MODEL_FILE

    with _aside(workdir / MODEL_FILE, f"part-{MODEL_FILE}") as aside:
        model.save(aside)


@contextlib.contextmanager
def _aside(path, name):
    """The path of a file of this name beside `path`, which takes its place when it is complete, or is removed."""
    aside = path.with_name(name)
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_json(path, values):
    write_text(path, json.dumps(values, indent=1) + "\n")
