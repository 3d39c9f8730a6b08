"""Which numbers are pixels, and which are classes: of any library's arrays, in one line each that says what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_splitmask.backend.typing import Array, Int

SAFE = ("uint8", "uint16", "bool")  # dtypes whose range is known
LOOKED_AT = 256  # images of an array, spread over it
TOLERANCE = 0.01  # around 0..1, for the rounding of resizing


def dtype_name(tensor: Array) -> str:
    """The name of the dtype of any library's tensor, such as "float32"."""
    return getattr(tensor.dtype, "name", None) or str(tensor.dtype).rpartition(".")[2]


def problem_of_dtype(name: str) -> str | None:
    """Describe in a line what is wrong with every image of this dtype, or return None."""
    if name in SAFE or name == "int32" or name.startswith(("float", "bfloat")):
        return None
    return (
        f"Expected pixels as uint8, uint16 or float in 0..1, received {name}; convert them to uint8, or divide them by"
        " the largest possible value."
    )


def problem_of(images: Array, numbers: Int[Array, " B"] | None = None, finite: bool = True) -> str | None:
    """What is wrong with the pixels of images (B, H, W, C), of any library and of these numbers, in a line, or None."""
    name = dtype_name(images)
    if problem := problem_of_dtype(name):
        return problem
    if name in SAFE or 0 in images.shape:
        return None
    step = max(1, images.shape[0] // LOOKED_AT) if len(images.shape) else None
    values = to_array(images[::step] if step else images)  # at most twice LOOKED_AT images, spread over the array
    low, high = float(values.min()), float(values.max())  # NaN if one is
    if name == "int32":
        # uint16 arrives as int32 from Keras on torch. Up to 255 it may as well be 8 bits, which would come out black.
        return None if low >= 0 and 255 < high <= 65535 else _problem_of_integers(low, high)
    # A difference is finite only if both are, and NaN makes both NaN.
    if not math.isfinite(high - low) and not finite:
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not math.isfinite(high - low):
        # The first image that is not all finite: argmin finds the first False.
        first = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1))) * step if step else 0
        return (
            f"Expected finite pixels, received NaN or infinity in image {first if numbers is None else numbers[first]};"
            " leave such images out."
        )
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return None
    return f"Expected float pixels in 0..1, received {low:.4g} to {high:.4g}; {_advice(low, high)}."


def _problem_of_integers(low, high):
    kind = "uint8" if low >= 0 and high <= 255 else "float in 0..1"
    return (
        f"Expected pixels as uint8, uint16 or float in 0..1, received int32 of {low:.0f} to {high:.0f}; convert them to"
        f" {kind}."
    )


def _advice(low, high):
    if low < -0.5 and low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        return "undo the scaling to -1..1 ((images + 1) / 2) or pass uint8"
    # A little beyond 0..1, as bicubic resizing leaves pixels.
    if low >= -0.5 and high <= 1.5:
        return "clip them to 0..1 (numpy.clip(images, 0, 1))"
    if low < 0 or high > 65535:
        return "pass them in 0..1 or as uint8, not normalised, which the encoder does"
    return (
        "divide them by 255 (images / 255) or pass uint8"
        if high <= 255
        else "divide them by 65535 (images / 65535) or pass uint16"
    )


def to_array(tensor):
    if hasattr(tensor, "detach"):  # torch's
        tensor = tensor.detach().cpu()
        # torch gives NumPy no bfloat16.
        tensor = (tensor.float() if dtype_name(tensor) == "bfloat16" else tensor).numpy()
    array = np.asarray(tensor)
    return array.astype("float32") if dtype_name(array) == "bfloat16" else array


def check_pixels(images: Any, numbers: Int[Array, " B"] | None = None, finite: bool = True) -> None:
    """Refuse images (B, H, W, C), or a structure of such, that are no pixels as `patches.to_pixels` takes them.

    Args:
        images: of any library.
        numbers: (B,) int, which images of the user's they are, for the message; left out, from 0 on.
        finite: whether to refuse NaN and infinity.

    Raises:
        ValueError: for floats outside 0..1, values that are not finite, and integers of other types than uint8 and
            uint16. int32 is taken for uint16, as which torch has it, if a value is above 255 and none above 65535.
    """
    for leaf in leaves(images):
        if problem := problem_of(leaf, numbers, finite):
            raise ValueError(problem)


def problem_of_axes(images: Any, views: int | None = None) -> str | None:
    """What is wrong with the axes of images (B, H, W, C), or of views of each, (B, views, H, W, C), in a line, or
    None."""
    shape: Any = getattr(images, "shape", ())
    if getattr(shape, "rank", 0) is None:  # TensorFlow does not know it yet
        return None
    axes = len(shape)
    if axes == 4 or (axes == 5 and views and shape[1] in (views, None)):
        return None
    of_views = f", or {views} views of each, (B, {views}, H, W, C)" if views else ""
    advice = {0: "put them into one array", 3: "add an axis for the batch, images[None]"}
    return (
        f"Expected images (B, H, W, C){of_views}, received {shape_text(images)};"
        f" {advice.get(axes, 'reshape them, or choose one view of each')}."
    )


def problem_of_absence(labels: Any, model: keras.Model) -> str | None:
    """Describe missing labels of a model that learns from labels, in one line; None if there are labels."""
    if labels is not None:
        return None
    return f"Expected images and labels, from which {type(model).__name__} learns, received none; give both."


def problem_of_classes(labels: Array, classes: int, others: Sequence[int] = ()) -> str | None:
    """What is wrong with class numbers of any shape and library, in a line, or None. `others` are numbers that stand
    for no class."""
    values = to_array(labels)
    values = values[:: max(1, len(values) // LOOKED_AT)] if values.ndim > 1 else values
    wrong = ((values < 0) | (values >= classes) | (values != np.floor(values))) & ~np.isin(values, others)
    if not wrong.any():
        return None
    also = f", or {' or '.join(map(str, others))}" if others else ""
    return (
        f"Expected labels from 0 to {classes - 1}{also}, received {values[wrong][0]:g}; number the classes from 0 on,"
        " or build the model with more classes."
    )


def shape_text(x: Any) -> str:
    """The shape of an array for a message, or the type of what is none."""
    return str(tuple(x.shape)) if hasattr(x, "shape") else f"an object of type {type(x).__name__}"


def leaves(images: Any) -> list[Array]:
    return [x for x in keras.tree.flatten(images) if hasattr(x, "dtype") and hasattr(x, "shape")]


def images_of(batch):
    """The images of a batch: all of it, or the first of (images, labels, weights)."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch
