"""Save a model as a program that another runtime runs: TensorFlow, LiteRT, ONNX Runtime or PyTorch, without Keras."""

from keras import ops

from keras_splitmask.backend.layers import argmax
from keras_splitmask.backend.programs import LOOPING, WRITERS, write_program
from keras_splitmask.encoder import Encoder
from keras_splitmask.interchange.copying import encoder_of
from keras_splitmask.interchange.framing import centre_resized, letterboxed, spread, stretched
from keras_splitmask.interchange.writing import new_folder
from keras_splitmask.options import check_number
from keras_splitmask.transfer import Classifier, MaskRCNN, RetinaNet, Segmenter

PROGRAMS = tuple(WRITERS)
DETECTORS = (RetinaNet, MaskRCNN)
RESIZING = ("int8",)  # smaller numbers of a program that resizes; the weights of the resizing stay float32


def program_of(model, resize=False, crop_ratio=1.0):
    """What a program of a model computes: a function from images (B, H, W, C) uint8 to a dictionary of tensors.

    Of an `Encoder` "pooled" (B, D), "cls" (B, D) and "feature_map" (B, rows, columns, D); of a `Classifier` "scores"
    (B, classes), probabilities; of a `Segmenter` "labels" (B, H, W) int32. Of a detector "boxes" (B, K, 4) [top, left,
    bottom, right] in pixels, "scores" (B, K), and "labels" (B, K) int32, -1 where there is no object; of a `MaskRCNN`
    also "masks" (B, K, 28, 28), probabilities inside each box. All without a type are float32.

    With `resize` the function takes images of any sides, and resizes them as `predict_images` and `embed_images` do. It
    cuts the largest part with the proportions of the model's images from their centre, and then the fraction
    `crop_ratio` of its sides, for an `Encoder` and a `Classifier`. It shows all of an image to the others. Labels are
    those of its pixels, and boxes are in its pixels: without masks they are cut off at its borders.

    Raises:
        ValueError: for another model, or a `crop_ratio` that it cannot have.
    """
    if not isinstance(model, (Encoder, Classifier, Segmenter, *DETECTORS)):
        raise ValueError(
            f"Expected an Encoder, Classifier, Segmenter, RetinaNet or MaskRCNN, received a model of type"
            f" {type(model).__name__}; save its encoder."
        )
    if crop_ratio != 1 and not (resize and isinstance(model, (Encoder, Classifier))):
        raise ValueError(
            f"Expected crop_ratio with resize, of an encoder or a classifier, received {crop_ratio} for a"
            f" {type(model).__name__}; leave it out."
        )
    check_number("crop_ratio", crop_ratio, 0, 1, above=True)

    def compute(given):
        images, factors = framed(model, given, crop_ratio) if resize else (given, None)
        found = model(images, training=False)
        if isinstance(model, Classifier):
            return {"scores": ops.softmax(found)}
        if isinstance(model, Segmenter):
            return {"labels": argmax(spread(found, given) if resize else found)}
        return found if factors is None else _of_original(found, factors, given)

    return compute


def framed(model, images, crop_ratio=1.0):
    """Resize images (B, h, w, C) uint8 as a program of a model does: (B, H, W, C) uint8, and the factors (2,), or None
    for a model whose answers need none."""
    size = encoder_of(model).image_shape[:2]
    if isinstance(model, DETECTORS):
        return letterboxed(images, size)
    return (stretched(images, size) if isinstance(model, Segmenter) else centre_resized(images, size, crop_ratio)), None


def _of_original(found, factors, images):
    """Objects in pixels of images that were resized, see `evaluation.to_original`."""
    boxes = found["boxes"] / ops.tile(factors, 2)
    limits = ops.cast(ops.stack(ops.shape(images)[1:3] * 2), "float32")
    cut = ops.minimum(ops.maximum(boxes, 0), limits)
    shown = ops.all(cut[..., 2:] > cut[..., :2], axis=-1)  # and not entirely in the padding
    # A mask fills its whole box, also what lies beyond the border.
    boxes = boxes if "masks" in found else cut
    return {**found, "boxes": boxes, "labels": ops.where(shown, found["labels"], -1)}


def check_program(model, form, quantize=None, resize=False, crop_ratio=1.0):
    """Refuse a format, smaller numbers, or resizing, that a model cannot have. Raises ValueError."""
    if form not in WRITERS:
        raise ValueError(f"Expected a format among {', '.join(PROGRAMS)}, received {form!r}.")
    program_of(model, resize, crop_ratio)
    if quantize and isinstance(model, DETECTORS):
        raise ValueError(
            f"Expected float32 for a {type(model).__name__}, whose boxes change otherwise; leave {quantize} out."
        )
    if isinstance(model, DETECTORS) and form not in LOOPING:
        raise ValueError(
            f"Expected {' or '.join(LOOPING)} for a {type(model).__name__}, received {form}, which cannot hold the loop"
            " over its boxes; choose another format, or save the encoder."
        )
    if resize and quantize not in (None, *RESIZING):
        raise ValueError(
            f"Expected float32 or {' or '.join(RESIZING)} for a program that resizes, received {quantize}, too coarse"
            " for the places of pixels; choose another, or resize images yourself."
        )


def save_program(model, folder, form, quantize=None, examples=None, resize=False, crop_ratio=1.0):
    """Save a model as a program, into a new folder, completely or not at all.

    The program takes images of the encoder's size, (B, H, W, C) uint8 for any B, and includes all preprocessing but
    resizing; see `program_of` for what it returns. It carries the names of the classes as classes.json.

    Args:
        model: an `Encoder`, `Classifier`, `Segmenter`, `RetinaNet` or `MaskRCNN`. It computes in the precision of its
            layers; load it in float32 for a program in float32.
        folder: path of the new folder.
        form: one of `PROGRAMS`: saved_model (TensorFlow), onnx, litert, or torch (torch.export). torch is written by
            torch, the others by TensorFlow, whatever the backend of training.
        quantize: for onnx and litert, "float16" for half the size; "int8" for a quarter, where products with weights
            are of whole numbers whose range is found for each image; "calibrated_int8" if that range is to be fixed,
            as some accelerators want it. None for float32.
        examples: (n, H, W, C) uint8, images of your own for calibrated_int8; a hundred are enough.
        resize: whether to take images of any sides, the same in one call, and to resize them inside. By default they
            are of the encoder's size.
        crop_ratio: with `resize`, of an encoder or a classifier: the fraction of an image's sides to keep, see
            `program_of`.

    Raises:
        ValueError: if the folder exists or cannot be written, the format is unknown or cannot hold the model, or the
            backend is another.
        ImportError: if a package that writes the format is missing.
    """
    with new_folder(folder) as aside:
        check_program(model, form, quantize, resize, crop_ratio)
        names = getattr(model, "class_names", None)
        *sides, channels = encoder_of(model).image_shape
        shape = (None, None, channels) if resize else (*sides, channels)
        write_program(program_of(model, resize, crop_ratio), model, shape, aside, form, names, quantize, examples)
