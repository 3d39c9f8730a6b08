"""Pictures that an exported program is compared with its model on: images of the user, and the sample's clothes."""

import functools

# Sides of the sheets of clothes, relative to the model's: smaller and larger, wide and tall.
SHEETS = ((0.5, 1), (1, 0.7), (1.2, 3), (2, 2), (2.3, 1.5), (3, 4.1), (4, 1), (4.5, 3))
LARGEST_MAP = 4  # pixels of label maps to compare on, relative to the model's, each with a number for each class


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
    from keras_splitmask.transfer import Segmenter

    source = data.open_source("sample", "test")
    clothes = np.stack([source.image(i)[..., 0] for i in _spread(source, 500)])
    side = clothes.shape[1]
    *sides, channels = _shape(model)
    found = []
    segments = isinstance(model, Segmenter)
    for i, factors in enumerate(SHEETS):
        if segments and factors[0] * factors[1] > LARGEST_MAP:
            continue
        height, width = (max(1, round(n * factor)) for n, factor in zip(sides, factors, strict=True))
        tiles = (2, -(-height // side), -(-width // side), channels)
        shown = np.resize(np.roll(clothes, -7 * i, axis=0), (*tiles, side, side))
        sheet = shown.transpose(0, 1, 4, 2, 5, 3).reshape(2, tiles[1] * side, tiles[2] * side, channels)
        found.append(sheet[:, :height, :width])
    return found


def framed(images, model, ratio):
    """Images (n, h, w, C) uint8 as `predict` and `embed` show them to the model: (n, H, W, C) uint8."""
    import numpy as np

    from keras_splitmask import data
    from keras_splitmask.data.decoding import part
    from keras_splitmask.data.resizing import resize
    from keras_splitmask.interchange.programs import DETECTORS
    from keras_splitmask.transfer import Segmenter

    shape, sides = _shape(model), images.shape[1:3]
    if isinstance(model, DETECTORS):
        return np.stack([data.letterbox(image, shape)[0] for image in images])
    box = (0, 0, *sides) if isinstance(model, Segmenter) else data.center_box(*sides, shape[:2], ratio)
    return np.stack([resize(part(image, box), shape[:2]) for image in images])


def _spread(source, count):
    import numpy as np

    return np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)


def _shape(model):
    return getattr(model, "encoder", model).image_shape
