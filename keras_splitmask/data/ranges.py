"""Report if the values of a data set use only a small part of their range."""

import math

import numpy as np

from keras_splitmask.data.values import check_pixels, is_final

LOOKED_AT = 8  # images, spread over the set
SIDE = 256  # pixels of them that are looked at, in rows and in columns
# Data that use less of their range than this lose grey levels. A quarter includes 14 bits and reflectances up to 10,000
# in uint16.
SPARSE = 0.25
OUTLIERS = 0.1  # percent of the values at either end that do not count: a dead pixel, a burnt-in letter
CLIPPED = 0.01  # fraction of the values outside of the range that is worth a line


def report_range(source, place):
    """Report in a line if the values of a source fill a small part of their range, or are clipped by its `value_range`.

    Costs one small read where all is well; the same images are looked at every time.

    Args:
        source: a `Source`.
        place: name of the data set, for the line.
    """
    for line in _lines(source, place):
        source.report(line)


def _lines(source, place):
    low, high, outside, looked_at = math.inf, -math.inf, [], None
    for i in np.unique(np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).astype(int)).tolist():
        values = _values(source, i)
        if values is None:
            continue
        looked_at = i
        dtype = values.dtype.newbyteorder("=")
        full = _full_range(dtype, source.value_range)
        outside.append(np.mean((values < full[0]) | (values > full[1])))
        ends = np.percentile(values, (OUTLIERS, 100 - OUTLIERS))
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
        if source.value_range is None and high - low >= SPARSE * (full[1] - full[0]):
            return []
    if low >= high:  # blank images say nothing
        return []
    if dtype == np.uint8 and high - low < SPARSE * 255 and not source.keeps_depth(looked_at):
        return [_cut(high - low, place)]
    return list(_notes(low, high, float(np.mean(outside)), full, dtype, source.value_range, place))


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
            f" value_range={_suggested(low, high, dtype)}, to use all."
        )


def _cut(spread, place):
    """The line for colour of 16 bits that is dark once it is read with 8, whatever the `value_range`."""
    return (
        f"{place}: colour of 16 bits is read with 8 bits, of which the values fill a small part: {round(spread) + 1} of"
        " 256 levels. A value_range cannot restore the others; save the images as .npy files of uint16 first."
    )


def _suggested(low, high, dtype):
    """low,high: a range that holds the values, in round numbers: for integers of 12 bits 0,4095."""
    low = 0 if 0 <= low < high / 10 else -_rounded_up(-low)
    bits = 2 ** math.ceil(math.log2(high + 1)) - 1 if dtype.kind == "u" and high > 0 else high
    return f"{low:.6g},{bits if 0.9 * bits < high < bits else _rounded_up(high):.6g}"


def _rounded_up(value):
    """The next number of two digits."""
    if not value:
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return math.ceil(value / unit - 1e-9) * unit
