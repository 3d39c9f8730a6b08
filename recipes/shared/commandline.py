"""The command line of every recipe: flags, one clear line for bad input, and an orderly end."""

import contextlib
import errno
import importlib.util
import math
import os
import pathlib
import signal
import sys
import traceback

from absl import flags

from recipes.shared import children, flag_names, flagfiles, help, noise, paths, screen

BACKENDS = ("tensorflow", "jax", "torch")
LARGEST = 2**63  # of whole numbers
_signals = []  # signals that asked to stop

# These do not change the result.
flags.DEFINE_enum(
    "backend", None, BACKENDS, "Keras backend. Default: $KERAS_BACKEND, or the first of these that is installed."
)
flags.DEFINE_enum(
    "precision",
    "float32",
    ("float32", "bfloat16", "float16"),
    "Number format of the computation; weights stay float32. bfloat16 is faster on GPUs and TPUs, float16 on old GPUs.",
)
FLAGS = flags.FLAGS
# Flags of shared modules that run.flags lists beside the recipe's own.
SHARED = ("workdir", "overwrite", "backend", "precision", "strategy", "devices", "model_devices", "logger")
REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Make room") | dict.fromkeys(
    (errno.EIO, errno.EROFS, errno.ESTALE), "Check that disk"
)


class BadInput(ValueError):
    """A bad value from the user. Only its message is shown, in one line."""


def run(main, settle_flags=lambda: None, computes=True, required=()):
    """Parse the flags, complete them by `settle_flags()`, choose the backend and run `main()`.

    Flags that are `required` are checked before the backend is imported, which takes seconds.
    A program that `computes` gets Keras with the number format of --precision; for others, Keras is not imported here.

    Bad input ends in one line and exit status 2. A full or failing disk, SIGTERM, Ctrl-C and a closed terminal end in
    one line and status 75.
    """
    asked = help.wanted(sys.argv[1:])
    with screen.kept_open(report=not asked), _stopped_by_signals():  # who pages through the help needs no more
        if asked:
            print(help.text(full=asked == "helpfull"))
            return
        children.end_with_parent()
        try:
            for name in SHARED:
                if name in FLAGS:
                    FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])
            rest = FLAGS([sys.argv[0], *flagfiles.expanded(sys.argv[1:])])[1:]
            if rest:
                raise BadInput(f"Expected flags only, received {' '.join(rest)!r}; write --name=value.")
            _check_finite()
            _check_current_folder()
            paths.expand()
            settle_flags()
            with noise.dropped():
                _choose_backend()
                require(*required)
                if computes:
                    _set_precision()
                main()
        except Exception as error:
            remedy = REMEDIES.get(error.errno) if isinstance(error, OSError) else None
            if not (
                line := f"{error}. {remedy}, then run the same command again." if remedy else _line_for_user(error)
            ):
                raise
            print(f"{screen.name()}: {line}", file=sys.stderr)
            raise SystemExit(os.EX_TEMPFAIL if remedy else 2) from error


def _check_finite():
    """Stop if a flag is NaN, which is within all bounds, infinite, or too large to compute with."""
    for name in FLAGS:
        value = FLAGS[name].value
        kind = FLAGS[name].parser.syntactic_help
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"Expected --{name} to be {kind}, received {value}; choose another.")
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise BadInput(f"Expected --{name} to be {kind} below 2**63, received {str(value)[:40]}; choose another.")


def _check_current_folder():
    try:
        os.getcwd()
    except OSError as error:
        raise BadInput(
            f"The current folder no longer exists: {os.environ.get('PWD', 'unknown')}. Change to another one with cd."
        ) from error


@contextlib.contextmanager
def _stopped_by_signals():
    """End on a signal with one line, before and after training. During training `training.Checkpoints` handles it.

    Ignored signals stay ignored, such as SIGHUP under nohup.
    """
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    _signals.clear()
    before = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number, frame):
    said = bool(_signals) or children.is_child()
    _signals.append(number)
    if not said:
        print(f"Stopped by {signal.Signals(number).name}. Run the same command to resume.", flush=True)
    raise SystemExit(os.EX_TEMPFAIL)  # the same status as during training, which schedulers read


def stop_if_asked():
    """Stop if `_stop` was called where its exception was lost, such as in a library or in `__del__`."""
    if _signals:
        raise SystemExit(os.EX_TEMPFAIL)


def _line_for_user(error):
    """Return an error's message in one line if absl or this project raised it for the user; None for a bug."""
    raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    library = sys.modules.get("keras_splitmask")
    ours = library and raised_in.is_relative_to(pathlib.Path(library.__file__).parent)
    if isinstance(error, (flags.Error, BadInput)):
        return flag_names.with_kind(" ".join(str(error).split()))
    if ours and isinstance(error, (ValueError, ImportError, FloatingPointError)):
        return flag_names.with_flags(" ".join(str(error).split()))
    # TensorFlow wraps an error of the input pipeline in a message of its own.
    lines = (line.split("ValueError: ", 1)[1] for line in str(error).splitlines() if "ValueError: Expected " in line)
    return flag_names.with_flags(next(lines, "")) or None


def _choose_backend():
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    backend = FLAGS.backend or os.environ.get("KERAS_BACKEND") or (installed or BACKENDS)[0]
    if backend not in BACKENDS:
        raise BadInput(f"Expected the backend to be one of {', '.join(BACKENDS)}, received KERAS_BACKEND={backend!r}.")
    if not installed:
        raise BadInput(
            "Keras needs a backend, and none is installed. Run one of: pip install torch; pip install tensorflow;"
            " pip install jax"
        )
    if backend not in installed:
        others = " or ".join(f"--backend={name}" for name in installed)
        raise BadInput(f"The backend {backend} is not installed. Use {others}, or run: pip install {backend}")
    FLAGS.backend = os.environ["KERAS_BACKEND"] = backend  # run.flags lists it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only


def _set_precision():
    import keras

    keras.config.set_dtype_policy("float32" if FLAGS.precision == "float32" else f"mixed_{FLAGS.precision}")


def require(*names):
    """Stop unless these flags are set."""
    for name in names:
        if FLAGS[name].value in (None, ""):  # "": as in --workdir=$UNSET
            raise BadInput(f"Expected --{name}: {FLAGS[name].help.rstrip('.')}; received none.")
