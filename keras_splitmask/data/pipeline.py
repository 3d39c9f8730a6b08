"""The batches of a whole run, read from a source of images; see `order.Order` for the order of the images."""

import functools
import operator

import numpy as np

from keras_splitmask.data.augmentation import CROPS
from keras_splitmask.data.augmentation import flip as flip_image
from keras_splitmask.data.augmentation import mix as mix_batch
from keras_splitmask.data.multicrop import MultiCrop
from keras_splitmask.data.order import Order
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.resizing import read_resized


def batches(source, image_shape, batch_size, crop="crop", flip=False, image_transform=None, labels=False, **order):
    """Read batches of images for `model.fit(batches(...), steps_per_epoch=..., epochs=...)`.

    The augmentation of an image depends only on (seed, t, its row in batch t). An image that cannot be read is
    reported once and replaced by another; see `Source.readable`. `fit` needs `steps_per_epoch`, since the batches do
    not end by themselves, and warns less with `shuffle=False`.

    Args:
        source: a `Source` of at least `batch_size` images.
        image_shape: (height, width, channels) of the batches; the channels must be those of the source.
        batch_size: images per batch.
        crop: a name in `augmentation.CROPS`, the part of each image that is shown.
        flip: mirror half of the images.
        image_transform: a function (image, rng) -> image (H, W, C) uint8 that comes last, such as `compose` returns.
        labels: return (images, labels (B,) int32) instead of images.
        **order: arguments of `Order`: seed, start, steps, workers, repeats, shard.

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) uint8.

    Raises:
        ValueError: if an argument is out of range or does not fit the source.
    """
    order = Order(batch_size, **order)
    read = _reader(source, image_shape, order, crop, flip, image_transform, labels)
    return order.stream(functools.partial(read, rows=order.rows))


def mixed_batches(source, image_shape, batch_size, mix, crop="crop", flip=False, image_transform=None, **order):
    """Read batches as `batches` does, and mix images and labels as `augmentation.mix` does.

    Images are mixed across the whole batch, so every host reads all of it.

    Args:
        mix: arguments of `augmentation.mix` by name, such as {"mixup": 0.8, "cutmix": 0.0}. By default `classes` is
            the number of classes of the source.
        source, image_shape, batch_size, crop, flip, image_transform, **order: as in `batches`.

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) float32 in 0..1 and label probabilities (B, classes) float32.

    Raises:
        ValueError: if an argument is out of range or does not fit the source.
    """
    order = Order(batch_size, **order)
    read = _reader(source, image_shape, order, crop, flip, image_transform, labels=True)
    arguments = {"classes": source.class_count, **mix}
    rows = slice(order.rows.start, order.rows.stop)

    def batch(step):
        # The mixing has random numbers of its own, for the batch, apart from those of its images.
        images, labels = read(step, rows=range(batch_size))
        return tuple(
            array[rows] for array in mix_batch(images, labels, generator("batch", order.seed, step), **arguments)
        )

    return order.stream(batch)


def view_batches(source, image_shape, batch_size, views, **order):
    """Read several crops of each image, as DINO needs them. The crops depend only on (seed, t, row in batch t).

    Args:
        views: a `MultiCrop`.
        source, image_shape, batch_size, **order: as in `batches`.

    Returns:
        A `grain.IterDataset` of dictionaries of "global" (B, 2, H, W, C) and "local" (B, k, h, w, C) uint8.

    Raises:
        ValueError: if an argument is out of range or does not fit the source.
    """
    order = Order(batch_size, **order)
    check_shape(source, image_shape)
    order.check(source)

    def batch(step):
        crops = []
        for row in order.rows:
            # The whole image at once, since each crop shows another part of it.
            image, _ = source.readable(order.indices(len(source), step)[row], source.image)
            crops.append(views.cut(image, image_shape[:2], generator("image", order.seed, step, row)))
        # (B, 2, H, W, C) and (B, k, h, w, C).
        return {name: np.stack([of_image[name] for of_image in crops]) for name in crops[0]}

    return order.stream(batch)


def two_view_batches(source, image_shape, batch_size, scale=(0.2, 1.0), **order):
    """Read two random crops of each image, the views of `SplitMask`, as `view_batches` does.

    Args:
        scale: the range of the fraction of the image's area that a crop shows; that of MoCo v2.
        source, image_shape, batch_size, **order: as in `batches`.

    Returns:
        A `grain.IterDataset` of images (B, 2, H, W, C) uint8.

    Raises:
        ValueError: if an argument is out of range or does not fit the source.
    """
    views = MultiCrop(0, image_shape[:2], global_scale=scale)
    return view_batches(source, image_shape, batch_size, views, **order).map(operator.itemgetter("global"))


def _reader(source, image_shape, order, crop, flip, image_transform, labels):
    """Check the arguments of `batches`, and return a function (step, rows) -> those rows of a batch."""
    check_shape(source, image_shape)
    if crop not in CROPS:
        raise ValueError(f"Expected crop to be one of {', '.join(CROPS)}, received {crop!r}.")
    order.check(source)
    if labels:
        source.check_labelled()

    def augmented(index, step, row):
        # By the row in the whole batch: hosts that share a batch draw what one host would.
        rng = generator("image", order.seed, step, row)
        image = read_resized(source, index, image_shape[:2], functools.partial(CROPS[crop], rng=rng))
        # The crop draws first, then the flip: in another order all runs of a seed would change.
        image = flip_image(image, rng) if flip else image
        return image_transform(image, rng) if image_transform else image

    def read(step, rows):
        images = np.empty((len(rows), *image_shape), "uint8")  # (b, H, W, C)
        indices = order.indices(len(source), step)[rows.start : rows.stop]
        for i, row in enumerate(rows):
            # The label is that of the image shown, which may stand in for one that cannot be read.
            images[i], indices[i] = source.readable(indices[i], functools.partial(augmented, step=step, row=row))
        return (images, source.labels[indices]) if labels else images

    return read


def check_shape(source, image_shape):
    """Raise ValueError unless `image_shape` is (height, width, channels) with the channels of the source."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"Expected image_shape=(height, width, channels), received {tuple(image_shape)}.")
    if source.channels != image_shape[-1]:
        raise ValueError(
            f"Expected images of {image_shape[-1]} channels, received {source.channels} in {source.name(0)}; "
            f"open the source with channels={image_shape[-1]}, or set image_shape to end in {source.channels}."
        )
