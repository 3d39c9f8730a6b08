"""Everything about a run that is not the method: optimizer, steps, devices."""

from keras_splitmask.training.interruption import Checkpoints
from keras_splitmask.training.log import RunLog
from keras_splitmask.training.optimizer import LayerwiseAdamW, WarmupCosine, adamw

__all__ = [
    "Checkpoints",
    "LayerwiseAdamW",
    "RunLog",
    "WarmupCosine",
    "adamw",
]
