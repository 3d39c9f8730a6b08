"""What every recipe does around its work: flags in, one clear line for bad input, and the folder of a run."""

import importlib.util
import json
import os
import pathlib
import sys
import traceback

from absl import app, flags

BACKENDS = ("tensorflow", "jax", "torch")

# These do not change the result.
flags.DEFINE_enum("backend", None, BACKENDS, "Keras backend. Left out: $KERAS_BACKEND, or the first of these that is installed.")
flags.DEFINE_enum("precision", "float32", ("float32", "bfloat16"), "bfloat16 is faster on GPUs and TPUs; weights stay float32.")
flags.DEFINE_string("workdir", None, "Folder for what the run leaves behind.")
FLAGS = flags.FLAGS


class BadInput(ValueError):
    """A bad value given by the user; its one line is all that they see."""


def run(main):
    """Parse the flags, choose the backend and run `main()`. Bad input ends in one line and exit status 2."""
    try:
        app.define_help_flags()
        rest = FLAGS(sys.argv)[1:]
        if rest:
            raise BadInput(f"Expected flags only, received {' '.join(rest)!r}; write --name=value.")
        _choose_backend()
        main()
    except SystemExit as end:  # absl prints the help and leaves with 1
        raise SystemExit(0 if any(a.startswith(("--help", "-help")) for a in sys.argv) else end.code)
    except (flags.Error, ValueError) as error:
        if not _is_ours(error):
            raise
        print(f"{pathlib.Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2)


def _is_ours(error):
    """Whether the message was written for the user, by absl or in this project, and not by a library that we misuse."""
    if isinstance(error, (flags.Error, BadInput)):
        return True
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return "keras_splitmask" in pathlib.Path(raised_in).parts


def _choose_backend():
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    backend = FLAGS.backend or os.environ.get("KERAS_BACKEND") or (installed or BACKENDS)[0]
    if backend not in BACKENDS:
        raise BadInput(f"Expected the backend to be one of {', '.join(BACKENDS)}, received KERAS_BACKEND={backend!r}.")
    if backend not in installed:
        raise BadInput(f"The backend {backend} is not installed; run: pip install 'keras-splitmask[{backend.replace('tensorflow', 'tf')}]'")
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    keras.config.set_dtype_policy({"float32": "float32", "bfloat16": "mixed_bfloat16"}[FLAGS.precision])


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


def start_run():
    """Make the folder of the run, write the resolved flags into it, and return its path."""
    workdir = pathlib.Path(FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    own = {flag.name: flag for module in (sys.argv[0], __name__) for flag in FLAGS.get_key_flags_for_module(module)}
    lines = [flag.serialize() for name, flag in sorted(own.items()) if name != "flagfile" and flag.value is not None]
    write_text(workdir / "run.flags", "\n".join(line for line in lines if line) + "\n")
    return workdir


def write_text(path, text):
    """Write a whole file or nothing."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    os.replace(aside, path)


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1) + "\n")
