"""Features of new images from an encoder: a vector for each image, or one for each patch."""

import functools

import numpy as np

from keras_splitmask.data.augmentation import center_box
from keras_splitmask.data.images import open_images
from keras_splitmask.data.resizing import read_resized
from keras_splitmask.data.sources import Source
from keras_splitmask.interchange.copying import encoder_of
from keras_splitmask.prediction.batches import compute_named, read_batches, run_model
from keras_splitmask.prediction.options import check_count, check_model, check_ratio, none_readable

FEATURES = {"pooled": "pooled", "cls": "cls", "patches": "feature_map"}  # and the encoder's name for them
BATCH_SIZE = 64


class Embedding:
    """An encoder that turns images into features.

    Args:
        encoder: an `Encoder`.
        features: names of the wanted features: "pooled" (B, D), the mean of the patches; "cls" (B, D); "patches" (B,
            rows, columns, D). One name may stand alone.
        batch_size: number of images that the encoder gets at a time.
        crop_ratio: fraction of an image's side to keep, from the centre.
    """

    def __init__(self, encoder, features=("pooled",), batch_size=BATCH_SIZE, crop_ratio=1.0):
        features = [features] if isinstance(features, str) else list(features)
        if not features or (unknown := [name for name in features if name not in FEATURES]):
            wrong = ", ".join(map(str, unknown)) if features else "none"
            raise ValueError(f"Expected features among {', '.join(FEATURES)}, received {wrong}.")
        self.encoder, self.features = encoder, list(dict.fromkeys(features))
        self.batch_size, self.crop_ratio = check_count("batch_size", batch_size), check_ratio(crop_ratio)
        self.padded_to = self.batch_size
        self.shape = encoder.image_shape

    def sizes(self):
        """The shape of the features of one image, by name."""
        grid = [side // self.encoder.patch_size for side in self.shape[:2]]  # (rows, columns)
        width = self.encoder.width
        return {name: (*grid, width) if name == "patches" else (width,) for name in self.features}

    def read(self, source, index):
        """Read an image (H, W, C) uint8 of a `Source` as the encoder takes it."""
        return read_resized(source, index, self.shape[:2], functools.partial(center_box, ratio=self.crop_ratio))

    def compute(self, images):
        """Compute the features of a list of at most `batch_size` images: {name: (B, ...) float32}."""
        outputs = run_model(self.encoder, images, self.padded_to)
        return {name: np.asarray(outputs[FEATURES[name]], "float32") for name in self.features}

    def batches(self, source, start=0, workers=2):
        """Yield for each batch of a `Source`, from batch `start` on: its number, the indices of its images, their
        features {name: (B, ...) float32}, and {index: reason} of the images that cannot be read."""
        read = functools.partial(self.read, source)
        self.padded_to = max(1, min(self.batch_size, len(source)))
        for number, images, unreadable in read_batches(read, len(source), self.batch_size, start, workers):
            features = compute_named(self.compute, images, source) if images else {}
            yield number, list(images), features, unreadable


def embed_images(
    model, images, features=("pooled",), batch_size=BATCH_SIZE, crop_ratio=None, value_range=None, workers=2
):
    """Compute features of new images of any size, in memory.

    Args:
        model: an `Encoder`, or a model that has one.
        images: a folder, files or arrays, see `data.open_images`; or a `Source`.
        features, batch_size: see `Embedding`.
        crop_ratio: see `Embedding`. By default that of the model if it is a `Classifier`, or 1.
        value_range: see `data.open_source`.
        workers: number of threads that read.

    Returns:
        The names of the readable images, a list; and {name of the feature: (B, ...) float32}.

    Raises:
        ValueError: if no image can be read, a number is out of range, or the features are not finite.
        TypeError: if `model` is a path, or `images` are of another type.
    """
    check_model(model)
    crop_ratio = getattr(model, "crop_ratio", 1.0) if crop_ratio is None else crop_ratio
    embedding = Embedding(encoder_of(model), features, batch_size, crop_ratio)
    if not isinstance(images, Source):
        # The range that the model was trained with, if it knows one.
        value_range = value_range or getattr(model, "value_range", None)
        images = open_images(images, embedding.shape[-1], value_range)
    names, parts, left_out = [], {name: [] for name in embedding.features}, {}
    for _, indices, found, unreadable in embedding.batches(images, workers=workers):
        left_out |= {images.name(index): reason for index, reason in unreadable.items()}
        names += map(images.name, indices)
        for name, values in found.items():
            parts[name].append(values)
    if not names:
        raise none_readable(len(images), left_out)
    return names, {name: np.concatenate(values) for name, values in parts.items()}
