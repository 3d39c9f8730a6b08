"""Resizing on the host: the same antialiased bicubic filter for images of any depth."""

import functools
import importlib

import numpy as np

from keras_splitmask.backend.optional import optional


def resize(image, size, box=None):
    """Resize an image (H, W, C) uint8 to `size`, rows before columns: (*size, C) uint8.

    `box` is the part to resize, (top, left, height, width) in pixels and fractions of them; by default all.

    The filter has two implementations: cykooz-resizer, measured five times as fast, or Pillow where that is not
    installed (it has no wheels for Linux on ARM). They round in a different order, so single pixels may differ.
    """
    whole = (0, 0, *image.shape[:2])
    box = box or whole
    if box == whole and image.shape[:2] == tuple(size):
        return image
    resize_piece, depth = _implementation(image.shape[-1])
    # A resizer takes at most 4 or 3 channels, so images with more are resized in groups.
    pieces = [resize_piece(image[..., c : c + depth], size, box) for c in range(0, image.shape[-1], depth)]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)


def whole_pixels(length):
    """Round a length to whole pixels, at least 1. Halves go up, also those that float32, as in programs, misses."""
    return max(1, int(length + 0.501))


def read_resized(source, index, size, box):
    """Read the part box(height, width, size) of an image of a source, resized to `size`: (*size, C) uint8."""
    return resize(source.image(index, lambda height, width: (box(height, width, size), size)), size)


@functools.cache
def _implementation(channels):
    """Choose the implementation: a function (image, size, box) -> image, and how many channels it takes at once."""
    try:
        return functools.partial(_by_cykooz, importlib.import_module("cykooz_resizer")), 4
    except ImportError:
        return functools.partial(_by_pillow, optional("PIL.Image", "data")), 3 if channels == 3 else 1


def _by_cykooz(cykooz, image, size, box):
    height, width, channels = image.shape
    top, left, rows, columns = box
    kind = (cykooz.PixelType.U8, cykooz.PixelType.U8x2, cykooz.PixelType.U8x3, cykooz.PixelType.U8x4)[channels - 1]
    filter = cykooz.ResizeAlg.convolution(cykooz.FilterType.catmull_rom)  # what Pillow calls bicubic
    resized = cykooz.ImageData(size[1], size[0], kind)
    # One resizer per image, since threads may not share one; it costs 1 us.
    # use_alpha=False: of four channels the last is no transparency, by which the others would be weighted.
    cykooz.Resizer().resize(
        cykooz.ImageData(width, height, kind, image.tobytes()),
        resized,
        cykooz.ResizeOptions(filter, use_alpha=False, crop_box=cykooz.CropBox(left, top, columns, rows)),
    )
    return np.frombuffer(resized.get_buffer(), "uint8").reshape(*size, channels)


def _by_pillow(Image, image, size, box):
    top, left, rows, columns = box
    plane = Image.fromarray(np.ascontiguousarray(image if image.shape[-1] == 3 else image[..., 0]))
    # Reducing by whole factors first makes the resizing of large photographs several times cheaper.
    resized = plane.resize(
        (size[1], size[0]), Image.Resampling.BICUBIC, (left, top, left + columns, top + rows), reducing_gap=3.0
    )
    return np.asarray(resized).reshape(*size, image.shape[-1])
