"""Images for evaluation: the centre of each, resized, without augmentation."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_splitmask.data.augmentation import center_box
from keras_splitmask.data.pipeline import check_shape
from keras_splitmask.data.randomness import generator
from keras_splitmask.data.resizing import read_resized


def read_all(source, image_shape, limit=None, ratio=1.0, workers=2):
    """Read all images into memory. An image that cannot be read is skipped, and named in `source.broken`.

    Use `Reader` for more images than fit into memory.

    Args:
        source: a `Source`.
        image_shape: (height, width, channels); the channels must be those of the source.
        limit: read at most this many, drawn at random (always the same), in the order of the source.
        ratio: see `augmentation.center_box`.
        workers: number of threads that decode.

    Returns:
        Images (B, H, W, C) uint8, and labels (B,) int32 or None.

    Raises:
        ValueError: if the source has other channels, or none of the images can be read.
    """
    reader = Reader(source, image_shape, limit, ratio, workers)
    images, readable = np.empty(reader.shape, "uint8"), np.ones(len(reader), bool)

    def fill(i):
        try:
            images[i] = reader.image(int(reader.indices[i]))
        except ValueError as error:
            readable[i] = False
            source.note_broken(int(reader.indices[i]), str(error), "It is skipped.")

    with ThreadPoolExecutor(workers) as pool:
        # A list, since an error of a thread is raised only when its result is asked for.
        list(pool.map(fill, range(len(reader))))
    if not readable.any():
        raise ValueError(
            f"Expected images to evaluate, received {len(reader)} that cannot be read;"
            f" {next(iter(source.broken.values()))}"
        )
    indices = reader.indices[readable]
    labels = None if source.labels is None else source.labels[indices]
    return images if readable.all() else images[readable], labels


class Reader:
    """The images of `read_all`, read when they are asked for: `reader[[3, 5]]` reads two.

    It has the length and the shape of the array of all images. An image that cannot be read is replaced by another.

    Args:
        source, image_shape, limit, ratio, workers: as in `read_all`.
    """

    def __init__(self, source, image_shape, limit=None, ratio=1.0, workers=2):
        check_shape(source, image_shape)
        if limit is not None and limit < 1:
            raise ValueError(f"Expected a limit of at least 1 image, received limit={limit}.")
        self.source = source
        self.ratio = ratio
        self.workers = workers
        # Not every tenth image: if the labels of an array repeat in tens, all of those would be of one class.
        self.indices = np.sort(generator("limit", 0).permutation(len(source))[:limit])
        self.shape = (len(self.indices), *image_shape)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, rows):
        with ThreadPoolExecutor(self.workers) as pool:
            return np.stack(
                list(pool.map(lambda index: self.source.readable(int(index), self.image)[0], self.indices[rows]))
            )

    def image(self, index):
        """Read image (H, W, C) uint8 at this index of the source."""
        return read_resized(self.source, index, self.shape[1:3], functools.partial(center_box, ratio=self.ratio))
