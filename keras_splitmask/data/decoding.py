"""From a file's content to pixels, and from pixels of any kind to uint8 of the wanted number of channels."""

import functools
import io
import math
import warnings

import numpy as np

from keras_splitmask.data.optional import optional

MAX_PIXELS = 178_000_000  # of one image; a small file of more is taken for a decompression bomb
GREY_WEIGHTS = np.array((0.299, 0.587, 0.114), "float32")  # ITU-R BT.601, as Pillow's convert("L")
# The formats that are read. Pillow knows more, of which some run other programs (EPS) or are no pictures (MPEG).
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
NUMPY, ZIP, JPEG = b"\x93NUMPY", b"PK\x03\x04", b"\xff\xd8\xff"  # how .npy, .npz and JPEG files begin
APP1, START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG: of what may say how to turn it, EXIF or XMP, and of the end of its header
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
DAMAGE = ("premature end", "bad Huffman", "bad arithmetic", "instead of RST")


def read_pixels(content, name, plan=None):
    """The pixels of an image file, upright as its EXIF tag says; of several frames the first.

    Transparent pixels are shown on white. CMYK, YCbCr and palettes become RGB. Grey of more than 8 bits keeps them; colour of
    16 bits is read with 8, as Pillow does.

    Args:
        content: bytes of a file in one of `FORMATS`, or of an .npy or .npz file with one array (H, W) or (H, W, C).
        name: what to call it in an error.
        plan: a function (height, width) -> (box, size): which part (top, left, height, width) is wanted, and the (rows, columns)
            that it will be resized to. A JPEG is then decoded at 1/2, 3/8, 1/4 or 1/8 if the part is still no smaller than that.
            By default the whole image in full.

    Returns:
        (H, W, C), of an image file with C = 1 or 3: uint8, or uint16 or float32 where the file is grey with more than 8 bits.

    Raises:
        ValueError: with the name, if the content cannot be decoded.
    """
    try:
        if content.startswith((NUMPY, ZIP)):
            pixels = _array(content)
            return part(pixels, plan(*pixels.shape[:2])[0]) if plan else pixels
        return _picture(content, plan)
    except ImportError:
        raise
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over: OSError, SyntaxError, struct.error...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected a readable image, received {name} ({reason}); repair or remove the file.") from error


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
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the scan draws the line, and above it Pillow an error
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def is_grey(mode):
    """Whether an image of this Pillow mode is read as one channel; if not, as three."""
    return mode in ("1", "L", "LA", "La", "I", "F") or mode.startswith("I;16")


def _array(content):
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if content.startswith(ZIP):
        (name,) = array.files
        array = array[name]
    if array.ndim not in (2, 3):
        raise ValueError(f"an array of shape {array.shape}, not (H, W) or (H, W, C)")
    return array if array.ndim == 3 else array[..., None]


def _picture(content, plan):
    if stored := _known_jpeg(content):
        *sides, grey = stored
        return _planned(sides, 1, plan, lambda share: _jpeg(content, sides, grey, share))
    with open_picture(io.BytesIO(content)) as image:
        if image.format == "PNG":
            _check_png(content)
        if image.format not in ("JPEG", "MPO"):
            image.load()  # before the EXIF block is asked for: Pillow would load it then, and give a blank image after a failure
        sides, fast = (image.height, image.width), image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
        decode = (lambda share: _jpeg(content, sides, image.mode == "L", share)) if fast else (lambda share: _pixels(image))
        return _planned(sides, _orientation(image), plan, decode)


def _known_jpeg(content):
    """(height, width, whether it is grey) of a JPEG of an ordinary kind that does not say how it is to be turned, or None.

    Pillow reads all of a header, in Python, which was a tenth of the time that a small photograph takes.
    """
    if not content.startswith(JPEG) or APP1 in _markers(content):
        return None
    try:
        height, width, colours, _ = optional("simplejpeg", "data").decode_jpeg_header(content)
    except ValueError:
        return None
    return (height, width, colours == "Gray") if colours in ("Gray", "YCbCr") else None


def _markers(content):
    """The second bytes of the markers in a JPEG's header, as far as it is one."""
    place = 2
    while content[place : place + 1] == b"\xff" and (marker := content[place + 1 : place + 2]) != bytes([START_OF_SCAN]):
        yield from marker
        place += 2 + int.from_bytes(content[place + 2 : place + 4])


def _planned(stored, turn, plan, decode):
    """The part of a picture that is planned.

    Args:
        stored: (height, width) in the file.
        turn: its orientation by EXIF.
        plan: see `read_pixels`.
        decode: from the share of its resolution that is needed to its pixels, of at least that share.
    """
    height, width = stored[::-1] if turn >= 5 else stored
    if height * width > MAX_PIXELS:
        raise ValueError(f"{height} x {width} pixels, more than {MAX_PIXELS // 10**6} million")
    box, size = plan(height, width) if plan else ((0, 0, height, width), (height, width))
    pixels = decode(min(1.0, max(size[0] / box[2], size[1] / box[3])))
    # Of 41 rows, half are 21, of which the last is half beyond the border: the factor is exactly a half even so.
    factor = next(k / 8 for k in (8, 4, 3, 2, 1) if pixels.shape[:2] == tuple(math.ceil(side * k / 8) for side in stored))
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


def _orientation(image):
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _jpeg(content, stored, grey, share):
    """Pixels of a JPEG (height, width) of at least that share of its resolution."""
    height, width = (math.ceil(side * share) for side in stored)
    try:
        # The same pixels as Pillow's, measured at 1.6 times its speed, and noticing more damage. Factors between 1 and 2 are slow.
        return optional("simplejpeg", "data").decode_jpeg(content, "GRAY" if grey else "RGB", min_height=height, min_width=width, min_factor=2)
    except ValueError as error:
        if any(damage in str(error) for damage in DAMAGE):
            raise
    with open_picture(io.BytesIO(content)) as image:  # harmless bytes between two markers, for instance
        return _pixels(image)


def _pixels(image):
    Image = optional("PIL.Image", "data")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = np.asarray(image)[..., None]  # (H, W, 1)
        if image.mode == "F":
            return pixels.astype("float32")
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"grey values from {pixels.min()} to {pixels.max()} do not fit 16 bits")
        # A TIFF whose PhotometricInterpretation is WhiteIsZero: Pillow inverts 8 bits, but not 16.
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(262) == 0
        return (65535 - pixels if white_is_zero else pixels).astype("uint16")
    grey = is_grey(image.mode)
    if image.has_transparency_data:
        # What a transparent pixel hides is arbitrary, so show it as a page would: on white.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


def to_uint8(pixels, name):
    """Pixels of any shape, uint8, uint16, bool or float in 0..1, to uint8 of the same shape: 0 to 0, the largest to 255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype("uint32") + 128) // 257).astype("uint8")
    if pixels.dtype == np.bool_:
        return pixels * np.uint8(255)
    check_pixels(pixels, name)
    return np.round(pixels * np.float32(255)).astype("uint8")


def check_pixels(pixels, name):
    """Raises ValueError unless the pixels are uint8, uint16, bool, or floats in 0..1 without NaN."""
    if pixels.dtype in (np.uint8, np.uint16, np.bool_):
        return
    if pixels.dtype.kind != "f":
        raise ValueError(f"Expected pixels as uint8, uint16 or float in 0..1, received {pixels.dtype} in {name}; convert them.")
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)  # NaN if any pixel is NaN
    if np.isnan(low):
        raise ValueError(f"Expected finite pixels, received NaN in {name}; replace or remove it.")
    if low < 0 or high > 1:
        raise ValueError(f"Expected float pixels in 0..1, received {low:.4g} to {high:.4g} in {name}; rescale them.")


def fit_channels(image, channels, name):
    """An image (H, W, C) uint8 to (H, W, channels): grey becomes RGB and RGB grey where need be, all else is refused."""
    received = image.shape[-1]
    if channels in (None, received):
        return image
    if (received, channels) == (1, 3):
        return np.repeat(image, 3, axis=-1)
    if (received, channels) == (3, 1):
        return np.round(image @ GREY_WEIGHTS).astype("uint8")[..., None]
    raise ValueError(
        f"Expected an image of {channels} channels, received {received} in {name}; only grey and RGB are converted, "
        f"so set channels={received} or convert the image."
    )
