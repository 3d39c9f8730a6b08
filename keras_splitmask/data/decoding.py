"""From an image file to pixels, and from pixels of any kind to uint8 of the wanted number of channels."""

import numpy as np

from keras_splitmask.data.optional import optional

GREY_WEIGHTS = np.array((0.299, 0.587, 0.114), "float32")  # ITU-R BT.601, as Pillow's convert("L")


def read_image(file, name):
    """The pixels of an image file, upright as its EXIF tag says.

    Args:
        file: a path, or an open binary file.
        name: what to call it in an error.

    Returns:
        (H, W, C) with C = 1 or 3: uint8, or uint16 or float32 where the file is grey with more than 8 bits.

    Raises:
        ValueError: with the name, if the file cannot be decoded.
    """
    Image, ImageOps = optional("PIL.Image", "data"), optional("PIL.ImageOps", "data")
    try:
        with Image.open(file) as image:
            return _pixels(ImageOps.exif_transpose(image), Image)
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over: OSError, SyntaxError, struct.error...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected a readable image, received {name} ({reason}); repair or remove the file.") from error


def image_channels(file):
    """1 or 3: the channels that `read_image` gives, told from the file's header; 1 if the header cannot be read."""
    try:
        with optional("PIL.Image", "data").open(file) as image:
            return 1 if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16") else 3
    except (OSError, SyntaxError, ValueError):
        return 1


def _pixels(image, Image):
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        pixels = np.asarray(image)[..., None]  # (H, W, 1)
        if image.mode == "F":
            return pixels.astype("float32")
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"grey values from {pixels.min()} to {pixels.max()} do not fit 16 bits")
        return pixels.astype("uint16")
    grey = image.mode in ("1", "L", "LA", "La")
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
