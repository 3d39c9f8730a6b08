"""Load models from a run folder or a file, also of other libraries, and save encoders for those."""

import contextlib
import itertools
import os
import pathlib
import warnings

from keras_splitmask.encoder import Encoder
from keras_splitmask.interchange import hub, reading, writing
from keras_splitmask.interchange.archives import bounded_weights, load_archive
from keras_splitmask.interchange.copying import (
    WeightReport,
    arrays_of,
    copy_weights,
    encoder_of,
    named_weights,
)
from keras_splitmask.interchange.heads import head_of
from keras_splitmask.interchange.sizes import SMALL
from keras_splitmask.interchange.stored_arrays import printable
from keras_splitmask.misfits import misfits, shapes_of
from keras_splitmask.transfer import Classifier

MODEL_FILE = "model.keras"
PROGRAM_FILES = ("saved_model.pb", "model.onnx", "model.tflite", "model.pt2")
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def load(path, report=None):
    """Load the model of a run, an encoder of Hugging Face or timm, or a classifier of timm.

    Args:
        path: a run folder or a .keras file, which gives its model: a `Classifier`, `Segmenter`, `RetinaNet`, `MaskRCNN`
            or the model of a pre-training run. Or a file or a folder of weights, which gives an `Encoder`, see
            `load_encoder`; or a `Classifier`, if timm's classifier is equivalent to ours, as those of `save_classifier`
            are. Or "hf:OWNER/NAME", see `load_encoder`.
        report: see `load_encoder`.

    Raises:
        ValueError: if there is no such model, or it is none that this library can read.
    """
    model, weight_report = _source(path, whole=True)
    _hand_out(weight_report, report)
    return model


def load_model(path):
    """Load a model that this library saved.

    Args:
        path: a run folder or a .keras file.

    Raises:
        ValueError: if there is no such file, or it is not a model of this library.
    """
    file = pathlib.Path(path).expanduser()
    if file.is_dir():
        file = file / MODEL_FILE
    if not file.is_file():
        hint = ""
        if (file.parent / "checkpoints").is_dir():
            hint = "; the run in this folder is not finished: run its command again first"
        elif any((file.parent / name).is_file() for name in PROGRAM_FILES):
            hint = "; this folder holds an exported program: name the run that it comes from"
        elif weights := next((p for p in sorted(file.parent.glob("*")) if p.name.endswith(reading.SUFFIXES)), None):
            hint = f"; name one of the files of weights in this folder, such as {weights}"
        elif file.name == MODEL_FILE and _has_images(file.parent):
            hint = "; this folder holds images: name the folder of a run instead"
        raise ValueError(
            f"Model not found: {path}. Expected a run folder, a .keras file or weights; there is no file {file}{hint}."
        )
    try:
        return load_archive(file)
    # Of many types: Keras and HDF5 raise whatever they stumble over.
    except Exception as error:
        raise ValueError(f"{file} is not a model that keras_splitmask can read: {_reason(error)}") from error


def _has_images(folder):
    """Whether some files in the first folders below a folder have the names of images."""
    some = itertools.islice(os.walk(folder, followlinks=True), 1000)  # links may lead round in a circle
    return any(name.lower().endswith(IMAGES) for _, _, names in some for name in names)


def _reason(error):
    """The cause of an error in one line of at most 300 characters."""
    if isinstance(error, TypeError) and error.__context__:  # Keras hides the cause behind two errors of its own
        error = error.__context__
    # "A total of": how Keras begins where arrays and variables do not fit.
    line = printable((str(error).splitlines() or [type(error).__name__])[0])
    return "its weights do not match its configuration." if line.startswith("A total of ") else line


def load_encoder(path, report=None, **changes):
    """Load the encoder of a run folder, a .keras file, or a model of Hugging Face or timm.

    A model of Hugging Face or timm is a .safetensors, .pth, .pt or .bin file, or a folder with model.safetensors,
    pytorch_model.bin, or an index of several such files; or "hf:OWNER/NAME", a model of the Hugging Face Hub, which is
    downloaded if the package huggingface_hub is installed. A checkpoint of torch may keep its weights in a dict within,
    see `torch_files.INSIDE`; nothing in it is run. The config.json and preprocessor_config.json beside the weights are
    read too. What they and the shapes leave open is assumed, with a warning if there is no `report`. Supported are
    `ViTModel` (including DINO weights), `DeiTModel`, `ViTMAEModel`, `ViTMSNModel`, `Dinov2Model` and
    `Dinov2WithRegistersModel` without SwiGLU, `BeitModel` and `Data2VecVisionModel`, models that contain them, and
    timm's `VisionTransformer` and `Beit`. A model that the encoder cannot reproduce exactly is refused.

    Args:
        path: a folder, a file or a name, see above.
        report: a function, such as `print`, that receives the `WeightReport` of an encoder that was changed or comes
            from another library.
        **changes: arguments of the encoder to replace, such as drop_path=0.1 or image_shape=(48, 80, 3).

    Raises:
        ValueError: if there is no such model, it has no encoder, it is not equivalent to an encoder of ours, or the
            weights cannot be resized to the changes.
    """
    model, weight_report = _source(path)
    encoder = encoder_of(model, path)
    if changes:
        fresh = Encoder.from_config({**encoder.get_config(), **changes})
        with _naming(path):
            encoder, weight_report = fresh, _joined(weight_report, copy_weights(encoder, fresh))
    _hand_out(weight_report, report)
    return encoder


def initialise(model, path):
    """Copy the weights of a run folder or a file, see `load_encoder`, into a model: returns a `WeightReport`.

    Raises:
        ValueError: see `copy_weights`.
    """
    source, weight_report = _source(path)
    encoder_of(source, path)
    with _naming(path):
        return _joined(weight_report, copy_weights(source, model))


@contextlib.contextmanager
def _naming(path):
    """Put the path in front of an error about weights."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_encoder(encoder, folder, layout="vit"):
    """Write an encoder for another library into a new folder, completely or not at all.

    "vit", "deit", "beit" and "mae" write model.safetensors, config.json and preprocessor_config.json for
    `ViTModel.from_pretrained(folder)`, `DeiTModel`, `BeitModel` and `ViTMAEModel` of Hugging Face. "timm" writes what
    `timm.create_model("local-dir:folder")` reads. The head of a model is not written; for a whole classifier
    see `save_classifier`. "deit" needs an encoder with one extra token, and only "beit" takes relative positions.
    `load_encoder(folder)` returns the same weights, bit for bit, except the key biases that BEiT does not have; they do
    not change the output.

    Args:
        encoder: an `Encoder`, or a model that has one as `encoder`.
        folder: path of the new folder.
        layout: "vit", "deit", "beit", "mae" or "timm".

    Raises:
        ValueError: if the folder exists, or the layout is unknown or cannot express the encoder.
    """
    encoder = encoder_of(encoder)
    writing.write(folder, encoder.get_config(), arrays_of(encoder), layout)


def save_classifier(classifier, folder, layout="timm"):
    """Write a classifier with its head and the names of its classes into a new folder, completely or not at all.

    `timm.create_model("local-dir:folder", pretrained=True)` and, with timm installed, `pipeline("image-classification",
    model=folder)` of Hugging Face's transformers give the same logits. `load(folder)` returns the same weights, bit for
    bit; `load_encoder(folder)` returns the encoder and reports that the head was dropped.

    Args:
        classifier: a `Classifier`.
        folder: path of the new folder.
        layout: "timm"; the classifiers of the other layouts do not take the mean of the patches' tokens, as ours does.

    Raises:
        ValueError: if the model is no `Classifier`, the folder exists, or the layout cannot express it.
    """
    if not isinstance(classifier, Classifier):
        raise ValueError(
            f"Expected a Classifier, received a model of type {type(classifier).__name__}; use save_encoder."
        )
    encoder = classifier.encoder
    writing.write(folder, encoder.get_config(), arrays_of(encoder), layout, head_of(classifier))


def _source(path, whole=False):
    """The model at a path, and its `WeightReport` if it comes from another library: its encoder, or if `whole` a
    classifier where there is one."""
    named = str(path).startswith(hub.PREFIX)
    path = hub.downloaded(str(path)) if named else pathlib.Path(path).expanduser()
    # A folder with a model of ours is ours, whatever lies beside it.
    file = reading.find(path) if not (path / MODEL_FILE).is_file() else None
    if file is None:
        return load_model(path), None
    imported = reading.read(file)
    nbytes = sum(array.nbytes for array in imported.arrays.values())
    try:
        # Twice the file, so that a file with missing weights fails below, where each of them is named.
        with bounded_weights(max(2 * nbytes, SMALL)):
            encoder = Encoder(**imported.arguments)
    except ValueError as error:
        raise ValueError(f"The weights of {file} do not fit: {_reason(error)}") from error
    weights = named_weights(encoder)
    if wrong := misfits(imported.arrays, shapes_of(weights)):
        raise ValueError(f"The weights of {file} do not fit: {wrong}.")
    for name, array in imported.arrays.items():
        weights[name].assign(array)
    loaded = [name for name in weights if name not in imported.folded]
    if whole and imported.head:
        classifier = _classifier(encoder, imported.head)
        loaded += ["head/kernel", "head/bias"]
        return classifier, WeightReport(loaded, {}, {}, imported.folded, notes=imported.notes)
    return encoder, WeightReport(loaded, {}, {}, imported.folded, imported.dropped, imported.notes)


def _classifier(encoder, head):
    """A `Classifier` of an encoder and a `Head`."""
    names = head.class_names
    classifier = Classifier(encoder, len(names), class_names=names, crop_ratio=head.crop_ratio)
    classifier.head.kernel.assign(head.kernel)
    classifier.head.bias.assign(head.bias)
    return classifier


def _joined(first, second):
    """Join the reports of two copies, one after the other."""
    if first is None:
        return second
    folded = {name: note for name, note in first.folded.items() if name in {*second.loaded, *second.resized}}
    resized = {name: ", ".join(filter(None, (folded.pop(name, None), note))) for name, note in second.resized.items()}
    loaded = [name for name in second.loaded if name not in folded]
    return WeightReport(loaded, resized, second.fresh, folded, first.dropped, first.notes + second.notes)


def _hand_out(weight_report, report):
    if weight_report and report:
        report(weight_report)
    elif weight_report:
        for note in weight_report.notes:
            warnings.warn(note, stacklevel=3)
