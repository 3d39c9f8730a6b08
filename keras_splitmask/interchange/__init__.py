"""Load and save weights: this library's models, and encoders of Hugging Face's transformers and timm."""

from keras_splitmask.interchange.copying import WeightReport, copy_weights, named_weights
from keras_splitmask.interchange.models import MODEL_FILE, initialise, load, load_encoder, load_model, save_encoder
from keras_splitmask.interchange.names import LAYOUTS

__all__ = [
    "LAYOUTS",
    "MODEL_FILE",
    "WeightReport",
    "copy_weights",
    "initialise",
    "load",
    "load_encoder",
    "load_model",
    "named_weights",
    "save_encoder",
]
