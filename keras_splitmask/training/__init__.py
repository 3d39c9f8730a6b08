"""Training: the base class of all trained models, optimizer, checkpoints and log."""

from keras_splitmask.training.batch import Batch
from keras_splitmask.training.interruption import Checkpoints
from keras_splitmask.training.log import RunLog
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.optimizer import LayerwiseAdamW, adamw
from keras_splitmask.training.schedules import WarmupCosine

__all__ = [
    "Batch",
    "Checkpoints",
    "LayerwiseAdamW",
    "ObjectiveModel",
    "RunLog",
    "WarmupCosine",
    "adamw",
]
