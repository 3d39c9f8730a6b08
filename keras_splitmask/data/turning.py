"""Turn annotations from the stored image to the upright one, by the EXIF or XMP block of the image."""

import struct

import numpy as np

from keras_splitmask.data import bounds, decoding, jpeg
from keras_splitmask.data.decoding import TURNS, open_picture

START, HEADER = 4096, 1 << 20  # bytes of a JPEG that are looked at, and those if its header is longer
PNG = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"iTXt", b"tEXt", b"zTXt")  # chunks of a PNG that begin with a keyword
KEYWORDS = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"xmp", b"exif")  # of those that may say how it is turned
SIDEWAYS = 5  # orientations from here on exchange height and width


def orientation(path):
    """The orientation of an image file, 1 to 8, that it is turned by when it is read."""
    try:
        with open(path, "rb") as file:
            if not _may_turn(file):  # most photographs of a published data set
                return 1
            bounds.check_unopened(file, size := file.seek(0, 2))
            with open_picture(file) as image:
                if image.format == "PNG" and "exif" not in image.info:  # the block may come after the pixels
                    bounds.check_picture(image, size)
                    image.load()
                return decoding.orientation(image)
    except Exception:  # a file that is no picture says nothing
        return 1


def _may_turn(file):
    """Return whether a file may have a block that says how it is turned, from few bytes of it."""
    start = file.read(START)
    if start.startswith(jpeg.START):
        header = jpeg.look(start)
        return header.may_turn or (not header.whole and jpeg.look(start + file.read(HEADER - START)).may_turn)
    return not start.startswith(PNG) or _png_may_turn(file)


def _png_may_turn(file):
    place = len(PNG)
    while len(head := file.seek(place) and file.read(32)) >= 8:
        length, name = struct.unpack_from(">I4s", head)
        if name == b"eXIf" or (name in TEXTS and head[8:].partition(b"\0")[0] in KEYWORDS):
            return True
        place += length + 12  # length, name and checksum of a chunk have 4 bytes each
    return False


def upright(size, turn):
    """The (height, width) of a stored image after it is turned."""
    return tuple(size[::-1]) if turn >= SIDEWAYS else tuple(size)


def turn_labels(labels, turn):
    """A label map (H, W) of the stored image as that of the upright one."""
    return TURNS[turn](labels[..., None])[..., 0] if turn in TURNS else labels  # TURNS takes (H, W, C)


def turn_points(points, size, turn):
    """Points (n, 2) of x, y in a stored image of this (height, width) as those of the upright one, of another shape."""
    # width - x, not width - 1 - x: points lie between pixels, whose corners have whole numbers.
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
