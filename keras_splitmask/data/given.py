"""Images as a caller has them: arrays, tensors of other libraries and Pillow's images."""

import sys

import numpy as np

from keras_splitmask.data import decoding
from keras_splitmask.data.reasons import reason_of


def is_picture(image):
    """Return whether this is an image of Pillow, which need not be installed."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def read_picture(image, name):
    """The pixels (H, W, C) of Pillow's image, converted and turned upright as `decoding.read_pixels` does with a file.

    Raises:
        ValueError: with the name, if the image cannot be read.
    """
    try:
        if getattr(image, "tile", None):  # of a file, and not loaded yet
            decoding.scale_transparency(image)
        image.load()
        turn = decoding.orientation(image)
        pixels = decoding.pixels_of(image)
    except Exception as error:  # of a file that is damaged, or of colours that Pillow does not convert
        raise ValueError(f"Expected a readable image, received {name} ({reason_of(error)}); repair it.") from error
    return decoding.TURNS[turn](pixels) if turn in decoding.TURNS else pixels


def to_array(images, name):
    """An array of numbers from an array, a tensor or lists of numbers. bfloat16 becomes float32.

    Raises:
        TypeError: with the name, if it holds anything else.
    """
    kind = type(images).__name__
    if hasattr(images, "detach"):  # a tensor that may have a gradient or lie on another device
        images = images.detach().cpu()
        images = images.float() if str(images.dtype).endswith("bfloat16") else images
        images = images.numpy()
    try:
        array = np.asarray(images)
    except (TypeError, ValueError, RuntimeError):  # such as lists of different lengths
        array = np.array(None)
    if array.dtype.name == "bfloat16":  # which NumPy does not know by itself
        return array.astype("float32")
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"Expected a path, an array of numbers or a Pillow image, received {kind} for {name}; convert it to an"
            " array."
        )
    return array
