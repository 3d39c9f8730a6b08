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
    except Exception as error:
        if not (line := _line_for_user(error)):
            raise
        print(f"{pathlib.Path(sys.argv[0]).name}: {line}", file=sys.stderr)
        raise SystemExit(2)


def _line_for_user(error):
    """The error's message on one line if absl or this project wrote it for the user; nothing if a library failed us."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    if isinstance(error, (flags.Error, BadInput)) or (
        isinstance(error, (ValueError, ImportError)) and "keras_splitmask" in pathlib.Path(raised_in).parts
    ):
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


def image_shape(source):
    """(height, width, channels) to work at: --image_size, or an array's own size, or 224."""
    own_size = FLAGS.dataset.split(":")[0] in ("sample", "npz", "npy")
    return *(image_size() or (source.image_shape[:2] if own_size else (224, 224))), source.image_shape[-1]


def read_labelled(dataset, split, shape, limit=None, ratio=1.0):
    """Images (M, H, W, C) of this shape and labels (M,) of a split of a labelled set."""
    from keras_splitmask import data

    images, labels = data.read_all(data.open_source(dataset, split, FLAGS.data_dir, shape[-1]), shape, limit, ratio)
    if labels is None:
        raise BadInput(f"Expected a labelled set, received {dataset}, which has no labels; put the images of each class into a folder.")
    return images, labels


def read_probe(shape):
    """Images and labels of --probe, which must not be the training images, or None if it was left out."""
    if not FLAGS.probe:
        return None
    for split in ("test", "val", "train"):
        try:
            images, labels = read_labelled(FLAGS.probe, split, shape, FLAGS.probe_limit)
            break
        except ValueError:
            if split == "train":
                raise
    if split == "train" and FLAGS.probe == FLAGS.dataset:
        raise BadInput(f"Expected --probe to be a labelled set apart from the training images, received {FLAGS.probe} for both.")
    return images, labels


def jit():
    """Whether to compile the step with XLA. On CPUs TensorFlow's own kernels are faster than XLA's."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return "auto"
    if FLAGS.jit is not None:
        return FLAGS.jit
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))


def fit(model, batches, steps, interval, log):
    """`fit` for exactly `steps` steps, where each Keras epoch is one interval of the log."""
    interval = min(interval, steps)
    model.fit(batches, steps_per_epoch=interval, epochs=steps // interval, callbacks=[log], verbose=0, shuffle=False)


def start_run():
    """Make the folder of the run, write the resolved flags into it, and return its path."""
    workdir = pathlib.Path(FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    own = {flag.name: flag for module in (sys.argv[0], __name__) for flag in FLAGS.get_key_flags_for_module(module)}
    lines = [flag.serialize() for name, flag in sorted(own.items()) if flag.value is not None]
    write_text(workdir / "run.flags", "\n".join(line for line in lines if line) + "\n")
    return workdir


def write_text(path, text):
    """Write a whole file or nothing."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    os.replace(aside, path)


def save_model(workdir, model):
    """Write the model into the folder of its run, whole or not at all."""
    from keras_splitmask.interchange import MODEL_FILE

    aside = workdir / f"part-{MODEL_FILE}"
    model.save(aside)
    os.replace(aside, workdir / MODEL_FILE)


def write_json(path, values):
    write_text(path, json.dumps(values, indent=1) + "\n")
