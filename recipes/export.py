"""Export a trained encoder, detector or segmenter for use without this library.

    python recipes/export.py --init_from=runs/quickstart --output=runs/quickstart/encoder
    python recipes/export.py --init_from=runs/quickstart --layout=vit --output=runs/quickstart/vit
    python recipes/export.py --init_from=runs/found --what=model --output=runs/found/detector

The first command writes a SavedModel, which needs only TensorFlow to run. It is written on the tensorflow or jax
backend, with TensorFlow installed; for a run of the torch backend add --backend=tensorflow.
`tf.saved_model.load(PATH).serve(images)` takes images (B, H, W, C) uint8 for any B. It returns a dictionary of "pooled"
(B, D), "cls" (B, D) and "feature_map" (B, rows, columns, D), all float32. Preprocessing is included.

The second writes a folder for `ViTModel.from_pretrained(PATH)` of Hugging Face's transformers. The layouts deit, beit
and mae are for `DeiTModel`, `BeitModel` and `ViTMAEModel`. The layout timm is for
`timm.create_model("local-dir:PATH", pretrained=True)`. Preprocessing is described in a file beside the weights.

The third, with --what=model, writes the whole model as a SavedModel:
  - a detector returns "boxes" (B, K, 4), [top, left, bottom, right] in pixels of the given image; "scores" (B, K); and
    "labels" (B, K), -1 where there are no more objects;
  - a Mask R-CNN also returns "masks" (B, K, 28, 28), probabilities inside each box;
  - a segmenter returns "labels" (B, H, W), the class of every pixel.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile

from absl import flags

from recipes.shared import commandline, earlier, writing

# These change the result.
flags.DEFINE_string(
    "init_from",
    None,
    "Run folder, .keras file, or .safetensors file or folder of Hugging Face or timm, of the encoder to export.",
)
flags.DEFINE_enum(
    "layout",
    "saved_model",
    ["saved_model", "vit", "deit", "beit", "mae", "timm"],
    "Format to write. Most libraries read vit. saved_model needs TensorFlow, and --backend=tensorflow or jax.",
)
flags.DEFINE_enum("what", "encoder", ["encoder", "model"], "The encoder, or the whole detector or segmenter.")

# These do not.
flags.DEFINE_string("output", None, "Folder to write; it must not exist yet.")
FLAGS = flags.FLAGS
TOLERANCE = 1e-4  # relative to the largest output


def write_saved_model(function, model, folder):
    """Write `function`, which uses `model`, as a SavedModel. Returns a function that runs the written SavedModel."""
    import keras

    from keras_splitmask.backend.optional import optional

    tf = optional("tensorflow", "tf")
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve", function, [keras.InputSpec(shape=(None, *encoder_of(model).image_shape), dtype="uint8")]
    )
    archive.write_out(folder, verbose=False)
    served = tf.saved_model.load(str(folder))
    return lambda images: {name: value.numpy() for name, value in served.serve(images).items()}


def encoder_of(model):
    return model.encoder if FLAGS.what == "model" else model


def load():
    """Load the model to export. Returns it and a function from images to a dictionary of arrays."""
    import keras

    import keras_splitmask as ks

    if FLAGS.what == "encoder":
        encoder = ks.interchange.load_encoder(
            FLAGS.init_from, print, dtype="float32"
        )  # whatever the precision of training
        return encoder, encoder
    if FLAGS.layout != "saved_model":
        raise commandline.BadInput(
            f"Expected --what=encoder with --layout={FLAGS.layout}, received --what=model; other libraries take"
            " only the encoder."
        )
    model = ks.interchange.load_model(FLAGS.init_from)
    if isinstance(model, ks.transfer.Segmenter):
        return model, lambda images: {"labels": keras.ops.argmax(model(images), axis=-1)}
    if not isinstance(model, (ks.transfer.RetinaNet, ks.transfer.MaskRCNN)):
        raise commandline.BadInput(
            f"Expected a detector or a segmenter in {FLAGS.init_from}, received a {type(model).__name__}; use"
            " --what=encoder."
        )
    return model, model


def write_layout(function, encoder, folder):
    """Write the weights in the layout of another library. Returns a function that runs the encoder read back."""
    import keras

    import keras_splitmask as ks

    ks.interchange.save_encoder(encoder, folder, FLAGS.layout)
    again = ks.interchange.load_encoder(folder)
    return lambda images: {name: keras.ops.convert_to_numpy(value) for name, value in again(images).items()}


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


def compare(model, function, exported):
    """Print how far the outputs of the exported model differ from the model's, and stop if they differ too much."""
    import keras
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (3, *encoder_of(model).image_shape), dtype="uint8")
    expected, received = function(images), exported(images)
    for name, value in expected.items():
        value = keras.ops.convert_to_numpy(value)
        differences = np.abs(value - received[name]) / max(1.0, np.abs(value).max())
        # Rounding decides between two boxes, or two classes of a pixel, with nearly equal scores.
        difference = np.quantile(differences, 0.99) if FLAGS.what == "model" else differences.max()
        print(f"{name:<12} {'x'.join(map(str, value.shape[1:])):<12} differs by {difference:.1e} after reloading")
        if not difference < TOLERANCE:
            raise RuntimeError(
                f"The exported model's {name} differs by {difference} from the original; nothing was written."
            )


def main():
    import keras

    output = pathlib.Path(FLAGS.output)
    if os.path.lexists(output):
        raise commandline.BadInput(f"Expected an --output that does not exist yet, received {output}.")
    if FLAGS.layout == "saved_model" and keras.backend.backend() == "torch":
        other = ", or --layout=vit, which needs no TensorFlow" if FLAGS.what == "encoder" else ""
        raise commandline.BadInput(
            "A SavedModel is written on the tensorflow or jax backend, with TensorFlow installed. Use"
            f" --backend=tensorflow{other}."
        )
    model, function = load()
    write = write_saved_model if FLAGS.layout == "saved_model" else write_layout
    with written_aside(output) as aside:
        compare(model, function, write(function, model, aside))
    classes = earlier.result_of_run(FLAGS.init_from, "classes")
    left = (
        f", the encoder alone: the head for {len(classes)} classes stays in {FLAGS.init_from}"
        if isinstance(classes, list)
        else ""
    )
    print(f"exported  {output}{left if FLAGS.what == 'encoder' else ''}")


if __name__ == "__main__":
    commandline.run(main, required=("init_from", "output"))
