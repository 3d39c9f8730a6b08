"""Pixels of PGM and PPM files whose largest value is neither 255 nor 65,535: Pillow reads these in Python, 2 us a
value."""

import numpy as np


def stored(image):
    """Return (offset, largest value) of the binary values of Pillow's image, or None if Pillow reads it as fast.

    The image must not be loaded yet.
    """
    tile = image.tile[0] if image.format == "PPM" and image.tile else None
    return (tile.offset, tile.args[1]) if tile and tile.codec_name == "ppm" else None


def is_deep(image):
    """Return whether Pillow's image, not loaded yet, has binary values that `read` returns as uint16."""
    place = stored(image)
    return place is not None and place[1] > 255


def is_text(image):
    """Return whether the values of Pillow's image are written as text."""
    return image.format == "PPM" and bool(image.tile) and image.tile[0].codec_name == "ppm_plain"


def read(content, image, offset, largest):
    """The pixels (H, W, C), scaled to fill uint8, or uint16 where the largest value is above 255.

    Raises:
        ValueError: if the file is cut short.
    """
    full = 65535 if largest > 255 else 255
    # A table of all possible values, so that not every pixel is scaled by itself.
    table = np.round(np.minimum(np.arange(full + 1), largest) * (full / largest)).astype(
        "uint16" if largest > 255 else "uint8"
    )
    return table[values(content, image, offset, largest)]


def values(content, image, offset, largest):
    """The values (H, W, C) as they are stored."""
    shape = image.height, image.width, len(image.getbands())
    # The format puts the more significant of two bytes first.
    return np.frombuffer(content, ">u2" if largest > 255 else "u1", np.prod(shape), offset).reshape(shape)


def written(image):
    """The values (H, W) or (H, W, C) as they are stored, of an image that is written as text: Pillow scales them to 255
    or 65,535."""
    largest, full = image.tile[0].args[1], 65535 if image.mode == "I" else 255
    return np.round(np.asarray(image) * (largest / full)).astype("uint16")
