"""Read the numbers that a label map file stores for its pixels."""

import contextlib
import io
import os
import threading

import numpy as np

from keras_splitmask.data import bounds, netpbm
from keras_splitmask.data.arrayfile import NUMPY
from keras_splitmask.data.decoding import is_cut_to_8_bits, open_picture
from keras_splitmask.data.reasons import reason_of

LOSSLESS = ("BMP", "DIB", "GIF", "PNG", "PPM", "TIFF")
MODES = ("1", "L", "P", "I", "I;16", "I;16B")  # Pillow's, of images of numbers: grey of 1 to 32 bits, and palettes
COLOURED = ("1", "L", "P", "RGB", "RGBA")  # Pillow's modes that have colours of 8 bits; the first two are grey
FACTORS = {"L;2": 85, "L;4": 17}  # Pillow multiplies grey of 2 and 4 bits by these, to fill 8
WHITE_IS_ZERO = ("L;I", "L;2I", "L;4I", "L;IR", "L;2IR", "L;4IR")  # Pillow's names of what a TIFF stores inverted
LARGEST = 65535
PART = 2**20  # pixels that are counted at a time
LARGE = 16_000_000  # pixels; such files are read one at a time, to save memory
_large = threading.Lock()


def read_numbers(content, name, colours=None):
    """Read the numbers (H, W) uint8 or uint16 of a file: grey values, indices in a palette, or an .npy array.

    Colours whose red, green and blue are equal count as grey values. With `colours.Colours`, a number is the row of a
    pixel's colour in that table.

    Raises:
        ValueError: with the name, if it cannot be read, is in colour, or has numbers beyond 65535.
    """
    try:
        numbers = _array(content) if content.startswith(NUMPY) else _picture(content, colours)
        low, high = numbers.min(), numbers.max()
        if low < 0 or high > LARGEST:
            raise ValueError(f"numbers from {low} to {high}, not 0 to {LARGEST}")
    except ImportError:
        raise
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        expected = f"Expected a readable label map, received {name} ({reason_of(error)})"
        raise ValueError(f"{expected}; repair or remove the file.") from error
    return numbers if numbers.dtype in ("uint8", "uint16") else numbers.astype("uint16")


def _array(content):
    array = np.load(io.BytesIO(content), allow_pickle=False)
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise ValueError(f"an array of {array.dtype} {array.shape}, not of integers (H, W)")
    return array.astype("uint8") if array.dtype == bool else array


def _picture(content, colours):
    bounds.check_unopened(io.BytesIO(content), len(content))
    with open_picture(io.BytesIO(content)) as image:
        if image.format not in LOSSLESS:
            kept = "is lossy, so its colours are not exact" if colours else "does not keep numbers"
            raise ValueError(f"{image.format}, which {kept}; save it as PNG")
        if is_cut_to_8_bits(image):
            raise ValueError(
                "colours of 16 bits, which are read with 8; save the numbers as a grey PNG or one with a palette"
            )
        bounds.check_picture(image, len(content))
        if image.format == "PNG":
            image.verify()  # the checksums, which Pillow does not look at when it decodes
    # Opened again, since `verify` uses Pillow's image up.
    with open_picture(io.BytesIO(content)) as image:
        if colours:
            return colours.numbers(_colours(image))
        numbers = _as_stored(image, content)
        numbers = numbers if image.mode in MODES else _grey(numbers, image.mode)
    return numbers.astype("uint8") if numbers.dtype == bool else numbers


def _colours(image):
    """The colours (H, W, 3) uint8 of Pillow's image. Transparent pixels are an error."""
    if image.mode not in COLOURED:
        raise ValueError(f"values that are no colours of 8 bits ({image.mode}); save it as a PNG in RGB")
    values = np.asarray(image.convert("RGBA"))
    if values[..., 3].min() < 255:
        raise ValueError("transparent pixels, whose colour is unknown; save it without transparency")
    return values[..., :3]


def is_coloured(path):
    """Return whether a label map holds colours: one with a palette or of several channels, by its header."""
    try:
        with open(path, "rb") as file:
            bounds.check_unopened(file, os.path.getsize(path))
            with open_picture(file) as image:
                return image.mode in COLOURED[2:]
    except Exception:  # a file that is no picture has no colours
        return False


def _as_stored(image, content):
    """Read the values (H, W) or (H, W, C) as the file of Pillow's image stores them.

    Pillow itself scales them to fill their type. The image must not be loaded yet.
    """
    if place := netpbm.stored(image):
        values = netpbm.values(content, image, *place)
        return values[..., 0] if values.shape[2] == 1 else values
    if netpbm.is_text(image) and image.mode != "1":
        return netpbm.written(image)
    depth = image.tile[0].args if image.tile else ""
    depth = depth if isinstance(depth, str) or not depth else str(depth[0])  # a TIFF has a tuple
    values = np.asarray(image)  # (H, W), or (H, W, C)
    values = 255 - values if depth in WHITE_IS_ZERO else values
    factor = FACTORS.get(depth.rstrip("IR") if depth else "", 1)
    return values if factor == 1 else values // np.uint8(factor)


def _grey(colours, mode):
    """Return the common value (H, W) of all channels of colours (H, W, C). Raise ValueError if they differ.

    Transparent pixels are an error too.
    """
    if mode in ("RGB", "RGBA", "LA"):
        values, alpha = (colours, None) if mode == "RGB" else (colours[..., :-1], colours[..., -1])
        if (alpha is None or alpha.min() == 255) and (values == values[..., :1]).all():
            return values[..., 0]
    kind = "numbers with fractions (F)" if mode == "F" else f"colours ({mode}) instead of the numbers of classes"
    raise ValueError(f"{kind}; save the numbers as a grey PNG or one with a palette")


def read_file(path, name, colours=None):
    """Read a file, see `read_numbers`. A missing file raises ValueError too."""
    if not os.path.isfile(path):  # opening a FIFO would wait forever
        raise ValueError(f"Expected a label map, received {name} (no file of that name); restore the file.")
    try:
        bounds.check_file(os.path.getsize(path))
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"Expected a label map, received {name} ({reason}); restore the file.") from error
    return read_numbers(content, name, colours)


def look(path, shape, colours=None):
    """Read the (height, width) of a label map and a list of the numbers in it, or a reason (str) to leave it out.

    Args:
        path: path of the file.
        shape: (height, width, ...) by its header.
        colours: see `read_numbers`.
    """
    try:
        with _large if shape[0] * shape[1] > LARGE else contextlib.nullcontext():
            stored = read_file(path, "", colours)
            return stored.shape, numbers_in(stored)
    except ValueError as error:
        # Only the reason: whoever lists it names the file, too.
        return str(error).partition("(")[2].rpartition(")")[0]


def numbers_in(stored):
    """List the different numbers in a label map (H, W), in order."""
    found, flat = np.zeros(LARGEST + 1, bool), stored.reshape(-1)
    for start in range(0, flat.size, PART):
        found[flat[start : start + PART]] = True
    return np.flatnonzero(found).tolist()
