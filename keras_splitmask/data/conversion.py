"""Convert pixels of any type to uint8, and between grey and colour."""

import numpy as np

from keras_splitmask.data.values import check_pixels, is_final

GREY_WEIGHTS = np.array((0.299, 0.587, 0.114), "float32")  # ITU-R BT.601, as Pillow's convert("L")
AT_ONCE = 1 << 20  # values that are converted at once: float copies of a whole image would take many times its memory


def to_uint8(pixels, name, value_range=None):
    """Scale pixels (H, W, C) to uint8 (H, W, C), rounded.

    Args:
        pixels: uint8, uint16, bool, or float in 0..1, of any byte order. With a `value_range` also other integers and
            any finite floats.
        name: name of the image, for errors.
        value_range: (low, high), the values that become 0 and 255; others are clipped. The default is the range of the
            type: 0 and 65,535 for uint16, 0 and 1 for floats. uint8 stays unchanged if `high` is above 255, as in
            0..4095.

    Raises:
        ValueError: with the name, if the pixels have another type or are out of range.
    """
    if is_final(pixels.dtype, value_range):
        return pixels * np.uint8(255) if pixels.dtype == np.bool_ else pixels
    check_pixels(pixels, name, value_range)
    scaled = np.empty(pixels.shape, "uint8")
    rows = max(1, AT_ONCE // max(1, pixels[:1].size))
    for start in range(0, len(pixels), rows):
        scaled[start : start + rows] = _rescaled(pixels[start : start + rows], value_range)
    return scaled


def _rescaled(pixels, value_range):
    if value_range is not None:
        low, high = value_range
        # float32 does not hold all integers of 32 bits.
        inside = np.clip(pixels.astype("float64"), low, high)
        return np.round((inside - low) * (255 / (high - low))).astype("uint8")
    if pixels.dtype.kind == "u":
        # 65535 = 255 * 257, so integers round exactly.
        return ((pixels.astype("uint32") + 128) // 257).astype("uint8")
    return np.round(pixels * np.float32(255)).astype("uint8")


def fit_channels(image, channels, name):
    """Convert an image (H, W, C) uint8 to (H, W, channels): grey to RGB, or RGB to grey.

    Raises:
        ValueError: with the name, for any other pair of channels.
    """
    received = image.shape[-1]
    if channels in (None, received):
        return image
    if (received, channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (received, channels) == (3, 1):
        # In pieces, since the product with the weights is in float32.
        grey = np.empty((*image.shape[:2], 1), "uint8")
        rows = max(1, AT_ONCE // max(1, image[:1].size))
        for start in range(0, len(image), rows):
            grey[start : start + rows, :, 0] = np.round(image[start : start + rows] @ GREY_WEIGHTS)  # (rows, W)
        return grey
    raise ValueError(
        f"Expected an image of {channels} channels, received {received} in {name}; only grey and RGB are converted, "
        f"so set channels={received} or convert the image."
    )
