"""Load and save weights: this library's models, encoders of Hugging Face's transformers and timm, classifiers of timm,
and programs for other runtimes."""

from keras_splitmask.interchange.copying import WeightReport, copy_weights, named_weights
from keras_splitmask.interchange.models import (
    MODEL_FILE,
    initialise,
    load,
    load_encoder,
    load_model,
    save_classifier,
    save_encoder,
)
from keras_splitmask.interchange.names import LAYOUTS
from keras_splitmask.interchange.programs import PROGRAMS, check_program, program_of, save_program

__all__ = [
    "LAYOUTS",
    "MODEL_FILE",
    "PROGRAMS",
    "WeightReport",
    "check_program",
    "copy_weights",
    "initialise",
    "load",
    "load_encoder",
    "load_model",
    "named_weights",
    "program_of",
    "save_classifier",
    "save_encoder",
    "save_program",
]
