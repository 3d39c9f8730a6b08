"""What every recipe does around its work: flags in, one clear line for bad input, and an orderly end."""

import contextlib
import errno
import importlib.util
import os
import pathlib
import signal
import sys
import traceback

from absl import app, flags

from recipes.shared import children, flagfiles, places, screen

BACKENDS = ("tensorflow", "jax", "torch")
_asked = []  # signals that asked to stop

# These do not change the result.
flags.DEFINE_enum(
    "backend", None, BACKENDS, "Keras backend. Left out: $KERAS_BACKEND, or the first of these that is installed."
)
flags.DEFINE_enum(
    "precision",
    "float32",
    ("float32", "bfloat16", "float16"),
    "bfloat16 is faster on GPUs and TPUs, float16 on old GPUs; weights stay float32.",
)
FLAGS = flags.FLAGS
REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Make room") | dict.fromkeys(
    (errno.EIO, errno.EROFS, errno.ESTALE), "Check that disk"
)


class BadInput(ValueError):
    """A bad value given by the user; its one line is all that they see."""


def run(main, settle_flags=lambda: None):
    """Parse the flags, `settle_flags()` which need it, choose the backend and run `main()`.

    Bad input ends in one line and exit status 2; a full or failing disk, SIGTERM, Ctrl-C and a terminal that is closed,
    in one line and status 75.
    """
    with screen.kept_open(), _stopped_by_signals():
        children.end_with_parent()
        try:
            app.define_help_flags()
            rest = FLAGS([sys.argv[0], *flagfiles.expanded(sys.argv[1:])])[1:]
            if rest:
                raise BadInput(f"Expected flags only, received {' '.join(rest)!r}; write --name=value.")
            _check_here()
            places.expand()
            settle_flags()
            _choose_backend()
            main()
        except SystemExit as end:  # absl prints the help and leaves with 1
            raise SystemExit(0 if any(a.startswith(("--help", "-help")) for a in sys.argv) else end.code) from None
        except Exception as error:
            remedy = REMEDIES.get(error.errno) if isinstance(error, OSError) else None
            if not (
                line := f"{error}. {remedy}, then run the same command again." if remedy else _line_for_user(error)
            ):
                raise
            print(f"{pathlib.Path(sys.argv[0]).name}: {line}", file=sys.stderr)
            raise SystemExit(os.EX_TEMPFAIL if remedy else 2) from error


def _check_here():
    try:
        os.getcwd()
    except OSError as error:
        raise BadInput(
            f"Expected a working folder that is there, received {os.environ.get('PWD', 'one')} ({error.strerror}); cd"
            " to another one."
        ) from error


@contextlib.contextmanager
def _stopped_by_signals():
    """Within it, before training and after it, what asks to stop does so in one line; while training lasts, see
    `training.Checkpoints`.

    What is ignored, as SIGHUP is under nohup, stays ignored.
    """
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    _asked.clear()
    before = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number, frame):
    _asked.append(number)
    print(f"stopped by {signal.Signals(number).name}; run the same command again to go on", flush=True)
    raise SystemExit(os.EX_TEMPFAIL)  # as while training, for schedulers, whichever signal it was


def stop_if_asked():
    """Stop after all, where `_stop` was called within a library that drops exceptions, as Python does within
    `__del__`."""
    if _asked:
        raise SystemExit(os.EX_TEMPFAIL)


def _line_for_user(error):
    """The error's message on one line if absl or this project wrote it for the user; nothing if a library failed us."""
    raised_in = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    library = sys.modules.get("keras_splitmask")
    ours = library and raised_in.is_relative_to(pathlib.Path(library.__file__).parent)
    if isinstance(error, (flags.Error, BadInput)) or (
        ours and isinstance(error, (ValueError, ImportError, FloatingPointError))
    ):
        return " ".join(str(error).split())
    # TensorFlow hands an error of the input pipeline on inside a message of its own.
    return next(
        (line.split("ValueError: ", 1)[1] for line in str(error).splitlines() if "ValueError: Expected " in line), None
    )


def _choose_backend():
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    backend = FLAGS.backend or os.environ.get("KERAS_BACKEND") or (installed or BACKENDS)[0]
    if backend not in BACKENDS:
        raise BadInput(f"Expected the backend to be one of {', '.join(BACKENDS)}, received KERAS_BACKEND={backend!r}.")
    if backend not in installed:
        raise BadInput(
            f"The backend {backend} is not installed; run: pip install"
            f" 'keras-splitmask[{backend.replace('tensorflow', 'tf')}]'"
        )
    FLAGS.backend = os.environ["KERAS_BACKEND"] = backend  # so that run.flags names it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    keras.config.set_dtype_policy("float32" if FLAGS.precision == "float32" else f"mixed_{FLAGS.precision}")


def require(*names):
    """Stop unless these flags were given."""
    for name in names:
        if FLAGS[name].value in (None, ""):  # as of --workdir=$UNSET
            raise BadInput(f"Expected --{name}: {FLAGS[name].help}")
