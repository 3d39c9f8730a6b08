"""Report if the values of a data set use only a small part of their range."""

import collections
import dataclasses

import numpy as np

from keras_splitmask.data.values import check_pixels, is_final, suggested_range

LOOKED_AT = 8  # images, spread over the set
SIDE = 256  # pixels of them that are looked at, in rows and in columns
# Data that use less of their range than this lose grey levels. A quarter includes 14 bits and reflectances up to 10,000
# in uint16.
SPARSE = 0.25
OUTLIERS = 0.1  # percent of the values at either end that do not count: a dead pixel, a burnt-in letter
CLIPPED = 0.01  # fraction of the values outside of the range that is worth a line


@dataclasses.dataclass(frozen=True)
class _Look:
    """What was seen of the values of one image: its index, their type, the ends of their range without outliers, and
    the fraction that lies outside of the full range."""

    index: int
    dtype: np.dtype
    low: float
    high: float
    outside: float


def report_range(source, place):
    """Report in a line if the values of a source fill a small part of their range, or are clipped by its `value_range`.

    Images of another depth or type are judged by themselves: 12 bits in 16-bit files are dark, also beside 8-bit files.
    Costs a small read of one or a few images; the same images are looked at every time.

    Args:
        source: a `Source`.
        place: name of the data set, for the line.
    """
    groups = source.by_depth()
    for indices in groups:
        looks = collections.defaultdict(list)
        for look in _looks(source, indices):
            looks[look.dtype].append(look)
        images = f"{place}, {len(indices)} of {len(source)} images" if len(groups) > 1 else place
        for of_type in looks.values():
            for line in _lines(source, of_type, images):
                source.report(line)


def _looks(source, indices):
    """Look at a few images of one depth. One image is enough where 8 bits fill their range."""
    found = []
    for k in np.unique(np.linspace(0, len(indices) - 1, min(LOOKED_AT, len(indices))).astype(int)).tolist():
        values = _values(source, indices[k])
        if values is None:
            continue
        dtype = values.dtype.newbyteorder("=")
        full = _full_range(dtype, source.value_range)
        ends = np.percentile(values, (OUTLIERS, 100 - OUTLIERS)).tolist()
        found.append(_Look(indices[k], dtype, *ends, float(np.mean((values < full[0]) | (values > full[1])))))
        if dtype.itemsize == 1 and source.value_range is None and _fills(found[-1], full):
            break
    return found


def _fills(look, full):
    return look.high - look.low >= SPARSE * (full[1] - full[0])


def _lines(source, looks, place):
    """List the lines about images of one depth and type."""
    dtype = looks[0].dtype
    full = _full_range(dtype, source.value_range)
    if source.value_range is None and any(_fills(look, full) for look in looks):
        return []
    low, high = min(look.low for look in looks), max(look.high for look in looks)
    if low >= high:  # blank images say nothing
        return []
    if dtype == np.uint8 and high - low < SPARSE * 255 and not source.keeps_depth(looks[0].index):
        return [_cut(high - low, place)]
    outside = float(np.mean([look.outside for look in looks]))
    return list(_notes(low, high, outside, full, dtype, source.value_range, place))


def _values(source, i):
    """Some values (h, w, C) of image `i`, or None if they cannot be read, which is said when they are needed, or are
    True and False."""
    try:
        pixels = source.read_pixels(
            i, lambda height, width: ((0, 0, height, width), (min(height, SIDE), min(width, SIDE)))
        )
        check_pixels(pixels, source.name(i), source.value_range)
    except ValueError:
        return None
    # More than SIDE rows and columns may come: a plan states only how much resolution is needed.
    return None if pixels.dtype == np.bool_ else pixels[:: -(-len(pixels) // SIDE), :: -(-pixels.shape[1] // SIDE)]


def _full_range(dtype, value_range):
    """The values that become 0 and 255."""
    if value_range and not is_final(dtype, value_range):
        return value_range
    return (0, 1) if dtype.kind == "f" else (0, np.iinfo(dtype).max)


def _notes(low, high, outside, full, dtype, value_range, place):
    fraction = max(0, min(high, full[1]) - max(low, full[0])) / (full[1] - full[0])
    seen, whole = (f"{ends[0]:.6g} to {ends[1]:.6g}" for ends in ((low, high), full))
    if outside > CLIPPED:
        yield (
            f"{place}: {outside:.0%} of the values, which go from {seen}, lie outside"
            f" value_range={full[0]:.6g},{full[1]:.6g} and are clipped."
        )
    if fraction < SPARSE:
        of = "value_range" if full == value_range else dtype
        yield (
            f"{place}: the values go from {seen}, a small part of the {whole} of {of}, which leaves"
            f" {round(255 * fraction) + 1} of 256 grey levels. Name their range, such as"
            f" value_range={suggested_range(low, high, dtype)}, to use all."
        )


def _cut(spread, place):
    """The line for colour of 16 bits that is dark once it is read with 8, whatever the `value_range`."""
    return (
        f"{place}: colour of 16 bits is read with 8 bits, of which the values fill a small part: {round(spread) + 1} of"
        " 256 levels. A value_range cannot restore the others; save the images as .npy files of uint16 first."
    )
