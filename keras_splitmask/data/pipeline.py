"""From a source to the batches of a whole run: batch t is a function of (seed, t), whoever asks for it and whenever."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_splitmask.backend.optional import optional
from keras_splitmask.data.augmentation import PRESETS, center_box, flip
from keras_splitmask.data.augmentation import mix as mix_batch
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.resizing import resize
from keras_splitmask.seeds import check_seed

ENDLESS = 2**40  # steps


def batches(
    source,
    image_shape,
    batch_size,
    augmentation="crop_flip",
    seed=0,
    start=0,
    steps=None,
    workers=2,
    labels=False,
    mix=None,
    change=None,
    repeats=1,
    views=None,
    share=(0, 1),
):
    """The batches from step `start` on, for `model.fit(batches(...), steps_per_epoch=..., epochs=...)`.

    The images are dealt out epoch after epoch, each once per epoch, in an order that differs from epoch to epoch; where
    an epoch does not fill its last batch, the next epoch does. An image's augmentation depends on (seed, t, its place
    in batch t) alone. An image that cannot be read is named, once, and replaced by another; see `Source.readable`.

    `fit` needs `steps_per_epoch`, since the batches do not end by themselves, and warns less with `shuffle=False`.

    Args:
        source: a `Source` of at least `batch_size` images.
        image_shape: (height, width, channels) of the batches; the channels must be those of the source.
        batch_size: images per batch.
        augmentation: one of the names in `augmentation.PRESETS`.
        seed: of the order and of the augmentation.
        start: the step of the first batch; a later one costs nothing.
        steps: number of batches; endless by default.
        workers: threads that prepare batches ahead; with 0 a batch is prepared when it is asked for. Changes no batch.
        labels: yield (images, labels (B,) int32) instead of images.
        mix: with labels, the arguments of `augmentation.mix` by name, such as {"mixup": 0.8, "cutmix": 0.0}: yields its
            float images and label probabilities. `classes` is that of the source if it is not given.
        change: a function (image, rng) -> image (H, W, C) uint8 that is done last, such as `changes` gives.
        repeats: how many times in a row an image is dealt out, each time augmented anew (Hoffer et al., 2020). So many
            epochs then pass before each image was seen once.
        views: a `MultiCrop`, in place of `augmentation`, `labels` and `mix`: yields dictionaries of "global" (B, 2, H,
            W, C) and "local" (B, k, h, w, C) uint8. The crops of an image depend on (seed, t, its place in batch t)
            alone, too.
        share: (i, n), to yield of each batch only the i-th of n equal parts, and read no more: what host i of n needs.
            With `mix`, which mixes images from all over the batch, all of it is read.

    Returns:
        A `grain.IterDataset` of images (B, H, W, C) uint8.

    Raises:
        ValueError: if the source does not fit.
    """
    check_shape(source, image_shape)
    if augmentation not in PRESETS:
        raise ValueError(f"Expected augmentation to be one of {', '.join(PRESETS)}, received {augmentation!r}.")
    check_numbers(source, batch_size, seed, start, steps, workers, repeats, share)
    labelled = labels or mix is not None
    _check_labels(source, labelled, views)
    if mix is not None:
        mix = {"classes": source.class_count, **mix}
    box, flips = PRESETS[augmentation]
    own = own_places(batch_size, share)

    def batch(step):
        if mix is not None:
            images, batch_labels = part(step, 0, batch_size)
            mixed = mix_batch(images, batch_labels, generator("batch", seed, step), **mix)
            return tuple(array[slice(*own)] for array in mixed)
        return part(step, *own)

    def part(step, first, last):
        """Batch `step` from place `first` to before `last`."""
        indices = indices_of(len(source), batch_size, seed, step, repeats)[first:last]
        if views is not None:
            return _views_of(source, indices, image_shape, seed, step, first, views)
        images = np.empty((last - first, *image_shape), "uint8")
        for i, index in enumerate(indices):
            images[i], indices[i] = source.readable(index, lambda index: augment(step, first + i, index))
        return (images, source.labels[indices]) if labelled else images

    def augment(step, i, index):
        rng = generator("image", seed, step, i)
        image = _read(source, index, image_shape[:2], functools.partial(box, rng=rng))
        image = flip(image, rng) if flips else image
        return change(image, rng) if change else image

    return stream(batch, start, steps, workers)


def stream(batch, start, steps, workers):
    """`batch(step)` from step `start` on, prepared ahead by so many threads: a `grain.IterDataset`."""
    grain = optional("grain", "data")
    # The buffer counts batches: grain's default of 500 would fill the memory.
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=2 * workers)
    return grain.MapDataset.range(start, start + (steps or ENDLESS)).map(batch).to_iter_dataset(options)


def _views_of(source, indices, image_shape, seed, step, first, views):
    """The crops of images from place `first` of batch `step` on: a dictionary of arrays (B, crops, h, w, C) uint8."""
    crops = []
    for i, index in enumerate(indices, first):
        image, _ = source.readable(index, source.image)
        crops.append(views.cut(image, image_shape[:2], generator("image", seed, step, i)))
    return {name: np.stack([of_image[name] for of_image in crops]) for name in crops[0]}


def names_of(source, batch_size, seed, step, repeats=1):
    """The names of the images that `batches` puts into batch `step`, in order. See `source.broken` for those it had to
    replace."""
    return [source.name(index) for index in indices_of(len(source), batch_size, seed, step, repeats)]


def own_places(batch_size, share):
    """The first place in each batch that is this host's, and the first after them. See `batches`."""
    return batch_size * share[0] // share[1], batch_size * (share[0] + 1) // share[1]


def indices_of(count, batch_size, seed, step, repeats=1):
    """Which of `count` images batch `step` holds, in order."""
    places = [place // repeats for place in range(step * batch_size, (step + 1) * batch_size)]
    return [int(_order(count, seed, place // count)[place % count]) for place in places]


@functools.lru_cache(maxsize=4)  # a batch may span two epochs, and workers may be in two batches
def _order(count, seed, epoch):
    # Not grain's own shuffle: measured at 3.5 ms for each index among 20 images, and 18 us among 10,000.
    return generator("order", seed, epoch).permutation(count)


def _read(source, index, size, box):
    """The part box(height, width, size) of an image, at `size`: (*size, C) uint8."""
    return resize(source.image(index, lambda height, width: (box(height, width, size), size)), size)


def read_all(source, image_shape, limit=None, ratio=1.0, workers=2):
    """Images as they are evaluated: the centre, resized, without augmentation. One that cannot be read is left out, and
    in `source.broken`.

    See `Reader` for more images than there is memory for.

    Args:
        source: a `Source`.
        image_shape: (height, width, channels); the channels must be those of the source.
        limit: read no more than that many, drawn at random (always the same), in the order of the source.
        ratio: see `augmentation.center_box`.
        workers: threads that decode.

    Returns:
        Images (B, H, W, C) uint8, and labels (B,) int32 or None.

    Raises:
        ValueError: if the source does not fit, or none of the images can be read.
    """
    reader = Reader(source, image_shape, limit, ratio, workers)
    images, there = np.empty(reader.shape, "uint8"), np.ones(len(reader), bool)

    def fill(i):
        try:
            images[i] = reader.image(int(reader.indices[i]))
        except ValueError as error:
            there[i] = False
            source._note(int(reader.indices[i]), str(error), "It is left out.")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(fill, range(len(reader))))
    if not there.any():
        raise ValueError(
            f"Expected images to evaluate, received {len(reader)} that cannot be read;"
            f" {next(iter(source.broken.values()))}"
        )
    indices = reader.indices[there]
    return images if there.all() else images[there], None if source.labels is None else source.labels[indices]


class Reader:
    """What `read_all` reads, at the time it is asked for: `reader[[3, 5]]` reads two images. It has the length and the
    shape of all.

    Args as of `read_all`. An image that cannot be read is replaced by another.
    """

    def __init__(self, source, image_shape, limit=None, ratio=1.0, workers=2):
        check_shape(source, image_shape)
        if limit is not None and limit < 1:
            raise ValueError(f"Expected a limit of at least 1 image, received limit={limit}.")
        self.source = source
        self.ratio = ratio
        self.workers = workers
        # Not every tenth: where the labels of an array go round in tens, that would be one class alone.
        self.indices = np.sort(generator("limit", 0).permutation(len(source))[:limit])
        self.shape = (len(self.indices), *image_shape)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, places):
        with ThreadPoolExecutor(self.workers) as pool:
            return np.stack(
                list(pool.map(lambda index: self.source.readable(int(index), self.image)[0], self.indices[places]))
            )

    def image(self, index):
        """Image (H, W, C) uint8 at this index of the source."""
        return _read(self.source, index, self.shape[1:3], functools.partial(center_box, ratio=self.ratio))


def check_shape(source, image_shape):
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"Expected image_shape=(height, width, channels), received {tuple(image_shape)}.")
    if source.channels != image_shape[-1]:
        raise ValueError(
            f"Expected images of {image_shape[-1]} channels, received {source.channels} in {source.name(0)}; "
            f"open the source with channels={image_shape[-1]}, or set image_shape to end in {source.channels}."
        )


def _check_labels(source, labelled, views):
    if labelled and views is not None:
        raise ValueError("Expected views without labels and mix, received both; views are of images alone.")
    if labelled:
        source.check_labelled()


def check_numbers(source, batch_size, seed, start, steps, workers, repeats, share):
    check_seed(seed)
    if not 1 <= batch_size <= len(source):
        raise ValueError(
            f"Expected a batch size from 1 to the {len(source)} images there are, received batch_size={batch_size}; "
            "choose a smaller batch or add images."
        )
    if min(start, workers) < 0 or repeats < 1 or (steps is not None and steps < 1):
        raise ValueError(
            f"Expected start and workers >= 0, steps and repeats >= 1, received {start=}, {workers=}, {steps=},"
            f" {repeats=}."
        )
    if not 0 <= share[0] < share[1] or batch_size % share[1]:
        raise ValueError(
            f"Expected a share (i, n) with 0 <= i < n and n a divisor of the batch size {batch_size}, received"
            f" {share=}."
        )
