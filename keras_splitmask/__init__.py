"""SplitMask for Keras: pre-train a Vision Transformer on your own images and nothing else.

    image -> patches -> split -+-> encoder (part A) -> decoder -> inpaint loss --+
                               |       same weights                              +-> SplitMask
                               +-> encoder (part B) -> decoder -> inpaint loss --+
                                         pooled A, pooled B -> match loss -------+
             tokenizers: images -> word ids                  (all in one place: splitmask.py)

Vocabulary: images (B, H, W, C) uint8, uint16 or float in 0..1; patches (B, N, P); tokens (B, n, D); positions (B, n)
int32; ids (B, N) int32 visual words; logits (B, m, V). Rows before columns.
"""

from keras_splitmask.backend import installed  # noqa: F401, it looks for a backend before Keras is imported

# isort: split
from keras_splitmask import baselines, data, evaluation, interchange, losses, prediction, tokenizers, training, transfer
from keras_splitmask.augment import Augment, AugmentViews
from keras_splitmask.decoder import Decoder
from keras_splitmask.encoder import SIZES, Encoder
from keras_splitmask.interchange import load
from keras_splitmask.prediction import embed_images, predict_images
from keras_splitmask.split import Split
from keras_splitmask.splitmask import SplitMask

__version__ = "0.1.0"

__all__ = [
    "Augment",
    "AugmentViews",
    "Decoder",
    "Encoder",
    "SIZES",
    "Split",
    "SplitMask",
    "baselines",
    "data",
    "embed_images",
    "evaluation",
    "interchange",
    "load",
    "losses",
    "predict_images",
    "prediction",
    "tokenizers",
    "training",
    "transfer",
]
