"""Check COCO's segmentations, polygons or run lengths, and turn them into masks."""

import math

import numpy as np

from keras_splitmask.backend.optional import optional
from keras_splitmask.data.turning import turn_labels, turn_points

MAX_CORNERS = 100_000  # of an object
MAX_TEXT = 4_000_000  # characters of run lengths; each takes 60 bytes while it is read
MAX_LENGTH = 2_000_000  # pixels along the outlines of an object; pycocotools takes about 200 bytes for each
MAX_CHARACTERS = 6  # of one run length in COCO's text: 30 bits


def finite(values):
    """Convert a sequence to a list of floats; None if its items are not all finite numbers."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def usable(segmentation, height, width):
    """Return a segmentation in COCO's form, with its polygons cut to the image; None if there is none.

    Polygons of fewer than three corners are dropped.

    Args:
        segmentation: a list of polygons [x, y, x, y...], or {"size": [height, width], "counts": ...} with run lengths
            as a list or a string. None or empty where there is none. A single polygon, and corners as [x, y], are
            converted.
        height, width: size of the image.

    Raises:
        ValueError: with the reason, if it cannot be used.
    """
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
        (segmentation,) = segmentation
    if not segmentation or (isinstance(segmentation, list) and not any(part or part == 0 for part in segmentation)):
        return None
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    polygons = _polygons(segmentation) if isinstance(segmentation, list) else []
    polygons = [
        _inside(polygon, height, width)
        for polygon in polygons
        if polygon and len(polygon) >= 6 and len(polygon) % 2 == 0
    ]
    if not polygons:
        raise ValueError("a segmentation without a polygon")
    if sum(map(_length, polygons)) > MAX_LENGTH:
        raise ValueError(f"outlines of more than {MAX_LENGTH:,} pixels in length")
    return polygons


def _polygons(segmentation):
    """Convert a list of numbers, of corners, or of lists of either to polygons, [x, y, x, y...].

    What is not a polygon becomes None.
    """
    if sum(len(part) if isinstance(part, list) else 1 for part in segmentation) > 2 * MAX_CORNERS:
        raise ValueError(f"an outline of more than {MAX_CORNERS:,} corners")
    if not any(isinstance(part, list) for part in segmentation):
        return [finite(segmentation)]
    if all(isinstance(corner, list) and len(corner) == 2 for corner in segmentation) and not isinstance(
        segmentation[0][0], list
    ):
        return [_joined(segmentation)]
    return [
        _joined(part) if isinstance(part, list) and part and isinstance(part[0], list) else finite(part)
        for part in segmentation
    ]


def _joined(corners):
    """Join corners [x, y] to one list of floats; None if they are not corners."""
    points = [finite(corner) if isinstance(corner, list) else None for corner in corners]
    return (
        [value for point in points for value in point] if all(point and len(point) == 2 for point in points) else None
    )


def _length(polygon):
    """Count the pixels along the edges of a polygon, since pycocotools keeps each of them in memory."""
    steps = np.abs(np.diff(np.reshape(polygon, (-1, 2)), axis=0, append=[polygon[:2]]))
    return int(np.ceil(steps.max(axis=1)).sum())  # an edge has as many pixels as its longer extent


def _run_lengths(segmentation, height, width):
    """Convert run lengths to a list. They must fill the image: pycocotools would decode others to random memory."""
    if segmentation.get("size") != [height, width]:
        raise ValueError("a segmentation of another size than its image")
    counts, total = segmentation.get("counts"), height * width
    if isinstance(counts, str):
        counts = _unpacked(counts) if len(counts) <= min(MAX_TEXT, MAX_CHARACTERS * (total + 2)) else None
    lengths = isinstance(counts, list) and all(isinstance(count, int) and 0 <= count <= total for count in counts)
    if not lengths or sum(counts) != total:
        raise ValueError("run lengths that do not fill the image")
    return {"size": [height, width], "counts": counts}


def _unpacked(text):
    """Decode the run lengths of COCO's text to a list; None if the text is not valid.

    Each character holds five bits, the lowest first. From the fourth run on, a number is the difference to the last
    but one.
    """
    # A character holds six bits, from "0" (48) on; the sixth says whether the number goes on.
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), "uint8").astype("int64") - 48
    ends = np.flatnonzero(codes & 32 == 0)  # the last character of each run
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not len(ends) or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= MAX_CHARACTERS:
        return None
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)  # of each character in its run
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    values -= (codes[ends] & 16) << (5 * places[ends] + 1)  # the highest bit of the last character is the sign
    # From index 3 on a number counts from the last but one, so odd and even indices add up by themselves.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist()


def turn_outline(outline, size, turn):
    """Turn an outline, as `usable` returns it, from a stored image of this (height, width) to the upright one."""
    if isinstance(outline, list):
        return [turn_points(polygon, size, turn).ravel().tolist() for polygon in outline]
    turned = turn_labels(_whole(outline), turn)
    flat = turned.T.ravel()  # down the columns, as COCO counts
    # COCO's run lengths begin with a run of 0, which may be empty.
    ends = np.flatnonzero(np.diff(flat, prepend=0))
    return {"size": list(turned.shape), "counts": np.diff([0, *ends, flat.size]).tolist()}


def _whole(outline):
    """Draw run lengths as a mask (H, W) uint8."""
    height, width = outline["size"]
    runs = (np.arange(len(outline["counts"])) % 2).astype("uint8")
    return np.repeat(runs, outline["counts"]).reshape(width, height).T  # runs go down the columns


def _inside(polygon, height, width):
    """Move corners beyond the image to its border: pycocotools counts all pixels along the edges, however far."""
    x, y = polygon[0::2], polygon[1::2]
    if min(polygon) >= 0 and max(x) <= width and max(y) <= height:
        return polygon
    return np.stack([np.clip(x, 0, width), np.clip(y, 0, height)], axis=1).ravel().tolist()


def mask_in_box(segmentation, box, side):
    """Resample the part of a segmentation inside a box.

    Args:
        segmentation: as `usable` returns it.
        box: [top, left, bottom, right] in the image's pixels, not empty.
        side: rows and columns of the mask.

    Returns:
        (side, side) uint8 of 0 and 1.
    """
    top, left, bottom, right = map(float, box)
    if isinstance(segmentation, list):  # drawn at the size of the mask, without the image
        masks = optional("pycocotools.mask", "coco")
        scale = side / np.array([right - left, bottom - top])  # (2,), x before y
        polygons = [((np.reshape(polygon, (-1, 2)) - (left, top)) * scale).ravel().tolist() for polygon in segmentation]
        return masks.decode(masks.merge(masks.frPyObjects(polygons, side, side)))
    (height, width), whole = segmentation["size"], _whole(segmentation)
    centres = (np.arange(side) + 0.5) / side  # of the cells, as fractions of the box
    rows, columns = (
        np.minimum((a + centres * (b - a)).astype(int), end - 1)
        for a, b, end in ((top, bottom, height), (left, right, width))
    )
    return whole[np.ix_(rows, columns)]  # (side, side)
