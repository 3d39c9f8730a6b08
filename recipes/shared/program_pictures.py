"""Pictures that an exported program is compared with its model on: images of the user, and the sample's clothes."""

import functools

# Sides of the sheets of clothes, relative to the model's: smaller and larger, wide and tall.
SHEETS = ((0.5, 1), (1, 0.7), (1.2, 3), (2, 2), (2.3, 1.5), (3, 4.1), (4, 1), (4.5, 3))


def open_pictures(paths, model):
    """Open --images with the channels and the value range of the model, or the sample. Files that cannot be used are
    counted in a line."""
    from keras_splitmask import data
    from keras_splitmask.data.counting import counted

    if not paths:
        return data.open_source("sample", "test")
    source = data.open_images(paths, _shape(model)[-1], getattr(model, "value_range", None))
    if source.left_out:
        name, reason = next(iter(source.left_out.items()))
        print(f"left out  {counted(len(source.left_out), 'file')}, such as {name} ({reason})")
    return source


def resized(source, model, count, ratio):
    """At most `count` pictures of a source, evenly spread, as the model takes them: (n, H, W, C) uint8."""
    import numpy as np

    from keras_splitmask.data.augmentation import center_box
    from keras_splitmask.data.resizing import read_resized

    height, width, channels = _shape(model)
    box = functools.partial(center_box, ratio=ratio)
    found = np.stack([read_resized(source, i, (height, width), box) for i in _spread(source, count)])
    return found if found.shape[-1] == channels else np.repeat(found, channels, axis=-1)  # the sample is grey


def of_own_sizes(source, count):
    """At most `count` pictures of a source, evenly spread, as they are: a list of (1, h, w, C) uint8."""
    return [source.image(i)[None] for i in _spread(source, count)]


def sheets(model):
    """Sheets of the sample's clothes, of several sizes, two of each: a list of (2, h, w, C) uint8. Each channel shows
    other clothes, so that their order counts."""
    import numpy as np

    from keras_splitmask import data

    source = data.open_source("sample", "test")
    clothes = np.stack([source.image(i)[..., 0] for i in _spread(source, 500)])
    side = clothes.shape[1]
    *sides, channels = _shape(model)
    found = []
    for i, factors in enumerate(SHEETS):
        height, width = (max(1, round(n * factor)) for n, factor in zip(sides, factors, strict=True))
        tiles = (2, -(-height // side), -(-width // side), channels)
        shown = np.resize(np.roll(clothes, -7 * i, axis=0), (*tiles, side, side))
        sheet = shown.transpose(0, 1, 4, 2, 5, 3).reshape(2, tiles[1] * side, tiles[2] * side, channels)
        found.append(sheet[:, :height, :width])
    return found


def framed(batches, model, ratio):
    """The images of batches of any sizes, cut and resized by this library: (n, H, W, C) uint8."""
    import numpy as np

    from keras_splitmask.data.augmentation import center_box
    from keras_splitmask.data.decoding import part
    from keras_splitmask.data.resizing import resize

    size = _shape(model)[:2]
    images = [image for batch in batches for image in batch]
    return np.stack([resize(part(image, center_box(*image.shape[:2], size, ratio)), size) for image in images])


def _spread(source, count):
    import numpy as np

    return np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)


def _shape(model):
    return getattr(model, "encoder", model).image_shape
