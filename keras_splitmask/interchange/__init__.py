"""Weights in and out: this library's models, and encoders of Hugging Face's transformers and timm."""

from keras_splitmask.interchange.models import (
    MODEL_FILE,
    Transfer,
    initialise,
    load_encoder,
    load_model,
    named_weights,
    save_encoder,
    transfer,
)
from keras_splitmask.interchange.names import LAYOUTS

__all__ = [
    "LAYOUTS",
    "MODEL_FILE",
    "Transfer",
    "initialise",
    "load_encoder",
    "load_model",
    "named_weights",
    "save_encoder",
    "transfer",
]
