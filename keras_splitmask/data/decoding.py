"""From a file's content to pixels, and from pixels of any type to uint8 of the wanted number of channels."""

import functools
import io
import math
import warnings

import numpy as np

from keras_splitmask.backend.optional import optional
from keras_splitmask.data import arrayfile, bounds, jpeg, netpbm
from keras_splitmask.data.bounds import is_grey
from keras_splitmask.data.values import check_pixels, is_final

# The formats that are read. Pillow knows more, of which some run other programs (EPS) or are no pictures (MPEG).
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
GREY_WEIGHTS = np.array((0.299, 0.587, 0.114), "float32")  # ITU-R BT.601, as Pillow's convert("L")
AT_ONCE = 1 << 20  # values that are converted at once: float copies of a whole image would take many times its memory
PIECE = 1 << 22  # bytes of Pillow's that are converted at once, so that a large image is not copied whole
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
# What libjpeg says of flipped bits and missing pieces, after which Pillow would go on with grey or shifted blocks.
DEEP_COLOURS = ("RGB;16B", "RGB;16N")  # Pillow's names of what a PNG stores with 16 bits, of which it keeps 8
GREY_FACTORS = {
    "L;2": (2, 85),
    "L;4": (4, 17),
    "L": (8, 1),
}  # bits of a grey value in a PNG, and by what Pillow multiplies it
SAMPLE_FORMAT = 339  # tag of a TIFF: 1 for unsigned integers, 2 for signed ones, 3 for floats
DAMAGE = ("premature end", "bad Huffman", "bad arithmetic", "instead of RST")


def read_pixels(content, name, plan=None):
    """The pixels of an image file, upright as its EXIF tag says; of several frames the first.

    Transparent pixels are shown on white. CMYK, YCbCr and palettes become RGB. Grey of more than 8 bits keeps them;
    colour of 16 bits is read with 8, as Pillow does.

    Args:
        content: bytes of a file in one of `FORMATS`, or of an .npy or .npz file with one array (H, W) or (H, W, C).
        name: what to call it in an error.
        plan: a function (height, width) -> (box, size): which part (top, left, height, width) is wanted, and the (rows,
            columns) that it will be resized to. A JPEG is then decoded at 1/2, 3/8, 1/4 or 1/8 if the part is still no
            smaller than that. By default the whole image in full.

    Returns:
        (H, W, C), of an image file with C = 1 or 3: uint8, or uint16 or float32 where the file is grey with more than 8
        bits.

    Raises:
        ValueError: with the name, if the content cannot be decoded.
    """
    try:
        if content.startswith((arrayfile.NUMPY, arrayfile.ZIP)):
            pixels = arrayfile.read_array(content)
            return part(pixels, plan(*pixels.shape[:2])[0]) if plan else pixels
        return _picture(content, plan)
    except ImportError:
        raise
    except (
        Exception
    ) as error:  # a damaged file raises whatever its decoder stumbles over: OSError, SyntaxError, struct.error...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"Expected a readable image, received {name} ({reason}); repair or remove the file."
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
    warnings.simplefilter(
        "ignore", Image.DecompressionBombWarning
    )  # the scan draws the line, and above it Pillow an error
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
            return _planned(sides, 1, plan, lambda share: netpbm.read(content, image, *stored))
        scale_transparency(image)
        # before the EXIF block is asked for: Pillow would load it then, and give a blank image after a failure
        image.load()
        sides = image.height, image.width  # of a TIFF, Pillow has turned it
        return _planned(sides, orientation(image), plan, lambda share: _pixels(image))


def _known_jpeg(content):
    """(height, width, whether it is grey) of a JPEG of an ordinary kind, or None.

    Pillow reads all of a header, in Python, which was a tenth of the time that a small photograph takes.
    """
    try:
        height, width, colours, _ = optional("simplejpeg", "data").decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width, colours == "Gray") if colours in ("Gray", "YCbCr") else None


def _planned_jpeg(content, header, sides, turn, grey, plan):
    """See `_planned`; `grey` is None where neither grey nor RGB is stored."""
    largest = bounds.largest_share(header, *sides, len(content))

    def decode(share):
        if share == 1:  # as it is stored; what is resized anyway is decoded as large as fits
            bounds.check_jpeg(header, *sides, len(content), 1)
        share = min(share, largest)
        return _by_pillow(content, share) if grey is None else _jpeg(content, sides, grey, share)

    return _planned(sides, turn, plan, decode)


def _planned(stored, turn, plan, decode):
    """The part of a picture that is planned.

    Args:
        stored: (height, width) in the file.
        turn: its orientation by EXIF.
        plan: see `read_pixels`.
        decode: from the share of its resolution that is needed to its pixels, of at least that share.
    """
    height, width = stored[::-1] if turn >= 5 else stored
    box, size = plan(height, width) if plan else ((0, 0, height, width), (height, width))
    pixels = decode(min(1.0, max(size[0] / box[2], size[1] / box[3])))
    # Of 41 rows, half are 21, of which the last is half beyond the border: the factor is exactly a half even so.
    factor = next(
        k / 8 for k in (8, 4, 3, 2, 1) if pixels.shape[:2] == tuple(math.ceil(side * k / 8) for side in stored)
    )
    pixels = TURNS[turn](pixels) if turn in TURNS else pixels
    return part(pixels, box if factor == 1 else _scaled(box, factor))


def _check_png(content):
    """Raises SyntaxError if a checksum of a PNG is wrong: of its pixels Pillow does not look at them."""
    with open_picture(io.BytesIO(content)) as image:
        image.verify()


def _scaled(box, factor):
    """A box in an image that was scaled by that factor, in whole pixels."""
    (top, bottom), (left, right) = ((start, start + length) for start, length in zip(box[:2], box[2:], strict=True))
    top, left = math.floor(top * factor), math.floor(left * factor)
    return top, left, max(1, round(bottom * factor) - top), max(1, round(right * factor) - left)


def orientation(image):
    """Where the EXIF or XMP block of Pillow's image says that the top is: 1 to 8, of which 1 is upright; other numbers
    say nothing.

    Only after `load` are those blocks known that come after the pixels, and a TIFF is then turned already.
    """
    try:
        bounds.check_block(image.info.get("exif", b""))
        turn = image.getexif().get(0x0112, 1)
        return turn if turn in TURNS else 1
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _jpeg(content, stored, grey, share):
    """Pixels of a JPEG (height, width) of at least that share of its resolution."""
    height, width = (math.ceil(side * share) for side in stored)
    try:
        # The same pixels as Pillow's, measured at 1.6 times its speed, and noticing more damage. Factors between 1 and
        # 2 are slow.
        return optional("simplejpeg", "data").decode_jpeg(
            content, "GRAY" if grey else "RGB", min_height=height, min_width=width, min_factor=2
        )
    except ValueError as error:
        if any(damage in str(error) for damage in DAMAGE):
            raise
    return _by_pillow(content, share)  # harmless bytes between two markers, for instance


def _by_pillow(content, share):
    """The same by Pillow, which reads CMYK too, at 1, 1/2, 1/4 or 1/8."""
    with open_picture(io.BytesIO(content)) as image:
        divisor = next(divisor for divisor in (8, 4, 2, 1) if divisor * share <= 1)
        image.draft(None, (max(1, image.width // divisor), max(1, image.height // divisor)))
        return _pixels(image)


def keeps_depth(content):
    """Whether an image file is read with all the bits that it has, given its content: colour of 16 bits is read with
    8."""
    if content.startswith((arrayfile.NUMPY, arrayfile.ZIP)):
        return True
    with open_picture(io.BytesIO(content)) as image:
        return not is_cut_to_8_bits(image)


def is_cut_to_8_bits(image):
    """Whether Pillow keeps 8 of 16 bits of an image that is not yet loaded."""
    stored = image.tile[0].args if image.tile else ""
    stored = stored[0] if isinstance(stored, tuple) else stored  # Pillow's name of how the pixels lie in the file
    return not is_deep(image.mode) and ";16" in str(stored)


def is_deep(mode):
    """Whether an image of this Pillow mode has more than 8 bits for each value."""
    return mode in ("I", "F") or mode.startswith("I;16")


def scale_transparency(image):
    """Bring the grey or colour of a PNG that is transparent to the depth that Pillow gives its pixels; it keeps the
    number of the file."""
    key, depth = image.info.get("transparency"), image.tile[0][3] if image.tile else None
    if image.format != "PNG" or isinstance(key, bytes) or key is None:
        return
    if depth in DEEP_COLOURS:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif depth in GREY_FACTORS:
        bits, factor = GREY_FACTORS[depth]
        image.info["transparency"] = (key & (2**bits - 1)) * factor


def _pixels(image):
    """(H, W, C) of Pillow's image."""
    image.load()
    read = _deep_reader(image) if is_deep(image.mode) else functools.partial(_shallow, grey=is_grey(image.mode))
    rows = max(1, PIECE // (4 * image.width))
    first = read(image.crop((0, 0, image.width, min(rows, image.height))))
    pixels = np.empty((image.height, *first.shape[1:]), first.dtype)
    pixels[:rows] = first
    for top in range(rows, image.height, rows):
        pixels[top : top + rows] = read(image.crop((0, top, image.width, min(top + rows, image.height))))
    return pixels


def _deep_reader(image):
    """A function from a piece of an image of grey with more than 8 bits to its pixels (h, W, 1): uint16, int32, uint32
    or float32."""
    if image.mode == "F":
        return lambda piece: np.asarray(piece, "float32")[..., None]
    if image.mode == "I":
        low, high = image.getextrema()
        if low < 0 and image.format == "TIFF" and set(image.tag_v2.get(SAMPLE_FORMAT, (1,))) == {1}:
            return lambda piece: np.asarray(piece).view("uint32")[..., None]  # of which Pillow knows no type
        if low < 0 or high > 65535:
            return lambda piece: np.asarray(piece)[..., None]
    # A TIFF whose PhotometricInterpretation is WhiteIsZero: Pillow inverts 8 bits, but not 16.
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
        # What a transparent pixel hides is arbitrary, so show it as a page would: on white.
        Image = optional("PIL.Image", "data")
        piece = piece.convert("RGBA")
        piece = Image.alpha_composite(Image.new("RGBA", piece.size, "white"), piece)
    pixels = np.asarray(piece.convert("L" if grey else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def to_uint8(pixels, name, value_range=None):
    """Scale pixels (H, W, C) to uint8 (H, W, C), rounded.

    Args:
        pixels: uint8, uint16, bool, or float in 0..1, of any byte order. With a `value_range` also other integers and
            any finite floats.
        name: what to call them in an error.
        value_range: (low, high), the values that become 0 and 255; those outside are clipped. By default the range of
            their type: 0 and 65,535 of uint16, 0 and 1 of floats. uint8 stays as it is if `high` is above 255, as in
            0..4095.

    Raises:
        ValueError: with the name, if the pixels are of another type or not in their range.
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
        inside = np.clip(pixels.astype("float64"), low, high)
        return np.round((inside - low) * (255 / (high - low))).astype("uint8")
    if pixels.dtype.kind == "u":
        return ((pixels.astype("uint32") + 128) // 257).astype("uint8")
    return np.round(pixels * np.float32(255)).astype("uint8")


def fit_channels(image, channels, name):
    """An image (H, W, C) uint8 to (H, W, channels): grey becomes RGB and RGB grey where need be, all else is
    refused."""
    received = image.shape[-1]
    if channels in (None, received):
        return image
    if (received, channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (received, channels) == (3, 1):
        grey = np.empty((*image.shape[:2], 1), "uint8")
        rows = max(1, AT_ONCE // max(1, image[:1].size))
        for start in range(0, len(image), rows):
            grey[start : start + rows, :, 0] = np.round(image[start : start + rows] @ GREY_WEIGHTS)
        return grey
    raise ValueError(
        f"Expected an image of {channels} channels, received {received} in {name}; only grey and RGB are converted, "
        f"so set channels={received} or convert the image."
    )
