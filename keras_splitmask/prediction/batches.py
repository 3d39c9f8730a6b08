"""Read images ahead of the model, and run the model on batches of one size."""

import collections
import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_splitmask.prediction.options import check_count

AHEAD = 2  # batches that are read before they are needed
DAMAGED = "its weights are damaged or its training diverged; use an earlier checkpoint"


class NotFinite(ValueError):
    """The outputs of a model are NaN or infinite for an image, number `row` of those that it got."""

    def __init__(self, row):
        super().__init__(f"Expected finite outputs of the model, received NaN or infinity for image {row}; {DAMAGED}.")
        self.row = row


def read_batches(read, count, batch_size, start=0, workers=2):
    """Read images in batches. Threads read the next batches while the caller uses one, so memory stays bounded.

    Batch k is about the images from k * batch_size on. So what is in a batch does not depend on `start`.

    Args:
        read: a function from an index to an image, or anything else. It raises ValueError if the image is unreadable.
        count: number of images.
        batch_size: images per batch; the last batch may have fewer.
        start: number of the first batch to read.
        workers: number of threads.

    Raises:
        ValueError: unless `batch_size` and `workers` are positive whole numbers.

    Yields:
        The number of the batch, {index: image} of the images that were read, and {index: reason} of the others.
    """

    batch_size, workers = check_count("batch_size", batch_size), check_count("workers", workers)

    def attempt(index):
        try:
            return read(index), None
        except ValueError as error:
            return None, str(error)

    pool, waiting = ThreadPoolExecutor(workers), collections.deque()
    numbers = iter(range(start, math.ceil(count / batch_size)))

    def submit(amount):
        for number in itertools.islice(numbers, amount):
            indices = range(number * batch_size, min((number + 1) * batch_size, count))
            waiting.append((number, indices, [pool.submit(attempt, index) for index in indices]))

    try:
        submit(AHEAD)
        while waiting:
            number, indices, futures = waiting.popleft()
            pairs = dict(zip(indices, (future.result() for future in futures), strict=True))
            # The futures hold the images, too.
            del futures
            submit(1)
            images = {index: image for index, (image, reason) in pairs.items() if reason is None}
            yield number, images, {index: reason for index, (_, reason) in pairs.items() if reason is not None}
            # A generator keeps its variables while it waits: without this, two more batches would stay in memory.
            del pairs, images
    finally:
        # The caller may stop early; what has not begun is then not read.
        pool.shutdown(cancel_futures=True)


def run_model(model, images, batch_size):
    """Run a Keras model on at most `batch_size` images, padded to exactly that many, so that it is compiled once.

    Args:
        model: a Keras model.
        images: a list of (H, W, C) uint8.
        batch_size: number of images that the model gets.

    Returns:
        The outputs of the given images, as NumPy arrays.

    Raises:
        NotFinite: if a number of the outputs is not finite.
    """
    images = np.stack(images)
    missing = batch_size - len(images)
    padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
    outputs = keras.tree.map_structure(lambda x: np.asarray(x)[: len(images)], model.predict_on_batch(padded))
    for row in range(len(images)):
        if not all(_is_finite(output[row]) for output in keras.tree.flatten(outputs)):
            raise NotFinite(row)
    return outputs


def _is_finite(values):
    # The ends instead of each value: no array of the size of the outputs is made. NaN is an end of what it is in.
    return not values.size or all(math.isfinite(end) for end in (values.min(), values.max()))


def check_weights(model):
    """Raise ValueError unless all weights of a Keras model are finite. Detectors show by no output that they are not:
    what scores NaN is no object."""
    for weight in model.weights:
        if not _is_finite(keras.ops.convert_to_numpy(weight)):
            raise ValueError(f"Expected finite weights, received NaN or infinity in {weight.path}; {DAMAGED}.")


def compute_named(compute, images, source):
    """Return compute(list of images) of a batch {index: image} of a `Source`.

    Raises:
        ValueError: with the name of the image, if the outputs of the model are not finite.
    """
    try:
        return compute(list(images.values()))
    except NotFinite as error:
        # Windows of one image are more than the images.
        name = source.name(list(images)[min(error.row, len(images) - 1)])
        raise ValueError(
            f"Expected finite outputs of the model, received NaN or infinity for {name}; {DAMAGED}."
        ) from None
