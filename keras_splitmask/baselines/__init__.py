"""Other methods to compare SplitMask with, on the same encoder, words, data and optimizer."""

from keras_splitmask.baselines.beit import BEiT
from keras_splitmask.baselines.deit import DeiT
from keras_splitmask.baselines.dino import DINO
from keras_splitmask.baselines.mae import MAE
from keras_splitmask.baselines.untrained import Untrained

__all__ = [
    "BEiT",
    "DINO",
    "DeiT",
    "MAE",
    "Untrained",
]
