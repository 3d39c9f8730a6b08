"""Check pixel values: their type, their range and their layout."""

import math

import numpy as np


class WrongSize(ValueError):
    """An image has another size than its annotation."""


def is_final(dtype, value_range):
    """Return whether pixels of this type are not scaled by a `value_range`."""
    return dtype == np.bool_ or (dtype == np.uint8 and (value_range is None or value_range[1] > 255))


def check_pixels(pixels, name, value_range=None):
    """Raise ValueError unless `conversion.to_uint8` takes these pixels."""
    if is_final(pixels.dtype, value_range):
        return
    if pixels.dtype.kind == "i" and pixels.dtype.itemsize <= 4 and value_range is None and pixels.size:
        raise ValueError(
            f"Expected grey values from 0 to 65535, received {pixels.min()} to {pixels.max()} as"
            f" {pixels.dtype.newbyteorder('=')} in {name}; name their range, such as"
            f" value_range={suggested_range(pixels.min(), pixels.max(), pixels.dtype)}."
        )
    if reason := wrong_type(pixels.dtype, value_range):
        raise ValueError(
            f"Expected pixels as uint8, uint16 or float in 0..1, received {reason} in {name}; convert them."
        )
    if pixels.dtype.kind != "f":
        return
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)  # NaN if any pixel is NaN
    if np.isnan(low):
        raise ValueError(f"Expected finite pixels, received NaN in {name}; replace or remove it.")
    if value_range is not None and not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"Expected finite pixels, received {low:.4g} to {high:.4g} in {name}; replace or remove them.")
    if value_range is None and (low < 0 or high > 1):
        remedy = "replace or remove them"
        if np.isfinite(low) and np.isfinite(high):
            remedy = (
                f"rescale them, or name their range, such as value_range={suggested_range(low, high, pixels.dtype)}"
            )
        raise ValueError(f"Expected float pixels in 0..1, received {low:.4g} to {high:.4g} in {name}; {remedy}.")


def suggested_range(low, high, dtype):
    """Write low,high: a range that holds these values, in round numbers: for integers of 12 bits 0,4095."""
    low, high = float(low), float(high)
    low = 0 if 0 <= low < high / 10 or low >= high else -_rounded_up(-low)
    # Floats up to 255 are 8-bit numbers, whatever the largest of these is.
    if dtype.kind == "f" and low == 0 and 1 < high <= 255:
        return "0,255"
    # Just below 2^n - 1, the values are numbers of n bits.
    bits = 2 ** math.ceil(math.log2(high + 1)) - 1 if dtype.kind == "u" and high > 0 else high
    return f"{low:.6g},{bits if 0.9 * bits < high < bits else _rounded_up(high):.6g}"


def _rounded_up(value):
    """The next number of two digits."""
    if not value:
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return math.ceil(value / unit - 1e-9) * unit


def is_channels_first(shape):
    """Return whether an image of this shape (H, W, C) seems to be (C, H, W): a square behind 1 or 3."""
    # PyTorch's layout. (3, 4, 4) may as well be an image of three rows.
    return len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2] >= 8


def check_layout(shape, place):
    """Raise ValueError if images of this shape (B, H, W, C) seem to be (B, C, H, W)."""
    if len(shape) == 4 and is_channels_first(shape[1:]):
        raise ValueError(
            f"Expected images (B, H, W, C), received {tuple(shape)} in {place}, which seem to be (B, C, H, W);"
            " transpose them by (0, 2, 3, 1)."
        )


def wrong_type(dtype, value_range=None):
    """Why pixels of this type cannot be scaled, or None."""
    if dtype.kind in "fub" and not (dtype.kind == "u" and dtype.itemsize > 2):
        return None
    if dtype.kind in "iu" and value_range is not None:
        return None
    if dtype.kind in "iu" and dtype.itemsize <= 4:
        return f"{dtype.newbyteorder('=')} without value_range=LOW,HIGH"
    return str(dtype)


def check_range(value_range):
    """Return (low, high) as floats, or None.

    Raises:
        ValueError: unless these are two finite numbers, the lower one first.
    """
    if value_range is None:
        return None
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        received = ",".join(map(str, value_range)) if isinstance(value_range, (list, tuple)) else value_range
        raise ValueError(
            f"Expected value_range as two numbers, the first less than the second, such as 0,4095, received {received}."
        )
    return low, high
