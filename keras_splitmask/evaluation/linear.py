"""Linear classifiers on frozen features, one for every block of an encoder, trained at once."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.encoder import Encoder
from keras_splitmask.evaluation.neighbours import extract, standardise

HELD_OUT = 0.2  # of the training images, to choose a block by


class _BlockFeatures(keras.Model):
    """Images (B, H, W, C) to {"blocks": (B, L, 2D)}: for each of L blocks, cls and mean patch token side by side, as
    BEiT's probe has them."""

    def __init__(self, encoder):
        super().__init__(name="block_features")  # the name that Keras makes up begins with _, which TensorFlow refuses
        self.encoder = encoder
        self.built = True

    def call(self, images):
        states = self.encoder(images, every_block=True)
        tokens = ops.stack([states[block.name] for block in self.encoder.blocks], axis=1)  # (B, L, 1 + N, D)
        return {"blocks": ops.concatenate([tokens[:, :, 0], ops.mean(tokens[:, :, 1:], axis=2)], axis=-1)}


class _Heads(keras.layers.Layer):
    """Features (B, L, F) to the logits (B, L, classes) of L linear classifiers that have nothing to do with each
    other."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def build(self, shape):
        # All classifiers as one weight (L, F, classes), from zero: a linear layer has no symmetry to break.
        self.kernel = self.add_weight(shape=(*shape[1:], self.classes), initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(shape[1], self.classes), initializer="zeros", name="bias")  # (L, classes)

    def call(self, features):
        # AdamW scales the gradient of each weight by itself. So the classifiers do not influence each other, although
        # their losses are averaged.
        return ops.einsum("blf,lfc->blc", features, self.kernel) + self.bias


def block_features(encoder: Encoder, images: Shaped[Array, "M H W C"], batch_size: int = 256) -> Float[Array, "M L F"]:
    """Features of every block of an encoder on images (M, H, W, C): (M, L, 2D) float32 NumPy."""
    return extract(_BlockFeatures(encoder), images, batch_size, "blocks")


def linear_probe(
    features: Float[Array, "M L F"],
    labels: Int[Array, " M"],
    test_features: Float[Array, "Q L F"],
    test_labels: Int[Array, " Q"],
    epochs: int = 50,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    weight_decay: float = 1e-4,
) -> Float[Array, " L"]:
    """Test accuracy of a linear classifier on the features of each block.

    Features are standardised; the classifiers start from zero and follow AdamW along a cosine to 0.

    Args:
        features, test_features: (M, L, F) and (Q, L, F) float.
        labels, test_labels: (M,) and (Q,) int.

    Returns:
        (L,) float, the accuracy of each classifier on the test set.
    """
    # Epochs and weight decay are those of BEiT's probe; the learning rate is ours.
    features, test_features = standardise(features, test_features)
    batch_size = min(batch_size, len(features))
    classes = int(max(labels.max(), test_labels.max())) + 1
    if classes < 2:
        raise ValueError(
            f"Expected labels of at least two classes, received 0 for all of {len(labels)} images; take more images."
        )
    model = keras.Sequential([keras.Input(features.shape[1:]), _Heads(classes)])
    steps = epochs * -(-len(features) // batch_size)
    model.compile(
        optimizer=keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps), weight_decay=weight_decay
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    every = np.repeat(
        np.asarray(labels)[:, None], features.shape[1], axis=1
    )  # (M, L): all classifiers learn the same labels
    order = np.random.default_rng(0)
    # A `fit` for each epoch: the optimizer keeps its count of steps, and with it the cosine, from one to the next.
    for _ in range(epochs):
        chosen = order.permutation(len(features))
        # Shuffled by NumPy, so that the order is the same on every backend.
        model.fit(features[chosen], every[chosen], batch_size=batch_size, shuffle=False, verbose=0)
    # Not by `predict`, which TensorFlow would trace again for each model.
    parts = [test_features[start : start + 1024] for start in range(0, len(test_features), 1024)]
    logits = np.concatenate([ops.convert_to_numpy(model(part)) for part in parts])  # (Q, L, classes)
    return (logits.argmax(axis=-1) == np.asarray(test_labels)[:, None]).mean(axis=0)  # (L,)


def best_block(features: Float[Array, "M L F"], labels: Int[Array, " M"], **options) -> int:
    """Choose a block without test images: the index of the one whose classifier is best on training images that are
    held out.

    Args:
        features, labels: as in `linear_probe`, of the training images.
        options: more arguments of `linear_probe`.

    Returns:
        int from 0 on; that of the last block if too few images are left to learn from.
    """
    held_out = np.random.default_rng(0).permutation(len(labels)) < HELD_OUT * len(labels)  # (M,) bool
    if len(np.unique(labels[~held_out])) < 2:
        return features.shape[1] - 1
    parts = (x[part] for part in (~held_out, held_out) for x in (features, labels))
    return int(linear_probe(*parts, **options).argmax())
