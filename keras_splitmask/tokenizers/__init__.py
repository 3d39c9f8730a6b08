"""Tokenizers: layers that map images to visual words, the targets of the inpaint loss."""

from keras_splitmask.tokenizers.codebooks import KMeans, RandomPatches, RandomProjection
from keras_splitmask.tokenizers.dalle import Dalle

__all__ = [
    "Dalle",
    "KMeans",
    "RandomPatches",
    "RandomProjection",
]
