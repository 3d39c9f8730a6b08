"""Annotations of images that their EXIF tag turns: from the frame that is stored to the upright one."""

import numpy as np

from keras_splitmask.data import jpeg
from keras_splitmask.data.decoding import TURNS, open_picture

ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = 5  # orientations from here on exchange height and width


def orientation(path):
    """The EXIF orientation of an image file, 1 to 8; 1 if its header names none."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
            if start.startswith(jpeg.START) and b"Exif" not in start:  # most photographs of a published data set
                return 1
            file.seek(0)
            with open_picture(file) as image:
                # Of a PNG without the block in its header, Pillow would decode all pixels to look for it behind them.
                found = image.getexif().get(ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
    except Exception:  # a file that is no picture, or a damaged block, says nothing
        return 1
    return found if found in TURNS else 1


def upright(size, turn):
    """The (height, width) of a stored image after it is turned."""
    return tuple(size[::-1]) if turn >= SIDEWAYS else tuple(size)


def turn_labels(labels, turn):
    """A label map (H, W) of the stored image as that of the upright one."""
    return TURNS[turn](labels[..., None])[..., 0] if turn in TURNS else labels


def turn_points(points, size, turn):
    """Points (n, 2) of x, y in a stored image of this (height, width) as those of the upright one, of another shape."""
    (height, width), (x, y) = size, np.reshape(points, (-1, 2)).astype("float64").T
    turned = {
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (height - y, x),
        7: (height - y, width - x),
        8: (y, width - x),
    }
    return np.stack(turned.get(turn, (x, y)), axis=1)
