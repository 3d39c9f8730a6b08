"""The batches of a run that learns boxes, masks or label maps: batch t is a function of (seed, t), as in `pipeline`."""

import functools

import numpy as np

from keras_splitmask.data.coco import DetectionSource
from keras_splitmask.data.framing import drawn, stretched, whole
from keras_splitmask.data.label_maps import IGNORE, SegmentationSource
from keras_splitmask.data.pipeline import check_numbers, check_shape, indices_of, own_places, stream
from keras_splitmask.data.segmentations import mask_in_box

MIN_SHARE = 0.25  # of a box that must be in the batch's image
MIN_SIDE = 2.0  # pixels of it there


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
    """Images and their objects from step `start` on, endlessly; see `pipeline.batches` for their order and for unreadable images.

    An image is resized by the factor that makes it fit, times one drawn from `scale`; of what is too large any part is shown, what is
    missing is 0 at the bottom and on the right; half of them are mirrored. Boxes are cut at the border; those of which less than a
    quarter is left, or less than 2 pixels, are no targets, and neither are crowds.

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
        max_objects: M; of more the largest are targets.
        mask_size: S, if masks are wanted.

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) uint8 and a dictionary of "boxes" (B, M, 4) float32, [top, left, bottom, right] in
        pixels, and "labels" (B, M) int32, -1 where there is no object; with `mask_size` also "masks" (B, M, S, S) uint8, 0 or 1, of each
        object inside its box.

    Raises:
        ValueError: if the source does not fit, or masks are wanted of objects that have none.
    """
    _check(source, DetectionSource, image_shape, batch_size, start, workers, share, scale)
    if max_objects < 1 or (mask_size is not None and mask_size < 1):
        raise ValueError(f"Expected max_objects and mask_size of at least 1, received {max_objects=}, {mask_size=}; correct it.")
    if mask_size:
        _check_masks(source)

    def read(index, rng):
        image, frame = _read(source, index, image_shape, _frames(augment, whole, rng, scale))
        return image, _targets(source.objects(index), frame, max_objects, mask_size)

    return _batches(read, source, batch_size, seed, start, workers, share)


def segmentation_batches(
    source, image_shape, batch_size, seed=0, start=0, workers=2, share=(0, 1), augment=True, scale=(0.5, 2.0)
):
    """Images and label maps from step `start` on, endlessly; see `pipeline.batches` for their order and for unreadable images.

    Augmented as in `detection_batches`; where there is no image, the label is 255. A label is that of the nearest pixel.

    Args:
        source: a `SegmentationSource` of at least `batch_size` images.
        augment: if not, the whole image fills `image_shape`, whatever its shape was.
        image_shape, batch_size, seed, start, workers, share, scale: as of `detection_batches`.

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) uint8 and label maps (B, H, W) int32.

    Raises:
        ValueError: if the source does not fit.
    """
    _check(source, SegmentationSource, image_shape, batch_size, start, workers, share, scale)

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
        return source.readable(index, lambda index: read(index, np.random.default_rng((seed, step, place))))[0]

    def batch(step):
        indices = indices_of(len(source), batch_size, seed, step)[first:last]
        images, targets = zip(*(at(step, place, index) for place, index in enumerate(indices, first)))
        if isinstance(targets[0], dict):
            return np.stack(images), {name: np.stack([target[name] for target in targets]) for name in targets[0]}
        return np.stack(images), np.stack(targets)

    return stream(batch, start, None, workers)


def _targets(objects, frame, max_objects, mask_size):
    """The `Objects` of an image as those of its `Frame`, in as many places as there is room for: a dictionary of arrays."""
    visible = frame.visible(objects.boxes)
    boxes = frame.place(visible)  # (n, 4)
    remains = _areas(visible) >= MIN_SHARE * _areas(objects.boxes)
    kept = np.flatnonzero(remains & ((boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= MIN_SIDE) & ~objects.crowd)
    kept = np.sort(kept[np.argsort(-_areas(boxes[kept]), kind="stable")[:max_objects]])
    targets = {"boxes": np.zeros((max_objects, 4), "float32"), "labels": np.full(max_objects, -1, "int32")}
    targets["boxes"][: len(kept)] = boxes[kept]
    targets["labels"][: len(kept)] = objects.labels[kept]
    if mask_size:
        targets["masks"] = np.zeros((max_objects, mask_size, mask_size), "uint8")
        for place, n in enumerate(kept):
            mask = mask_in_box(objects.segmentations[n], visible[n], mask_size)
            targets["masks"][place] = mask[:, ::-1] if frame.mirrored else mask
    return targets


def _areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _check(source, kind, image_shape, batch_size, start, workers, share, scale):
    if not isinstance(source, kind):
        opening = "open_detection" if kind is DetectionSource else "open_segmentation"
        raise ValueError(f"Expected a source that {opening} gives, received {type(source).__name__}; open the data set with it.")
    check_shape(source, image_shape)
    check_numbers(source, batch_size, start, None, workers, 1, share)
    if not 0 < scale[0] <= scale[1] < float("inf"):
        raise ValueError(f"Expected scale to be the smallest and the largest factor, both above 0, received {scale=}; correct it.")


def _check_masks(source):
    for i in range(len(source)):
        objects = source.objects(i)
        if any(outline is None and not crowd for outline, crowd in zip(objects.segmentations, objects.crowd, strict=True)):
            raise ValueError(
                f"Expected a segmentation of each object, received none in {source.name(i)}; do without mask_size, or draw them."
            )
