"""Classify by the nearest neighbours of frozen features (kNN)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_splitmask.backend.typing import Array, Float, Int, Shaped


def extract(
    encoder: keras.Model, images: Shaped[Array, "B H W C"], batch_size: int = 256, key: str = "pooled"
) -> Float[Array, "B ..."]:
    """Compute features of images (B, H, W, C), one batch at a time: (B, D) float32 NumPy."""
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # Every batch of the same shape, so that a compiling backend compiles once.
        padded = (
            np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
            if len(batch) < batch_size
            else batch
        )
        answer = encoder.predict_on_batch(padded)
        parts.append(np.asarray(answer[key], "float32")[: len(batch)])
    return np.concatenate(parts)


def standardise(bank: Float[Array, "M ..."], *others) -> list[Float[Array, "_ ..."]]:
    """Centre each feature on the bank (M, D) and divide by its standard deviation there; likewise the others.

    Features of a masked auto-encoder share a large common part, which would make all cosines alike.
    """
    mean, std = bank.mean(axis=0), bank.std(axis=0) + 1e-6  # a feature may be constant, hence the epsilon
    return [((x - mean) / std).astype("float32") for x in (bank, *others)]


def weighted_knn(
    bank: Float[Array, "M D"],
    bank_labels: Int[Array, " M"],
    queries: Float[Array, "Q D"] | None = None,
    k: int = 20,
    temperature: float = 0.07,
) -> Int[Array, " Q"]:
    """Classify by a vote of the k nearest neighbours by cosine, weighted exp(cosine / temperature).

    As in DINO (Caron et al., 2021, appendix F.1).

    Args:
        bank: (M, D) features.
        bank_labels: (M,) int.
        queries: (Q, D) features; by default every row of the bank, which does not vote for itself.
        k: number of neighbours that vote.
        temperature: lower values give the nearest neighbours more weight.

    Returns:
        (Q,) int, the class with most votes.
    """
    bank = bank / (np.linalg.norm(bank, axis=1, keepdims=True) + 1e-12)
    asked = bank if queries is None else queries / (np.linalg.norm(queries, axis=1, keepdims=True) + 1e-12)
    k = min(k, len(bank) - (queries is None))  # a row of the bank is no neighbour of itself
    if k < 1:
        raise ValueError(f"Expected at least two labelled images for a kNN, received {len(bank)}.")
    classes = int(bank_labels.max()) + 1
    predicted = np.empty(len(asked), int)
    # In parts: the cosines of all pairs of 100,000 images take 40 GB.
    for start in range(0, len(asked), 1024):
        cosines = asked[start : start + 1024] @ bank.T  # (q, M)
        if queries is None:
            rows = np.arange(len(cosines))
            cosines[rows, start + rows] = -np.inf  # no image votes for itself
        # Not sorted: for a vote it only matters which ones are nearest.
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(cosines, nearest, axis=1)
        weights = np.exp((near - near.max(axis=1, keepdims=True)) / temperature)  # at most 1, whatever the temperature
        votes = np.zeros((len(cosines), classes))
        # Not `votes[...] += weights`, which would add only once where two neighbours have the same class.
        np.add.at(votes, (np.arange(len(cosines))[:, None], bank_labels[nearest]), weights)
        predicted[start : start + 1024] = votes.argmax(axis=1)  # of a tie the lower class
    return predicted


class NeighbourProbe:
    """Accuracy of a leave-one-out kNN on a labelled set, while an encoder learns without labels: call it to measure.

    Args:
        encoder: an `Encoder`.
        images: (M, H, W, C), a labelled set apart from the training images; 20 images are enough.
        labels: (M,) int.
        every: measure only when the number of steps done is 0, or this many more than at the last measurement.
        last: steps of the whole run; a measurement is always made at its end.
    """

    def __init__(
        self,
        encoder: keras.Model,
        images: Shaped[Array, "M H W C"],
        labels: Any,
        every: int = 1,
        last: int | None = None,
    ):
        self.encoder = encoder
        self.images = images
        self.labels = np.asarray(labels)
        self.every = every
        self.last = last
        self.before: int | None = None

    def __call__(self, step: int) -> dict[str, float]:
        """Return {"knn_accuracy": float}, or nothing between measurements."""
        if self.before is not None and step - self.before < self.every and step != self.last:
            return {}
        self.before = step
        # Against itself, each image left out in turn: so twenty labelled images are enough.
        (features,) = standardise(extract(self.encoder, self.images))
        return {"knn_accuracy": float((weighted_knn(features, self.labels) == self.labels).mean())}
