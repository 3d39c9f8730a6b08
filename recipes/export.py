"""Export a trained model for use without this library.

    python recipes/export.py --init_from=runs/tuned --layout=onnx --output=runs/tuned-onnx
    python recipes/export.py --init_from=runs/quickstart --layout=vit --output=runs/quickstart-vit

Programs take images (B, H, W, C) uint8 of the encoder's size, for any B; all preprocessing but resizing is inside, and
so are the names of the classes. The input is called images. The layouts saved_model, onnx and litert are written by
TensorFlow, and torch by PyTorch, from runs of any backend:
  - a classifier returns "scores" (B, classes), probabilities;
  - a segmenter returns "labels" (B, H, W), the class of every pixel;
  - a detector returns "boxes" (B, K, 4), [top, left, bottom, right] in pixels of the given image; "scores" (B, K); and
    "labels" (B, K), -1 where there are no more objects. Mask R-CNN also returns "masks" (B, K, 28, 28), probabilities
    inside each box;
  - an encoder returns "pooled" (B, D), "cls" (B, D) and "feature_map" (B, rows, columns, D).

Each program is run by its own runtime, without Keras, on pictures of the sample, and refused if it answers otherwise
than the model.

The other layouts are weights. timm is for `timm.create_model("local-dir:PATH", pretrained=True)` and, with timm
installed, for Hugging Face's `pipeline("image-classification", model=PATH)`: a whole classifier with the names of its
classes, or an encoder. vit, deit, beit and mae are for `from_pretrained(PATH)` of Hugging Face's `ViTModel`,
`DeiTModel`, `BeitModel` and `ViTMAEModel`: the encoder alone, since their classifiers do not take the mean of the
patches, as ours does. Preprocessing is described in a file beside the weights.
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl import flags

from recipes.shared import commandline, earlier, model_card, runtimes, writing

# These change the result.
flags.DEFINE_string(
    "init_from",
    None,
    "Run folder, .keras file, or .safetensors file or folder of Hugging Face or timm, of the model to export.",
)
LIBRARIES = ("vit", "deit", "beit", "mae", "timm")
WHOLE = (*runtimes.RUNTIMES, "timm")  # layouts that can hold more than the encoder
flags.DEFINE_enum(
    "layout",
    "auto",
    ["auto", *runtimes.RUNTIMES, *LIBRARIES],
    "Format to write: a program that runs without Keras, for TensorFlow (saved_model), ONNX Runtime (onnx), LiteRT"
    " (litert) or PyTorch (torch); or weights: of a classifier or encoder for timm, of the encoder for Hugging Face"
    " (vit, deit, beit, mae). Default: auto, saved_model, or torch where only PyTorch is installed.",
)
flags.DEFINE_enum(
    "what",
    "auto",
    ["auto", "encoder", "model"],
    "The encoder, or the whole classifier, detector or segmenter. Default: auto, the whole model if the layout can hold"
    " it.",
)

# These do not.
flags.DEFINE_string("output", None, "Folder to write; it must not exist yet.")
FLAGS = flags.FLAGS
HOLD_CLASSIFIERS = "--layout=timm or --layout=onnx holds a whole classifier"
TOLERANCE = 1e-4  # relative to the largest output
PICTURES = 32  # of the sample, on which a program is compared with its model


def settle_flags():
    """Choose the program and the backend that writes it, and say what is missing before anything is loaded."""
    if FLAGS.layout == "auto":
        FLAGS.layout = "torch" if not _installed("tensorflow") and _installed("torch") else "saved_model"
    if FLAGS.layout not in runtimes.BACKENDS:
        return
    backend = runtimes.BACKENDS[FLAGS.layout]
    if FLAGS.backend not in (None, backend):
        raise commandline.BadInput(
            f"Expected --backend={backend} for --layout={FLAGS.layout}, received {FLAGS.backend}; leave it out. Runs of"
            " all backends can be exported."
        )
    packages = (backend, *runtimes.PACKAGES.get(FLAGS.layout, ()))
    if missing := [name for name in packages if not _installed(name)]:
        raise commandline.BadInput(
            f"--layout={FLAGS.layout} is written with {' and '.join(packages)}. Run: pip install {' '.join(missing)}"
        )
    FLAGS.backend = backend


def _installed(package):
    return importlib.util.find_spec(package.replace("-", "_"))


def load():
    """Load what is to be exported, in float32, whatever the precision of training."""
    import keras_splitmask as ks

    program, wanted = FLAGS.layout in runtimes.BACKENDS, FLAGS.what
    if wanted == "model" and FLAGS.layout not in WHOLE:
        raise commandline.BadInput(
            f"Expected --what=encoder with --layout={FLAGS.layout}, received --what=model; {HOLD_CLASSIFIERS}."
        )
    if FLAGS.layout in WHOLE and wanted != "encoder":
        model = ks.interchange.load(FLAGS.init_from)
        if isinstance(model, ks.transfer.Classifier) or (program and hasattr(model, "classes")):
            if program:
                ks.interchange.check_program(model, FLAGS.layout)
            for layer in model._flatten_layers():
                layer.dtype_policy = "float32"
            return model
        if wanted == "model":
            kinds = "classifier, detector or segmenter" if program else "classifier"
            raise commandline.BadInput(
                f"Expected a {kinds} in {FLAGS.init_from}, received a {type(model).__name__}; use --what=encoder."
            )
    return ks.interchange.load_encoder(FLAGS.init_from, print, dtype="float32")


def write(model, folder):
    """Write the model. Returns a function that answers images as the written one does: a dictionary of arrays."""
    import keras

    import keras_splitmask as ks

    if FLAGS.layout in runtimes.BACKENDS:
        ks.interchange.save_program(model, folder, FLAGS.layout)
        return lambda images: run_alone(folder, images)
    classifies = isinstance(model, ks.transfer.Classifier)
    save = ks.interchange.save_classifier if classifies else ks.interchange.save_encoder
    save(model, folder, FLAGS.layout)
    program = ks.interchange.program_of(ks.interchange.load(folder))
    return lambda images: {name: keras.ops.convert_to_numpy(value) for name, value in program(images).items()}


def run_alone(folder, images):
    """Run a program by its runtime, in a process without Keras. Returns its answers."""
    import numpy as np

    with tempfile.TemporaryDirectory() as aside:
        given, answers = pathlib.Path(aside, "images.npy"), pathlib.Path(aside, "answers.npz")
        np.save(given, images)
        command = [sys.executable, runtimes.__file__, FLAGS.layout, folder, given, answers]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            raise RuntimeError(f"The exported program does not run, so nothing was written:\n{child.stderr}")
        with np.load(answers) as file:
            return dict(file)


@contextlib.contextmanager
def written_aside(output):
    """Yield a temporary path, which is renamed to `output` at the end, or removed on an error."""
    made, aside = [], None
    try:
        made = writing.make_folders(output.parent)
        aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))  # a unique name
        yield aside / output.name
        os.rename(aside / output.name, output)
    except OSError as error:
        raise commandline.BadInput(
            f"Expected an --output that can be written, received {output} ({error.strerror or error})."
        ) from error
    finally:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)
        writing.remove_empty(made)


def pictures(shape):
    """Pictures of the sample, resized and with as many channels as the model takes: (n, *shape) uint8."""
    import numpy as np

    from keras_splitmask import data
    from keras_splitmask.data.resizing import resize

    source = data.open_source("sample", "test")
    return np.stack([np.repeat(resize(source.image(i), shape[:2]), shape[2], axis=-1) for i in range(PICTURES)])


def compare(model, answer):
    """Print how far the answers of what was written differ from the model's, and stop if they differ too much."""
    import keras
    import numpy as np

    import keras_splitmask as ks

    classifies = isinstance(model, ks.transfer.Classifier)
    images = pictures(getattr(model, "encoder", model).image_shape)
    found = ks.interchange.program_of(model)(keras.ops.convert_to_tensor(images))
    expected = {name: keras.ops.convert_to_numpy(value) for name, value in found.items()}
    received = answer(images)
    for name, value in expected.items():
        size = max(1.0, np.abs(value).max())
        differences = np.abs(value - received[name]) / size
        if f"first {name}" in received:  # of one image alone
            differences = np.concatenate([differences, np.abs(value[:1] - received[f"first {name}"]) / size])
        # Rounding decides between two boxes, or two classes of a pixel, with nearly equal scores.
        rounds = hasattr(model, "classes") and not classifies
        difference = np.quantile(differences, 0.99) if rounds else differences.max()
        print(f"{name:<12} {'x'.join(map(str, value.shape[1:])):<12} differs by {difference:.1e} after reloading")
        if not difference < TOLERANCE:
            raise RuntimeError(f"The exported {name} differ by {difference} from the model's; nothing was written.")
    if classifies:
        same = expected["scores"].argmax(-1) == received["scores"].argmax(-1)
        if not same.all():
            raise RuntimeError(f"The exported classes differ for {(~same).sum()} images; nothing was written.")


def main():
    output = pathlib.Path(FLAGS.output)
    if os.path.lexists(output):
        raise commandline.BadInput(f"Expected an --output that does not exist yet, received {output}.")
    model = load()
    with written_aside(output) as aside:
        compare(model, write(model, aside))
        (aside / "README.md").write_text(model_card.text_of(model, FLAGS.layout, FLAGS.init_from), encoding="utf-8")
    classes = earlier.result_of_run(FLAGS.init_from, "classes")
    alone = type(model).__name__ == "Encoder" and isinstance(classes, list)
    left = f", the encoder alone: the head for {len(classes)} classes stays in {FLAGS.init_from}" if alone else ""
    advice = f"; {HOLD_CLASSIFIERS}" if alone and FLAGS.layout not in WHOLE else ""
    print(f"exported  {output}{left}{advice}")


if __name__ == "__main__":
    commandline.run(main, settle_flags, required=("init_from", "output"))
