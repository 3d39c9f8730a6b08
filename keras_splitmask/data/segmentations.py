"""COCO's segmentations, polygons or run lengths: which can be used, and the masks that they stand for."""

import math

import numpy as np

from keras_splitmask.data.optional import optional


def finite(values):
    """A sequence as a list of floats, or None if it is none of finite numbers."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def usable(segmentation, height, width):
    """A segmentation without polygons of fewer than three corners, the others cut to the image; None if there is none.

    Args:
        segmentation: as COCO has them: a list of polygons [x, y, x, y...], or {"size": [height, width], "counts": ...} with run lengths as a
            list or a string; None or empty where there is none.
        height, width: of the image.

    Raises:
        ValueError: with the reason, if it cannot be used.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    polygons = [finite(polygon) for polygon in segmentation] if isinstance(segmentation, list) else []
    polygons = [_inside(polygon, height, width) for polygon in polygons if polygon and len(polygon) >= 6 and len(polygon) % 2 == 0]
    if not polygons:
        raise ValueError("a segmentation without a polygon")
    return polygons


def _run_lengths(segmentation, height, width):
    """Run lengths as a list, that fill the image: pycocotools decodes others to whatever is in the memory."""
    if segmentation.get("size") != [height, width]:
        raise ValueError("a segmentation of another size than its image")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _unpacked(counts)
    lengths = isinstance(counts, list) and all(isinstance(count, int) and count >= 0 for count in counts)
    if not lengths or sum(counts) != height * width:
        raise ValueError("run lengths that do not fill the image")
    return {"size": [height, width], "counts": counts}


def _unpacked(text):
    """The run lengths of COCO's text: five bits a character, the lowest first, and from the fourth run on the difference to the last but one."""
    counts, value, bits = [], 0, 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:  # the last character of a run
            value -= (code & 16) << (bits - 4)  # its highest bit is the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = bits = 0
    return counts


def _inside(polygon, height, width):
    """A polygon whose corners are moved to the border if they lie beyond it: pycocotools counts pixels along its edges, however far."""
    x, y = polygon[0::2], polygon[1::2]
    if min(polygon) >= 0 and max(x) <= width and max(y) <= height:
        return polygon
    return np.stack([np.clip(x, 0, width), np.clip(y, 0, height)], axis=1).ravel().tolist()


def mask_in_box(segmentation, box, side):
    """The part of a segmentation that lies in a box, resampled.

    Args:
        segmentation: as `usable` gives it.
        box: [top, left, bottom, right] in the image's pixels, not empty.
        side: rows and columns of the mask.

    Returns:
        (side, side) uint8 of 0 and 1.
    """
    top, left, bottom, right = map(float, box)
    if isinstance(segmentation, list):  # drawn at the size that is wanted, without the image
        masks = optional("pycocotools.mask", "coco")
        scale = side / np.array([right - left, bottom - top])
        polygons = [((np.reshape(polygon, (-1, 2)) - (left, top)) * scale).ravel().tolist() for polygon in segmentation]
        return masks.decode(masks.merge(masks.frPyObjects(polygons, side, side)))
    height, width = segmentation["size"]
    runs = (np.arange(len(segmentation["counts"])) % 2).astype("uint8")
    whole = np.repeat(runs, segmentation["counts"]).reshape(width, height).T  # (H, W): runs go down the columns
    centres = (np.arange(side) + 0.5) / side
    rows, columns = (np.minimum((a + centres * (b - a)).astype(int), end - 1) for a, b, end in ((top, bottom, height), (left, right, width)))
    return whole[np.ix_(rows, columns)]  # (side, side)
