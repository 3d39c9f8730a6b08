"""Read the header of an image file without decoding it."""

import os

from keras_splitmask.data import arrayfile, bounds, jpeg, netpbm
from keras_splitmask.data.bounds import is_grey
from keras_splitmask.data.decoding import SAMPLE_FORMAT, is_cut_to_8_bits, is_deep, open_picture
from keras_splitmask.data.reasons import reason_of

MAX_CHECKED = 16_000_000  # pixels; a file that seems cut short is decoded to make sure, unless it is larger
HEADER = 1 << 20  # bytes of a JPEG that are searched for its header
# The bytes that end a whole file, and how many of the last bytes to search for them.
END = {"JPEG": (b"\xff\xd9", 64), "MPO": (b"\xff\xd9", 64), "PNG": (b"IEND", 64), "GIF": (b";", 1)}
SEVERAL = (
    "TIFF",
    "GIF",
    "WEBP",
    "PNG",
    "AVIF",
)  # formats of several pages or frames, all of them images like the first
SAMPLES_PER_PIXEL, EXTRA_SAMPLES = 277, 338  # tags of a TIFF


def read_header(path, value_range=None, several=None, deep=None):
    """Return (height, width, channels) of an image file as stored, or a reason (str) to leave it out.

    Channels are 1 or 3 for a picture, and any number for an .npy or .npz file of one array (H, W) or (H, W, C), whose
    type must be one that `conversion.to_uint8` takes with that `value_range`. A picture of several pages or frames is
    added to the list `several`; a file with more than 8 bits for each value to the list `deep`.
    """
    try:
        size = os.path.getsize(path)
        if not size:
            return "an empty file"
        with open(path, "rb") as file:
            start = file.read(len(arrayfile.NUMPY))
            file.seek(0)
            if start.startswith((arrayfile.NUMPY, arrayfile.ZIP)):
                shape, dtype = arrayfile.read_form(file, size, value_range)
                more, has_deep_values = False, dtype.itemsize > 1
            else:
                bounds.check_unopened(file, size)
                shape, more, has_deep_values = _picture(file, size)
            for holds, paths in ((more, several), (has_deep_values, deep)):
                if holds and paths is not None:
                    paths.append(path)
            return shape
    except ImportError:
        raise
    except Exception as error:  # a damaged header raises whatever its reader stumbles over
        return reason_of(error)


def _picture(file, size):
    with open_picture(file) as image:
        height, width, channels = image.height, image.width, 1 if is_grey(image.mode) else 3
        if image.mode == "LAB":
            raise ValueError("colours in LAB, which Pillow does not convert; save it in RGB")
        if image.format == "TIFF":
            _check_samples(image, channels)
        has_deep_values = is_deep(image.mode) or is_cut_to_8_bits(image) or netpbm.is_deep(image)
        _check_memory(image, file, size)
        if height * width <= MAX_CHECKED and _seems_cut_short(file, size, image):
            image.draft(
                image.mode, (1, 1)
            )  # at an eighth of the resolution where it is a JPEG, which is enough to find its end
            image.load()
        more = image.format in SEVERAL and getattr(image, "is_animated", False)
    return (height, width, channels), more, has_deep_values


def _check_memory(image, file, size):
    if image.format not in ("JPEG", "MPO"):
        return bounds.check_picture(image, size)
    place = file.tell()
    file.seek(0)
    header = jpeg.look(piece := file.read(HEADER))
    while header.buffered and (following := file.read(HEADER)):
        header.scans += jpeg.count_scans(piece[-1:] + following)  # a marker may lie in both
        piece = following
    bounds.largest_share(header, image.height, image.width, size)
    file.seek(place)


def _check_samples(image, channels):
    """Without a word, Pillow reads the first three of five channels and of R, G, B, X, and takes any fourth for
    alpha."""
    if image.mode in ("L", "RGB") and 2 in image.tag_v2.get(SAMPLE_FORMAT, ()):
        raise ValueError("a TIFF of signed 8-bit values, which Pillow reads as unsigned; save it as .npy")
    samples = image.tag_v2.get(SAMPLES_PER_PIXEL, 1)
    not_alpha = image.mode == "RGBX" or (image.mode == "RGBA" and EXTRA_SAMPLES not in image.tag_v2)
    if samples > len(image.getbands()) or not_alpha:
        raise ValueError(f"a TIFF of {samples} channels, of which Pillow reads {channels}; save it as .npy")


def _seems_cut_short(file, size, image):
    # Pillow opens a file without a word, though its pixels are missing.
    if any(tile.offset >= size for tile in image.tile):
        return True
    if image.format not in END:
        return False
    (mark, tail), place = END[image.format], file.tell()
    file.seek(max(0, size - tail))
    cut_short = mark not in file.read()
    file.seek(place)
    return cut_short
