"""Cut and resize images inside a program, as `predict` and `embed` do before the model."""

from keras import ops

from keras_splitmask.backend.layers import reshape


def centre_resized(images, size, ratio):
    """Cut the centre of images and resize it, by operations that each format of a program has.

    The part is that of `data.center_box`, and the filter is that of `data.resizing`: rows first, then columns, each
    rounded to whole numbers. Resizing is a product with a matrix of the filter's weights, which depend on the sides of
    the images. Of what `data.resizing` computes, single numbers differ by 1, where rounding decides.

    Args:
        images: (B, H, W, C) uint8, of any sides.
        size: (rows, columns) to resize to.
        ratio: see `data.center_box`.

    Returns:
        (B, rows, columns, C) uint8.
    """
    count, height, width, channels = ops.shape(images)
    places = [ops.arange(side, dtype="float32") for side in (height, width)]  # of the pixels, along each side
    sides = [along[-1] + 1 for along in places]
    scale = ops.minimum(sides[0] / size[0], sides[1] / size[1]) * ratio
    rows, columns = (_filter(*given, scale) for given in zip(places, sides, size, strict=True))
    shown = reshape(ops.cast(images, "float32"), (count, height, -1))
    shown = reshape(_rounded(ops.matmul(rows, shown)), (count, size[0], width, channels))
    return ops.cast(_rounded(ops.matmul(columns, shown)), "uint8")


def _filter(places, side, new, scale):
    """The weights of a side's pixels in each of `new` pixels: (new, pixels), of the bicubic, antialiased filter."""
    length = ops.maximum(ops.round(new * scale), 1.0)  # of the part that is shown
    start = ops.floor((side - length) / 2)
    step = length / new
    centres = start + (ops.arange(new, dtype="float32") + 0.5) * step
    # Where the image shrinks, the filter grows by as much: this is the antialiasing.
    weights = _bicubic((places + 0.5 - centres[:, None]) / ops.maximum(step, 1.0))
    shown = ops.logical_and(places >= start, places < start + length)
    weights = ops.where(shown, weights, 0.0)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def _bicubic(distance):
    """The weight of a pixel at a distance in pixels, of Catmull and Rom's spline."""
    x = ops.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return ops.where(x < 1, near, ops.where(x < 2, far, 0.0))


def _rounded(pixels):
    return ops.clip(ops.floor(pixels + 0.5), 0, 255)
