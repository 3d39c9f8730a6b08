"""The batches of a run that learns boxes, masks or label maps; see `order.Order` for the order of the images."""

import functools

import numpy as np

from keras_splitmask.data.coco import DetectionSource
from keras_splitmask.data.counting import counted
from keras_splitmask.data.framing import drawn, stretched, whole
from keras_splitmask.data.label_maps import IGNORE, SegmentationSource
from keras_splitmask.data.order import Order
from keras_splitmask.data.pipeline import check_shape
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.segmentations import mask_in_box

MIN_FRACTION = 0.25  # part of a box that must be visible in the batch's image
MIN_SIDE = 2.0  # pixels of it that must be visible
DRAWS = 10  # at most, of a part of an image that is not nearly all of one class
FINE = 112  # rows and columns in which the outline of a cut object is looked for
MAX_IGNORED = 1000  # ignored objects per image, the largest; each is compared with every anchor


def detection_batches(
    source, image_shape, batch_size, augment=True, scale=(0.5, 1.5), max_objects=100, mask_size=None, **order
):
    """Read batches of images and their objects, endlessly. An unreadable image is replaced; see `Source.readable`.

    An image is resized by the factor that makes it fit, times a factor drawn from `scale`. Of an image that is then
    too large a random part is shown; padding at the bottom and on the right is 0. Half of the images are mirrored, and
    boxes are cut at the border; with masks they are then drawn around what is left of the outline. Some visible objects
    are "ignored", neither targets nor background:

    * crowds;
    * objects of which less than a quarter, or less than 2 pixels, are left;
    * objects without an outline, if masks are wanted;
    * the smallest objects of an image that has more than `max_objects`.

    Args:
        source: a `DetectionSource` of at least `batch_size` images.
        image_shape: (height, width, channels) of the batches.
        batch_size: images per batch.
        augment: if False, show the whole image, as `letterbox` does.
        scale: the smallest and the largest factor.
        max_objects: M, the largest number of targets in an image.
        mask_size: S, to return masks as well.
        **order: arguments of `Order`: seed, start, steps, workers, repeats, shard.

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) uint8 and a dictionary. "boxes" (B, M, 4) float32 are [top, left,
        bottom, right] in pixels; "labels" (B, M) int32 are -1 where there is no object. "ignored" (B, I, 4) float32
        are boxes of objects to ignore, padded with 0; I is the largest number an image of the source needs, at most
        1,000. With `mask_size` also "masks" (B, M, S, S) uint8, 0 or 1, of each object inside its box.

    Raises:
        ValueError: if the source does not fit, or masks are wanted and no object has an outline.
    """
    order = Order(batch_size, **order)
    _check(source, DetectionSource, image_shape, order, scale)
    if max_objects < 1 or (mask_size is not None and mask_size < 1):
        raise ValueError(
            f"Expected max_objects and mask_size of at least 1, received {max_objects=}, {mask_size=}; correct it."
        )
    if mask_size and not source.outlined and source.unoutlined != 0:
        raise ValueError(
            "Expected objects with a segmentation, received none that has one; leave mask_size out, or draw them."
        )
    _note_unused(source, max_objects, mask_size)
    # One number for the whole source, since a compiling backend needs arrays of one shape.
    max_ignored = min(source.most_objects or max_objects, MAX_IGNORED)

    def read(index, rng):
        image, frame = _read(source, index, image_shape, _frames(augment, whole, rng, scale))
        return image, targets_in(source.objects(index), frame, max_objects, max_ignored, mask_size)

    return _batches(read, source, order)


def segmentation_batches(source, image_shape, batch_size, augment=True, scale=(0.5, 2.0), largest_class=1.0, **order):
    """Read batches of images and label maps, endlessly. An unreadable image is replaced; see `Source.readable`.

    Images are augmented as in `detection_batches`. Padding has the label 255. Label maps are resized by nearest
    neighbour.

    Args:
        source: a `SegmentationSource` of at least `batch_size` images.
        augment: if False, stretch the whole image to `image_shape`, whatever its aspect ratio.
        image_shape, batch_size, scale, **order: as in `detection_batches`.
        largest_class: a random part of an image is drawn again, up to ten times, if one class fills more than this
            fraction of its labelled pixels (mmsegmentation has 0.75).

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) uint8 and label maps (B, H, W) int32.

    Raises:
        ValueError: if the source does not fit.
    """
    order = Order(batch_size, **order)
    _check(source, SegmentationSource, image_shape, order, scale)

    def read(index, rng):
        labels, frame_of = source.label_map(index), _frames(augment, stretched, rng, scale)
        for _ in range(DRAWS if augment and largest_class < 1 else 1):
            frame = frame_of(*source.size(index), image_shape[:2])
            shown = frame.show_labels(labels, image_shape[:2], IGNORE)
            counts = np.bincount(shown[shown != IGNORE])
            if counts.max(initial=0) <= largest_class * counts.sum():
                break
        return _read(source, index, image_shape, lambda *_: frame)[0], shown.astype("int32")

    return _batches(read, source, order)


def _frames(augment, plain, rng, scale):
    """Choose the function (height, width, room) -> the `Frame` of an image."""
    return functools.partial(drawn, rng=rng, scale=scale) if augment else plain


def _read(source, index, image_shape, frame_of):
    """An image as the batch shows it, (H, W, C) uint8, and the `Frame` that does."""
    # Reading refuses an image of another size than that of its annotation, so the frame fits.
    frame = frame_of(*source.size(index), image_shape[:2])
    part = source.image(index, lambda height, width: (frame.box, frame.size))
    return frame.show(part, image_shape), frame


def _batches(read, source, order):
    """Batches of what `read(index, rng)` returns: an image and its target, an array or a dictionary of arrays."""

    def sample(step, row, index):
        return source.readable(index, lambda index: read(index, generator("image", order.seed, step, row)))[0]

    def batch(step):
        indices = order.indices(len(source), step)
        images, targets = zip(*(sample(step, row, indices[row]) for row in order.rows), strict=True)
        if isinstance(targets[0], dict):
            return np.stack(images), {name: np.stack([target[name] for target in targets]) for name in targets[0]}
        return np.stack(images), np.stack(targets)

    return order.stream(batch)


def targets_in(objects, frame, max_objects, max_ignored, mask_size):
    """Turn the `Objects` of an image into targets inside its `Frame`: a dictionary of padded arrays."""
    cut = visible = frame.visible(objects.boxes)
    if mask_size:
        visible = _around_outlines(cut, objects)
    boxes = frame.place(visible)  # (n, 4)
    sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)  # (n,), in pixels of the batch
    # How much of an object is left is judged in the image; how small it is, in the batch.
    is_target = (_areas(cut) >= MIN_FRACTION * _areas(objects.boxes)) & (sides >= MIN_SIDE) & ~objects.crowd
    if mask_size:
        is_target &= np.array([outline is not None for outline in objects.segmentations], bool)
    by_size = np.argsort(-_areas(boxes), kind="stable")  # the largest first
    # In the order of the annotations again.
    kept = np.sort(by_size[is_target[by_size]][:max_objects])
    # An object without any visible row or column needs no ignoring.
    others = by_size[~np.isin(by_size, kept) & (sides[by_size] > 0)][:max_ignored]
    targets = {
        "boxes": _padded(boxes[kept], max_objects),  # (M, 4)
        "labels": np.full(max_objects, -1, "int32"),
        "ignored": _padded(boxes[others], max_ignored),  # (I, 4)
    }
    targets["labels"][: len(kept)] = objects.labels[kept]
    if mask_size:
        targets["masks"] = np.zeros((max_objects, mask_size, mask_size), "uint8")
        for row, n in enumerate(kept):
            mask = mask_in_box(objects.segmentations[n], visible[n], mask_size)  # (S, S), of what is visible
            targets["masks"][row] = mask[:, ::-1] if frame.mirrored else mask
    return targets


def _around_outlines(cut, objects):
    """Shrink cut boxes (n, 4) of `Objects` to what is left of their outlines; to nothing, if nothing is left."""
    boxes = cut.copy()
    for n in np.flatnonzero((cut != objects.boxes).any(axis=1) & (_areas(cut) > 0)):
        if objects.segmentations[n] is not None:
            rows, columns = np.nonzero(mask_in_box(objects.segmentations[n], cut[n], FINE))
            ends = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) if len(rows) else (0, 0, 0, 0)
            boxes[n] = np.tile(cut[n, :2], 2) + np.tile(cut[n, 2:] - cut[n, :2], 2) * ends / FINE
    return boxes


def _padded(boxes, rows):
    padded = np.zeros((rows, 4), "float32")
    padded[: len(boxes)] = boxes
    return padded


def _areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _check(source, kind, image_shape, order, scale):
    if not isinstance(source, kind):
        opening = "open_detection" if kind is DetectionSource else "open_segmentation"
        raise ValueError(
            f"Expected a source from {opening}, received {type(source).__name__}; open the data set with {opening}."
        )
    check_shape(source, image_shape)
    order.check(source)
    if np.shape(scale) != (2,) or not 0 < scale[0] <= scale[1] < float("inf"):
        raise ValueError(
            f"Expected scale to be the smallest and the largest factor, both above 0, received {scale=}; correct it."
        )


def _note_unused(source, max_objects, mask_size):
    """Report once which objects are not used as targets, and keep the line for the summary."""
    remarks = []
    if (most := source.most_objects or 0) > max_objects:
        counts = [len(source.annotations(i)) for i in range(len(source))]
        full, over = sum(n > max_objects for n in counts), sum(max(0, n - max_objects) for n in counts)
        remarks.append(
            f"{counted(over, 'object')} ignored in {counted(full, 'image')} of more than {max_objects}, up to {most};"
            " raise max_objects to learn from more than the largest"
        )
    if most > max_objects + MAX_IGNORED:
        remarks.append(f"the smallest beyond {max_objects + MAX_IGNORED} are taken for background")
    if mask_size and (without := source.unoutlined):
        remarks.append(f"{counted(without, 'object')} without an outline ignored")
    if remarks and not source.unused:
        source.unused = "; ".join(remarks)
        source.report(source.unused + ".")
