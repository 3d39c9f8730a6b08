"""Export a trained model for use without this library.

    python recipes/export.py --init_from=runs/tuned --layout=onnx --output=runs/tuned-onnx
    python recipes/export.py --init_from=runs/quickstart --layout=vit --output=runs/quickstart-vit

Programs take images (B, H, W, C) uint8 of the encoder's size, for any B; all preprocessing but resizing is inside, and
so are the names of the classes. With --resize they take images of any size. The input is called images. The layouts
saved_model, onnx and litert are written by TensorFlow, and torch by PyTorch, from runs of any backend:
  - a classifier returns "scores" (B, classes), probabilities;
  - a segmenter returns "labels" (B, H, W), the class of every pixel;
  - a detector returns "boxes" (B, K, 4), [top, left, bottom, right] in pixels of the given images; "scores" (B, K); and
    "labels" (B, K), -1 where there is no object. Mask R-CNN also returns "masks" (B, K, 28, 28),
    probabilities inside each box;
  - an encoder returns "pooled" (B, D), "cls" (B, D) and "feature_map" (B, rows, columns, D).

Each program is run by its own runtime, without Keras, on pictures of the sample, with --resize of several sizes, and
refused if it answers otherwise than the model.

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

from recipes.shared import commandline, earlier, model_card, program_check, program_pictures, runtimes, writing

# These change the result.
flags.DEFINE_string(
    "init_from",
    None,
    "Run folder, .keras file, file or folder of weights of Hugging Face or timm, or hf:OWNER/NAME,"
    " of the model to export.",
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
flags.DEFINE_enum(
    "quantize",
    "none",
    ["none", *runtimes.QUANTIZED],
    "With --layout=onnx or litert, a smaller program: float16 is half as large, int8 a quarter. calibrated_int8 takes"
    " the range of each number from --images, as some accelerators need it; it changes more answers.",
)
flags.DEFINE_bool(
    "resize",
    False,
    "With a program: take images of any size, and resize them inside as predict and embed do. Boxes and label maps are"
    " then those of the images that it gets.",
)
flags.DEFINE_multi_string(
    "images",
    None,
    "Images to compare the program with its model on, and for calibrated_int8: a folder, files, or a .txt file that"
    " lists them. Default: pictures of the sample, which are of clothes.",
)

# These do not.
flags.DEFINE_string("output", None, "Folder to write; it must not exist yet.")
FLAGS = flags.FLAGS
HOLD_CLASSIFIERS = "--layout=timm or --layout=onnx holds a whole classifier"
PICTURES, EXAMPLES = 32, 128  # images to compare with, and to calibrate by


def settle_flags():
    """Choose the program and the backend that writes it, and say what is missing before anything is loaded."""
    if FLAGS.layout == "auto":
        FLAGS.layout = "torch" if not _installed("tensorflow") and _installed("torch") else "saved_model"
    if FLAGS.quantize != "none" and FLAGS.layout not in runtimes.SMALLER:
        raise commandline.BadInput(
            f"Expected --layout={' or '.join(runtimes.SMALLER)} with --quantize={FLAGS.quantize}, received"
            f" {FLAGS.layout}; choose another."
        )
    if FLAGS.resize and FLAGS.layout not in runtimes.BACKENDS:
        raise commandline.BadInput(
            f"Expected --layout={', '.join(runtimes.BACKENDS)} with --resize, received {FLAGS.layout}, which holds"
            " weights only; leave --resize out."
        )
    if FLAGS.resize and FLAGS.quantize not in runtimes.RESIZED:
        raise commandline.BadInput(
            f"Expected --quantize={' or '.join(runtimes.RESIZED)} with --resize, received {FLAGS.quantize}, which"
            " is too coarse for the places of pixels; choose another, or leave --resize out."
        )
    if FLAGS.layout not in runtimes.BACKENDS:
        return
    backend = runtimes.BACKENDS[FLAGS.layout]
    if FLAGS.quantize == "calibrated_int8" and not FLAGS.images:
        raise commandline.BadInput("Expected --images with --quantize=calibrated_int8, received none; name a folder.")
    if FLAGS.backend not in (None, backend):
        raise commandline.BadInput(
            f"Expected --backend={backend} for --layout={FLAGS.layout}, received {FLAGS.backend}; leave it out. Runs of"
            " all backends can be exported."
        )
    packages = (backend, *runtimes.PACKAGES.get(FLAGS.layout, ()))
    if missing := [name for name in packages if not _installed(name)]:
        raise commandline.BadInput(
            f"--layout={FLAGS.layout} needs {', '.join(packages)}. Run: pip install {' '.join(missing)}"
        )
    FLAGS.backend = backend


def _installed(package):
    return importlib.util.find_spec(package.replace("-", "_"))


def load():
    """Load what is to be exported, in float32, whatever the precision of training. Returns the model, and the fraction
    of an image's side that `predict` or `embed` keeps for it."""
    import keras_splitmask as ks
    from keras_splitmask.backend.keras_private import layers_of
    from keras_splitmask.transfer.class_model import ClassModel

    program, wanted = FLAGS.layout in runtimes.BACKENDS, FLAGS.what
    if wanted == "model" and FLAGS.layout not in WHOLE:
        raise commandline.BadInput(
            f"Expected --what=encoder with --layout={FLAGS.layout}, received --what=model; {HOLD_CLASSIFIERS}."
        )
    ratio = None
    if FLAGS.layout in WHOLE:
        model = ks.interchange.load(FLAGS.init_from, lambda report: None)  # an encoder is loaded again, with a report
        ratio = earlier.crop_ratio(FLAGS.init_from, model)
        if wanted != "encoder" and isinstance(model, ClassModel if program else ks.transfer.Classifier):
            if program:
                ks.interchange.check_program(model, FLAGS.layout, smaller(), FLAGS.resize)
            for layer in layers_of(model):
                layer.dtype_policy = "float32"
            return model, ratio or 1.0
        if wanted == "model":
            kinds = "classifier, detector or segmenter" if program else "classifier"
            raise commandline.BadInput(
                f"Expected a {kinds} in {FLAGS.init_from}, received a model of type {type(model).__name__}; use"
                " --what=encoder."
            )
    return ks.interchange.load_encoder(FLAGS.init_from, print, dtype="float32"), ratio or 1.0


def smaller():
    return None if FLAGS.quantize == "none" else FLAGS.quantize


def write(model, ratio, folder):
    """Write the model. Returns a function that answers batches of images as what was written does: a list of
    {name: (n, ...)}."""
    import keras_splitmask as ks

    if FLAGS.layout in runtimes.BACKENDS:
        examples = None
        if FLAGS.quantize == "calibrated_int8":
            examples = program_pictures.resized(_pictures(model), model, EXAMPLES, ratio)
        print(f"writing   {FLAGS.layout}", flush=True)
        ks.interchange.save_program(model, folder, FLAGS.layout, smaller(), examples, *resizing(ratio))
        return lambda batches: run_alone(folder, batches)
    classifies = isinstance(model, ks.transfer.Classifier)
    save = ks.interchange.save_classifier if classifies else ks.interchange.save_encoder
    save(model, folder, FLAGS.layout)
    again = ks.interchange.load(folder)
    return lambda batches: answers_of(again, batches)


def resizing(ratio):
    """What `program_of` and `save_program` need to know of it: whether a program resizes, and what it keeps."""
    return (True, ratio) if FLAGS.resize else ()


def answers_of(model, batches, *resized):
    """What the model answers to batches of images: a list of {name: (n, ...)}."""
    import keras

    import keras_splitmask as ks
    from keras_splitmask.backend.programs import as_graph
    from keras_splitmask.interchange.programs import DETECTORS

    program = ks.interchange.program_of(model, *resized)
    if isinstance(model, DETECTORS):
        shape = batches[0].shape[1:]
        program = as_graph(program, (None, None, shape[-1]) if resized else shape)
    found = (program(keras.ops.convert_to_tensor(batch)) for batch in batches)
    return [keras.tree.map_structure(keras.ops.convert_to_numpy, one) for one in found]


def _pictures(model):
    return program_pictures.open_pictures(FLAGS.images, model)


def run_alone(folder, batches):
    """Run a program by its runtime, in a process without Keras, on batches of images. Returns a list of
    {name: (n, ...)}."""
    import numpy as np

    with tempfile.TemporaryDirectory() as aside:
        given, answers = pathlib.Path(aside, "images.npz"), pathlib.Path(aside, "answers.npz")
        np.savez(given, *batches)
        command = [sys.executable, runtimes.__file__, FLAGS.layout, folder, given, answers]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode:
            reason = child.stderr.strip().splitlines()[-1:]
            raise program_check.Differs(
                f"The exported program does not run, so nothing was written: {''.join(reason)}; choose another layout."
            )
        with np.load(answers) as file:
            return [{name: file[f"{i} {name}"] for name in file["names"]} for i in range(len(batches))]


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
        reason = "another program wrote it meanwhile" if output.is_dir() else error.strerror or error
        raise commandline.BadInput(
            f"Expected an --output that can be written, received {output} ({reason}); choose another folder."
        ) from error
    finally:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)
        writing.remove_empty(made)


def compare(model, ratio, answer):
    """Print how far the answers of what was written differ from the model's, and stop if they differ too much."""
    import keras
    import numpy as np

    import keras_splitmask as ks
    from keras_splitmask.data.counting import counted
    from keras_splitmask.interchange.programs import framed

    classifies = isinstance(model, ks.transfer.Classifier)
    if FLAGS.resize:
        batches = program_pictures.sheets(model)
        batches += program_pictures.of_own_sizes(_pictures(model), PICTURES) if FLAGS.images else []
    else:
        images = program_pictures.resized(_pictures(model), model, PICTURES, ratio)
        batches = [batch for batch in (images[:1], images[1:]) if len(batch)]  # one image alone, and several
    sample = "" if FLAGS.images else " of the sample, which are of clothes"
    print(f"compared  with the model on {counted(sum(map(len, batches)), 'image')}{sample}")
    if FLAGS.resize:
        shown = [framed(model, keras.ops.convert_to_tensor(batch), ratio)[0] for batch in batches]
        shown = keras.tree.map_structure(keras.ops.convert_to_numpy, shown)
        program_check.check_pixels([program_pictures.framed(batch, model, ratio) for batch in batches], shown)
    expected, received = answers_of(model, batches, *resizing(ratio)), answer(batches)
    program_check.check(expected, received, FLAGS.quantize)
    if isinstance(model, ks.transfer.Segmenter) and earlier.flag_of_run(FLAGS.init_from, "inference") == "slide":
        print("inference  the program sees an image as a whole; predict moves a window over it for this run")
    if classifies:
        scores = (np.concatenate([one["scores"] for one in answers]) for answers in (expected, received))
        program_check.check_classes(*scores, FLAGS.quantize)


def main():
    from keras_splitmask.prediction.batches import check_weights

    if FLAGS["precision"].present:
        raise commandline.BadInput("Exported models compute in float32; leave --precision out, or see --quantize.")
    output = pathlib.Path(FLAGS.output)
    if os.path.lexists(output):
        raise commandline.BadInput(f"Expected an --output that does not exist yet, received {output}.")
    with written_aside(output) as aside:
        model, ratio = load()
        check_weights(model)
        compare(model, ratio, write(model, ratio, aside))
        card = model_card.text_of(model, FLAGS.layout, FLAGS.init_from, FLAGS.quantize, ratio, FLAGS.resize)
        (aside / "README.md").write_text(card, encoding="utf-8")
        commandline.stop_if_asked()
    classes = earlier.result_of_run(FLAGS.init_from, "classes")
    alone = type(model).__name__ == "Encoder" and isinstance(classes, list)
    left = f", the encoder alone: the head for {len(classes)} classes stays in {FLAGS.init_from}" if alone else ""
    advice = f"; {HOLD_CLASSIFIERS}" if alone and FLAGS.layout not in WHOLE else ""
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"exported  {output}, {size / 1e6:.1f} MB{left}{advice}")


if __name__ == "__main__":
    commandline.run(main, settle_flags, required=("init_from", "output"))
