"""Decode the content of an image file to pixels."""

import functools
import io
import math
import warnings

import numpy as np

from keras_splitmask.backend.optional import optional
from keras_splitmask.data import arrayfile, bounds, jpeg, netpbm
from keras_splitmask.data.bounds import is_grey
from keras_splitmask.data.conversion import fit_channels as fit_channels  # what read_pixels leaves to do
from keras_splitmask.data.conversion import to_uint8 as to_uint8
from keras_splitmask.data.reasons import reason_of
from keras_splitmask.data.resizing import resize
from keras_splitmask.data.values import WrongSize

# The formats that are read. Pillow knows more, but some of those run other programs (EPS) or are not images (MPEG).
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
PIECE = 1 << 22  # bytes of a Pillow image that are converted at once, to avoid a copy of a large image
# EXIF orientation: how to turn stored pixels (H, W, C) upright.
TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, 1),
}
DEEP_COLOURS = ("RGB;16B", "RGB;16N")  # Pillow's names for 16-bit colour in a PNG, which it reads with 8 bits
GREY_FACTORS = {
    "L;2": (2, 85),
    "L;4": (4, 17),
    "L": (8, 1),
}  # bits of a grey value in a PNG, and the factor by which Pillow multiplies it
SAMPLE_FORMAT = 339  # tag of a TIFF: 1 for unsigned integers, 2 for signed ones, 3 for floats
# Messages of libjpeg about flipped bits and missing pieces; Pillow would go on with grey or shifted blocks.
DAMAGE = ("premature end", "bad Huffman", "bad arithmetic", "instead of RST")


def read_pixels(content, name, plan=None):
    """Decode an image file to pixels, turned upright by its EXIF tag. Only the first of several frames is read.

    Transparent pixels are shown on white. CMYK, YCbCr and palettes become RGB. Grey of more than 8 bits keeps its
    depth; 16-bit colour is read with 8 bits, as Pillow does.

    Args:
        content: bytes of a file in one of `FORMATS`, or of an .npy or .npz file with one array (H, W) or (H, W, C).
        name: name of the file, for errors.
        plan: a function (height, width) -> (box, size): the part (top, left, height, width) to read, and the (rows,
            columns) to which it will be resized. A JPEG is decoded at 1/2, 3/8, 1/4 or 1/8 of its resolution if that
            is enough for `size`, and resized here. By default the whole image at full resolution.

    Returns:
        (H, W, C); C is 1 or 3 for an image file. uint8, or uint16 or float32 for grey with more than 8 bits.

    Raises:
        ValueError: with the name, if the content cannot be decoded.
    """
    try:
        if content.startswith((arrayfile.NUMPY, arrayfile.ZIP)):
            pixels = arrayfile.read_array(content)
            return part(pixels, plan(*pixels.shape[:2])[0]) if plan else pixels
        return _picture(content, plan)
    except (ImportError, WrongSize):
        raise
    except Exception as error:  # damaged files raise errors of many types: OSError, SyntaxError, struct.error...
        raise ValueError(
            f"Expected a readable image, received {name} ({reason_of(error)}); repair or remove the file."
        ) from error


def part(pixels, box):
    """The part (top, left, height, width) of pixels (H, W, C)."""
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def open_picture(file):
    """Pillow's image of an open binary file in one of `FORMATS`; only its header is read."""
    return optional("PIL.Image", "data").open(file, formats=_formats())


@functools.cache
def _formats():
    Image = optional("PIL.Image", "data")
    # The scan has limits of its own, and Pillow raises an error above its second limit.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    # Loads all of Pillow's formats; before that it knows the common ones only.
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _picture(content, plan):
    if content.startswith(jpeg.START):
        header = jpeg.look(content)
        if stored := None if header.may_turn else _known_jpeg(content):
            *sides, grey = stored
            return _planned_jpeg(content, header, sides, 1, grey, plan)
    bounds.check_unopened(io.BytesIO(content), len(content))
    with open_picture(io.BytesIO(content)) as image:
        sides = image.height, image.width
        if image.format in ("JPEG", "MPO"):
            return _planned_jpeg(
                content,
                header,
                sides,
                orientation(image),
                image.mode == "L" if image.mode in ("L", "RGB") else None,
                plan,
            )
        bounds.check_picture(image, len(content))
        if image.format == "PNG":
            _check_png(content)
        if stored := netpbm.stored(image):
            return _planned(sides, 1, plan, lambda fraction: netpbm.read(content, image, *stored))
        scale_transparency(image)
        # Load before reading the EXIF block: Pillow would load it then, and return a blank image after a failure.
        image.load()
        sides = image.height, image.width  # now, since Pillow has turned a TIFF upright
        return _planned(sides, orientation(image), plan, lambda fraction: pixels_of(image))


def _known_jpeg(content):
    """Return (height, width, whether it is grey) of an ordinary JPEG; None for other kinds.

    Pillow reads the whole header in Python, which took a tenth of the time of a small photograph.
    """
    try:
        height, width, colours, _ = optional("simplejpeg", "data").decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width, colours == "Gray") if colours in ("Gray", "YCbCr") else None


def _planned_jpeg(content, header, sides, turn, grey, plan):
    """Read the planned part of a JPEG; see `_planned`. `grey` is None if neither grey nor RGB is stored."""
    largest = bounds.largest_share(header, *sides, len(content))

    def decode(fraction):
        if fraction == 1:  # the full resolution is wanted; otherwise the largest that fits into memory will do
            bounds.check_jpeg(header, *sides, len(content), 1)
        fraction = min(fraction, largest)
        return _by_pillow(content, fraction) if grey is None else _jpeg(content, sides, grey, fraction)

    return _planned(sides, turn, plan, decode)


def _planned(stored, turn, plan, decode):
    """Read the part of an image that `plan` asks for.

    Args:
        stored: (height, width) in the file.
        turn: EXIF orientation.
        plan: see `read_pixels`.
        decode: a function from a fraction of the resolution to pixels of at least that resolution.
    """
    height, width = stored[::-1] if turn >= 5 else stored  # such a turn exchanges the sides
    box, size = plan(height, width) if plan else ((0, 0, height, width), (height, width))
    # As much as the side needs that is reduced least, never more than there is.
    pixels = decode(min(1.0, max(size[0] / box[2], size[1] / box[3])))
    # Half of 41 rows are 21, the last one half beyond the border; the factor is exactly 1/2 all the same.
    factor = next(
        k / 8 for k in (8, 4, 3, 2, 1) if pixels.shape[:2] == tuple(math.ceil(side * k / 8) for side in stored)
    )
    pixels = TURNS[turn](pixels) if turn in TURNS else pixels
    if factor == 1:
        return part(pixels, box)
    # Here, since the part rarely begins and ends with whole pixels of this resolution.
    return resize(pixels, size, tuple(factor * length for length in box))


def _check_png(content):
    """Raise SyntaxError if a checksum of a PNG is wrong; Pillow does not check those of the pixels."""
    with open_picture(io.BytesIO(content)) as image:
        image.verify()


def orientation(image):
    """The orientation of a Pillow image by its EXIF or XMP block: 1 (upright) to 8.

    Call it after `load`: a block may come after the pixels. By then Pillow has turned a TIFF upright.
    """
    try:
        bounds.check_block(image.info.get("exif", b""))
        turn = image.getexif().get(0x0112, 1)
        return turn if turn in TURNS else 1
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _jpeg(content, stored, grey, fraction):
    """Decode a JPEG with simplejpeg at a fraction of its resolution or more."""
    height, width = (math.ceil(side * fraction) for side in stored)
    try:
        # The same pixels as Pillow's at 1.6 times the speed (measured), and it notices more damage. Factors between 1
        # and 2 are slow.
        return optional("simplejpeg", "data").decode_jpeg(
            content, "GRAY" if grey else "RGB", min_height=height, min_width=width, min_factor=2
        )
    except ValueError as error:
        if any(damage in str(error) for damage in DAMAGE):
            raise
    return _by_pillow(content, fraction)  # harmless bytes between two markers, for instance


def _by_pillow(content, fraction):
    """Decode a JPEG with Pillow, which also reads CMYK, at 1, 1/2, 1/4 or 1/8 of its resolution."""
    with open_picture(io.BytesIO(content)) as image:
        divisor = next(divisor for divisor in (8, 4, 2, 1) if divisor * fraction <= 1)  # the largest that will do
        image.draft(None, (max(1, image.width // divisor), max(1, image.height // divisor)))
        return pixels_of(image)


def keeps_depth(content):
    """Return whether all bits of an image file are read, given its content; 16-bit colour is read with 8 bits."""
    if content.startswith((arrayfile.NUMPY, arrayfile.ZIP)):
        return True
    with open_picture(io.BytesIO(content)) as image:
        return not is_cut_to_8_bits(image)


def is_cut_to_8_bits(image):
    """Return whether Pillow keeps only 8 of 16 bits of an image, which is not loaded yet."""
    stored = image.tile[0].args if image.tile else ""
    stored = stored[0] if isinstance(stored, tuple) else stored  # Pillow's name for the layout in the file
    return not is_deep(image.mode) and ";16" in str(stored)


def is_deep(mode):
    """Return whether an image of this Pillow mode has more than 8 bits for each value."""
    return mode in ("I", "F") or mode.startswith("I;16")


def scale_transparency(image):
    """Scale the transparent colour of a PNG to the depth of Pillow's pixels; Pillow keeps the number in the file."""
    key, depth = image.info.get("transparency"), image.tile[0][3] if image.tile else None
    if image.format != "PNG" or isinstance(key, bytes) or key is None:
        return
    if depth in DEEP_COLOURS:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # Pillow keeps the upper 8 bits
    elif depth in GREY_FACTORS:
        bits, factor = GREY_FACTORS[depth]
        image.info["transparency"] = (key & (2**bits - 1)) * factor  # only the lower bits count


def pixels_of(image):
    """Return (H, W, C) of Pillow's image."""
    image.load()
    read = _deep_reader(image) if is_deep(image.mode) else functools.partial(_shallow, grey=is_grey(image.mode))
    rows = max(1, PIECE // (4 * image.width))  # 4 bytes a pixel in Pillow
    first = read(image.crop((0, 0, image.width, min(rows, image.height))))
    pixels = np.empty((image.height, *first.shape[1:]), first.dtype)
    pixels[:rows] = first
    for top in range(rows, image.height, rows):
        pixels[top : top + rows] = read(image.crop((0, top, image.width, min(top + rows, image.height))))
    return pixels


def _deep_reader(image):
    """Choose how to read deep grey: a function from a piece of the image to (h, W, 1) numbers of up to 32 bits."""
    if image.mode == "F":
        return lambda piece: np.asarray(piece, "float32")[..., None]
    if image.mode == "I":
        low, high = image.getextrema()
        if low < 0 and image.format == "TIFF" and set(image.tag_v2.get(SAMPLE_FORMAT, (1,))) == {1}:
            return lambda piece: np.asarray(piece).view("uint32")[..., None]  # Pillow has no unsigned type
        if low < 0 or high > 65535:
            return lambda piece: np.asarray(piece)[..., None]
    # PhotometricInterpretation (tag 262) is WhiteIsZero: Pillow inverts 8 bits, but not 16.
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(262) == 0
    key = image.info.get("transparency")

    def read(piece):
        pixels = np.asarray(piece).astype("uint16")[..., None]
        if isinstance(key, int):
            pixels[pixels == key] = 65535  # on white
        return 65535 - pixels if white_is_zero else pixels

    return read


def _shallow(piece, grey):
    """The pixels (h, W, 1 or 3) uint8 of a piece of an image."""
    if piece.has_transparency_data:
        # The colour of a transparent pixel is arbitrary, so show it on white, as a page does.
        Image = optional("PIL.Image", "data")
        piece = piece.convert("RGBA")
        piece = Image.alpha_composite(Image.new("RGBA", piece.size, "white"), piece)
    pixels = np.asarray(piece.convert("L" if grey else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)
