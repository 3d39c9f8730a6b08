"""Why a file cannot be read, by the error of its reader, without the words of Python."""

import re

from keras_splitmask.data.bounds import MAX_PIXELS

OBJECT = re.compile(r" ?<[^<>]* object at 0x[0-9a-fA-F]+>")  # such as <_io.BytesIO object at 0x7f12>


def reason_of(error):
    """Write the reason in an error of any type that a reader of images or records may raise, in one line."""
    kind = type(error).__name__
    if kind == "DecompressionBombError":  # of Pillow, which may not be installed
        return f"more than {MAX_PIXELS // 10**6} million pixels"
    if kind == "UnidentifiedImageError":
        return "not an image of a known format"
    return " ".join(OBJECT.sub("", str(getattr(error, "strerror", None) or error)).split()) or kind
