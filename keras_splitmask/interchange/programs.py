"""Save a model as a program that another runtime runs: TensorFlow, LiteRT, ONNX Runtime or PyTorch, without Keras."""

from keras import ops

from keras_splitmask.backend.layers import argmax
from keras_splitmask.backend.programs import LOOPING, WRITERS, write_program
from keras_splitmask.encoder import Encoder
from keras_splitmask.interchange.copying import encoder_of
from keras_splitmask.interchange.framing import centre_resized
from keras_splitmask.interchange.writing import new_folder
from keras_splitmask.transfer import Classifier, MaskRCNN, RetinaNet, Segmenter

PROGRAMS = tuple(WRITERS)
RESIZING = ("int8",)  # smaller numbers of a program that resizes; the weights of the resizing stay float32


def program_of(model, crop_ratio=None):
    """What a program of a model computes: a function from images (B, H, W, C) uint8 to a dictionary of tensors.

    Of an `Encoder` "pooled" (B, D), "cls" (B, D) and "feature_map" (B, rows, columns, D); of a `Classifier` "scores"
    (B, classes), probabilities; of a `Segmenter` "labels" (B, H, W) int32. Of a detector "boxes" (B, K, 4) [top, left,
    bottom, right] in pixels, "scores" (B, K), and "labels" (B, K) int32, -1 where there are no more objects; of a
    `MaskRCNN` also "masks" (B, K, 28, 28), probabilities inside each box. All without a type are float32.

    With a `crop_ratio`, which an `Encoder` and a `Classifier` may have, the function takes images of any sides, and
    cuts and resizes them as `predict_images` and `embed_images` do.

    Raises:
        ValueError: for another model.
    """
    if crop_ratio is not None:
        compute, size = program_of(model), encoder_of(model).image_shape[:2]
        return lambda images: compute(centre_resized(images, size, crop_ratio))
    if isinstance(model, Classifier):
        return lambda images: {"scores": ops.softmax(model(images, training=False))}
    if isinstance(model, Segmenter):
        return lambda images: {"labels": argmax(model(images, training=False))}
    if isinstance(model, (Encoder, RetinaNet, MaskRCNN)):
        return lambda images: model(images, training=False)
    raise ValueError(
        f"Expected an Encoder, Classifier, Segmenter, RetinaNet or MaskRCNN, received a model of type"
        f" {type(model).__name__}; save its encoder."
    )


def check_program(model, form, quantize=None, crop_ratio=None):
    """Refuse a format, smaller numbers, or resizing, that a model cannot have. Raises ValueError."""
    if form not in WRITERS:
        raise ValueError(f"Expected a format among {', '.join(PROGRAMS)}, received {form!r}.")
    program_of(model)
    if quantize and isinstance(model, (RetinaNet, MaskRCNN)):
        raise ValueError(
            f"Expected float32 for a {type(model).__name__}, whose boxes change otherwise; leave {quantize} out."
        )
    if isinstance(model, (RetinaNet, MaskRCNN)) and form not in LOOPING:
        raise ValueError(
            f"Expected {' or '.join(LOOPING)} for a {type(model).__name__}, received {form}, which cannot hold the loop"
            " over its boxes; choose another format, or save the encoder."
        )
    if crop_ratio is None:
        return
    if not isinstance(model, (Encoder, Classifier)):
        raise ValueError(
            f"Expected an encoder or a classifier for a program that resizes, received a {type(model).__name__}, whose"
            " answers are about pixels of the resized image; resize images yourself, as the model's card says."
        )
    if quantize not in (None, *RESIZING):
        raise ValueError(
            f"Expected float32 or {' or '.join(RESIZING)} for a program that resizes, received {quantize}, too coarse"
            " for the places of pixels; choose another, or resize images yourself."
        )


def save_program(model, folder, form, quantize=None, examples=None, crop_ratio=None):
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
        crop_ratio: of an encoder or a classifier, to take images of any sides, the same in one call: the program cuts
            the largest part with the proportions of H x W from their centre, then this fraction of its sides, and
            resizes it, as `predict_images` does. 1 keeps the largest part. By default images are of the encoder's size.

    Raises:
        ValueError: if the folder exists or cannot be written, the format is unknown or cannot hold the model, or the
            backend is another.
        ImportError: if a package that writes the format is missing.
    """
    with new_folder(folder) as aside:
        check_program(model, form, quantize, crop_ratio)
        names = getattr(model, "class_names", None)
        *sides, channels = encoder_of(model).image_shape
        shape = (*sides, channels) if crop_ratio is None else (None, None, channels)
        write_program(program_of(model, crop_ratio), model, shape, aside, form, names, quantize, examples)
