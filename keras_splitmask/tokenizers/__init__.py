"""What a branch must say of the patches that it does not see: layers from images to visual words."""

from keras_splitmask.tokenizers.codebooks import KMeans, RandomPatches, RandomProjection
from keras_splitmask.tokenizers.dalle import Dalle

__all__ = [
    "Dalle",
    "KMeans",
    "RandomPatches",
    "RandomProjection",
]
