"""Bound the memory for reading an image file by its header, so that a file that needs too much is never decoded."""

import itertools
import re

from keras_splitmask.data import jpeg, netpbm
from keras_splitmask.data.tags import STARTS, check_block, check_tags

MAX_PIXELS = 178_000_000  # of one image; Pillow refuses more
MAX_BYTES = 450_000_000  # for one file, with all copies; conversion in pieces included, a reader stays below 500 MB
# Bytes that a format's decoder takes for a pixel, besides Pillow's image and what is read from it. Measured as the peak
# memory of a process that reads 10 to 20 million pixels of noise or of a pattern, and 1.7 bytes a pixel less for the
# pieces in which they are converted: all in all WebP took 16.5 to 17.3 bytes, AVIF 11 to 15 (and has twice the planes
# with 10 or 12 bits), JPEG 2000 19 to 25, in grey 6; PNG, GIF, BMP and PNM 2.3 to 8.1, which is what Pillow and the
# result take, TIFF 2.5 to 9.4.
EXTRA = {"WEBP": 11, "AVIF": 12, "JPEG2000": 18, "GIF": 2, "TIFF": 2}
LATER = 9  # bytes a pixel after decoding: RGB, its bytes for the resizer and the resizer's own; measured 9.0 to 9.4
IN_PILLOW = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}  # bytes a pixel, by mode; others have 4
DEPTHS = {"I": 4, "F": 4, "I;16": 2, "I;16L": 2, "I;16B": 2}  # bytes of a value that is read; others have 1
COPIES = 2  # of the file itself
# bytes a pixel at the resolution that is decoded, see LATER; progressive files 6 of the whole besides, and in CMYK 8
JPEG = 9
SHARES = (1, 1 / 2, 3 / 8, 1 / 4, 1 / 8)  # of its resolution that a JPEG is decoded at
# Pixels that the scans of a JPEG go over, all together. Each takes up to 3 ns, so 5 s in all. A photograph has about 10
# scans.
MAX_SCANNED = 1_500_000_000
MIN_SCANNED = 4096  # pixels that a scan counts for at least
MAX_WRITTEN = 1_000_000  # pixels of a PNM file that are written as text, 1 us a value
MAX_JPEG2000 = 25_000_000  # bytes of such a file; 5 million are decoded per second
MAX_BLOCKS = 100  # of tags in one file
ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH, BITS, SAMPLES, COMPRESSION = 278, 322, 323, 258, 277, 259  # tags of a TIFF


def is_grey(mode):
    """Return whether an image of this Pillow mode is read as one channel; otherwise as three."""
    return mode in ("1", "L", "LA", "La", "I", "F") or mode.startswith("I;16")


def check_file(size):
    """Raise ValueError if a file of this many bytes is too large to read whole."""
    if size > MAX_BYTES:
        raise ValueError(f"a file of {size / 1e6:.0f} MB, more than {MAX_BYTES // 10**6}; make it smaller")


def check_unopened(file, size):
    """Raise ValueError if Pillow should not even open this binary file of `size` bytes.

    The file is left at its start.
    """
    check_file(size)

    def read(place, length):
        file.seek(place)
        return file.read(length)

    start = read(0, 12)
    try:
        if start.startswith(STARTS):
            check_tags(read, size)
        elif start.startswith(jpeg.START):
            jpeg.look(read(0, 1 << 20))
        elif start[4:8] == b"ftyp":  # AVIF, whose EXIF block may be anywhere
            _check_blocks(memoryview(read(0, size)))
    finally:
        file.seek(0)


def _check_blocks(content):
    places = [match.start() for match in itertools.islice(re.finditer(rb"II\*\0|MM\0\*", content), MAX_BLOCKS + 1)]
    if len(places) > MAX_BLOCKS:
        raise ValueError(f"more than {MAX_BLOCKS} blocks of tags")
    for place in places:
        check_block(bytes(content[place:]))


def check_picture(image, size):
    """Raise ValueError if decoding Pillow's image takes too much memory. Not for a JPEG.

    The image, of a file of `size` bytes, must not be loaded yet.
    """
    if netpbm.is_text(image) and image.height * image.width > MAX_WRITTEN:
        raise ValueError(f"more than {MAX_WRITTEN // 10**6} million pixels, written as text; save it as PNG")
    if image.format == "JPEG2000" and size > MAX_JPEG2000:
        raise ValueError(
            f"a JPEG 2000 file of {size / 1e6:.0f} MB, which takes too long to decode; save it as PNG or TIFF"
        )
    grey, depth = is_grey(image.mode), DEPTHS.get(image.mode, 1)
    decoding = EXTRA.get(image.format, 0) + IN_PILLOW.get(image.mode, 4) + (1 if grey else 3) * depth
    # What decoding takes or what follows it, whichever is more.
    strip = _strip(image) if image.format == "TIFF" else 0
    _check(image.height, image.width, image.height * image.width * max(decoding, LATER) + strip + COPIES * size)


def _strip(image):
    """Count the bytes of a compressed TIFF that are decoded at once."""
    tags = image.tag_v2
    if tags.get(COMPRESSION, 1) == 1:
        return 0
    rows, columns = min(tags.get(ROWS_PER_STRIP, image.height), image.height), image.width
    if TILE_WIDTH in tags:
        rows, columns = tags.get(TILE_LENGTH, 1), tags[TILE_WIDTH]
    return rows * columns * tags.get(SAMPLES, 1) * max(tags.get(BITS, (1,))) // 8


def check_jpeg(header, height, width, size, share):
    """Raise ValueError if decoding a JPEG at a fraction of its resolution takes too much memory.

    Args:
        header: its `jpeg.Jpeg`.
        height, width: pixels.
        size: bytes of the file.
        share: one of `SHARES`.
    """
    _check(height, width, _jpeg(header, height, width, size, share))
    if header.buffered and header.scans * max(MIN_SCANNED, height * width) > MAX_SCANNED:
        raise ValueError(
            f"{height} x {width} pixels in {header.scans} scans, which take too long to decode; save the image again"
        )


def largest_share(header, height, width, size):
    """Return the largest of `SHARES` at which a JPEG can be decoded. If none will do, raise as `check_jpeg` does."""
    check_jpeg(header, height, width, size, SHARES[-1])
    return next(share for share in SHARES if _jpeg(header, height, width, size, share) <= MAX_BYTES)


def _jpeg(header, height, width, size, share):
    kept = 2 * header.samples if header.buffered else 0
    return height * width * (kept + JPEG * share**2) + COPIES * size


def check_array(height, width, channels, size):
    """Raise ValueError if reading an array of `size` bytes as an image takes too much memory."""
    _check(height, width, size + height * width * (channels + 2 * max(3, channels)))


def _check(height, width, needed):
    if height * width > MAX_PIXELS:
        raise ValueError(f"{height} x {width} pixels, more than {MAX_PIXELS // 10**6} million")
    if needed > MAX_BYTES:
        raise ValueError(
            f"{height} x {width} pixels would take {needed / 1e6:.0f} MB of memory to read, more than"
            f" {MAX_BYTES // 10**6}; make it smaller"
        )
