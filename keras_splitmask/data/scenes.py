"""The batches of a run that learns boxes, masks or label maps: batch t is a function of (seed, t), as in `pipeline`."""

import functools

import numpy as np

from keras_splitmask.data.coco import DetectionSource
from keras_splitmask.data.framing import drawn, stretched, whole
from keras_splitmask.data.label_maps import IGNORE, SegmentationSource
from keras_splitmask.data.pipeline import check_numbers, check_shape, indices_of, own_places, stream
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.segmentations import mask_in_box

MIN_SHARE = 0.25  # of a box that must be in the batch's image
MIN_SIDE = 2.0  # pixels of it there
MAX_IGNORED = 1000  # objects of an image that may be ignored, the largest; each is compared with every anchor


def detection_batches(
    source,
    image_shape,
    batch_size,
    seed=0,
    start=0,
    workers=2,
    share=(0, 1),
    augment=True,
    scale=(0.5, 1.5),
    max_objects=100,
    mask_size=None,
):
    """Images and their objects from step `start` on, endlessly; see `pipeline.batches` for their order and for
    unreadable images.

    An image is resized by the factor that makes it fit, times one drawn from `scale`; of what is too large any part is
    shown, what is missing is 0 at the bottom and on the right; half of them are mirrored. Boxes are cut at the border.
    Objects that are visible but no targets are "ignored", neither objects nor background: crowds, those of which less
    than a quarter or less than 2 pixels are left, those without an outline where masks are wanted, and of more than
    `max_objects` the smallest.

    Args:
        source: a `DetectionSource` of at least `batch_size` images.
        image_shape: (height, width, channels) of the batches.
        batch_size: images per batch.
        seed: of the order and of the augmentation.
        start: the step of the first batch; a later one costs nothing.
        workers: threads that prepare batches ahead; changes no batch.
        share: (i, n), to yield of each batch only the i-th of n equal parts: what host i of n needs.
        augment: if not, the whole image is shown, as `letterbox` does it.
        scale: the smallest and the largest factor.
        max_objects: M; of more the largest are targets, and the others are ignored.
        mask_size: S, if masks are wanted.

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) uint8 and a dictionary of "boxes" (B, M, 4) float32, [top, left,
        bottom, right] in pixels, "labels" (B, M) int32, -1 where there is no object, and "ignored" (B, I, 4) float32,
        boxes of objects to ignore, 0 where there are no more; I is as many as an image of the source may need, at most
        1,000. With `mask_size` also "masks" (B, M, S, S) uint8, 0 or 1, of each object inside its box.

    Raises:
        ValueError: if the source does not fit, or masks are wanted and no object has an outline.
    """
    _check(source, DetectionSource, image_shape, batch_size, seed, start, workers, share, scale)
    if max_objects < 1 or (mask_size is not None and mask_size < 1):
        raise ValueError(
            f"Expected max_objects and mask_size of at least 1, received {max_objects=}, {mask_size=}; correct it."
        )
    if mask_size and not source.outlined and source.unoutlined != 0:
        raise ValueError(
            "Expected objects with a segmentation, received none that has one; do without mask_size (--nomasks), or"
            " draw them."
        )
    _note_unused(source, max_objects, mask_size)
    places = min(source.most_objects or max_objects, MAX_IGNORED)

    def read(index, rng):
        image, frame = _read(source, index, image_shape, _frames(augment, whole, rng, scale))
        return image, _targets(source.objects(index), frame, max_objects, places, mask_size)

    return _batches(read, source, batch_size, seed, start, workers, share)


def segmentation_batches(
    source, image_shape, batch_size, seed=0, start=0, workers=2, share=(0, 1), augment=True, scale=(0.5, 2.0)
):
    """Images and label maps from step `start` on, endlessly; see `pipeline.batches` for their order and for unreadable
    images.

    Augmented as in `detection_batches`; where there is no image, the label is 255. A label is that of the nearest
    pixel.

    Args:
        source: a `SegmentationSource` of at least `batch_size` images.
        augment: if not, the whole image fills `image_shape`, whatever its shape was.
        image_shape, batch_size, seed, start, workers, share, scale: as of `detection_batches`.

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) uint8 and label maps (B, H, W) int32.

    Raises:
        ValueError: if the source does not fit.
    """
    _check(source, SegmentationSource, image_shape, batch_size, seed, start, workers, share, scale)

    def read(index, rng):
        image, frame = _read(source, index, image_shape, _frames(augment, stretched, rng, scale))
        return image, frame.show_labels(source.label_map(index), image_shape[:2], IGNORE).astype("int32")

    return _batches(read, source, batch_size, seed, start, workers, share)


def _frames(augment, plain, rng, scale):
    """A function (height, width, room) -> the `Frame` of an image."""
    return functools.partial(drawn, rng=rng, scale=scale) if augment else plain


def _read(source, index, image_shape, frame_of):
    """An image as the batch shows it, (H, W, C) uint8, and the `Frame` that does."""
    frames = []

    def plan(height, width):
        frames.append(frame_of(height, width, image_shape[:2]))
        return frames[0].box, frames[0].size

    part = source.image(index, plan)
    return frames[0].show(part, image_shape), frames[0]


def _batches(read, source, batch_size, seed, start, workers, share):
    """Batches of what `read(index, rng)` gives: an image, and its target, an array or a dictionary of arrays."""
    first, last = own_places(batch_size, share)

    def at(step, place, index):
        return source.readable(index, lambda index: read(index, generator("image", seed, step, place)))[0]

    def batch(step):
        indices = indices_of(len(source), batch_size, seed, step)[first:last]
        images, targets = zip(*(at(step, place, index) for place, index in enumerate(indices, first)))
        if isinstance(targets[0], dict):
            return np.stack(images), {name: np.stack([target[name] for target in targets]) for name in targets[0]}
        return np.stack(images), np.stack(targets)

    return stream(batch, start, None, workers)


def _targets(objects, frame, max_objects, places, mask_size):
    """The `Objects` of an image as those of its `Frame`: a dictionary of arrays, of `max_objects` to learn and `places`
    to ignore."""
    visible = frame.visible(objects.boxes)
    boxes = frame.place(visible)  # (n, 4)
    sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    learnt = (_areas(visible) >= MIN_SHARE * _areas(objects.boxes)) & (sides >= MIN_SIDE) & ~objects.crowd
    if mask_size:
        learnt &= np.array([outline is not None for outline in objects.segmentations], bool)
    by_size = np.argsort(-_areas(boxes), kind="stable")
    kept = np.sort(by_size[learnt[by_size]][:max_objects])
    others = by_size[~np.isin(by_size, kept) & (sides[by_size] > 0)][:places]
    targets = {
        "boxes": _padded(boxes[kept], max_objects),
        "labels": np.full(max_objects, -1, "int32"),
        "ignored": _padded(boxes[others], places),
    }
    targets["labels"][: len(kept)] = objects.labels[kept]
    if mask_size:
        targets["masks"] = np.zeros((max_objects, mask_size, mask_size), "uint8")
        for place, n in enumerate(kept):
            mask = mask_in_box(objects.segmentations[n], visible[n], mask_size)
            targets["masks"][place] = mask[:, ::-1] if frame.mirrored else mask
    return targets


def _padded(boxes, places):
    padded = np.zeros((places, 4), "float32")
    padded[: len(boxes)] = boxes
    return padded


def _areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _check(source, kind, image_shape, batch_size, seed, start, workers, share, scale):
    if not isinstance(source, kind):
        opening = "open_detection" if kind is DetectionSource else "open_segmentation"
        raise ValueError(
            f"Expected a source that {opening} gives, received {type(source).__name__}; open the data set with it."
        )
    check_shape(source, image_shape)
    check_numbers(source, batch_size, seed, start, None, workers, 1, share)
    if not 0 < scale[0] <= scale[1] < float("inf"):
        raise ValueError(
            f"Expected scale to be the smallest and the largest factor, both above 0, received {scale=}; correct it."
        )


def _note_unused(source, max_objects, mask_size):
    """Says of which objects nothing is learnt, the first time that there are any, and leaves it for the summary."""
    remarks = []
    if (most := source.most_objects or 0) > max_objects:
        counts = [len(source.annotations(i)) for i in range(len(source))]
        full, over = sum(n > max_objects for n in counts), sum(max(0, n - max_objects) for n in counts)
        remarks.append(
            f"{over} objects ignored in {full} images of more than {max_objects}, up to {most}; raise max_objects to"
            " learn from more than the largest"
        )
    if most > max_objects + MAX_IGNORED:
        remarks.append(f"the smallest beyond {max_objects + MAX_IGNORED} are taken for background")
    if mask_size and (without := source.unoutlined):
        remarks.append(f"{without} objects without an outline ignored")
    if remarks and not source.unused:
        source.unused = "; ".join(remarks)
        source.report(source.unused + ".")
