"""Schedules of the learning rate and the weight decay."""

from __future__ import annotations

import math

import keras
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Num


@keras.saving.register_keras_serializable("keras_splitmask")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to `peak` over `warmup` steps, then along half a cosine to `floor` at step `steps`."""

    def __init__(self, peak: float, steps: int, warmup: int = 0, floor: float = 0.0):
        if not 0 <= warmup < steps:
            raise ValueError(
                f"Expected fewer steps of warm-up than steps in all, received warmup={warmup}, steps={steps}."
            )
        self.peak, self.steps, self.warmup, self.floor = peak, steps, warmup, floor

    def __call__(self, step: Num[Array, ""] | float) -> Float[Array, ""]:
        step = ops.cast(step, "float32")
        # `where` computes both branches, so without a warm-up this one must not divide by zero.
        rise = self.peak * step / max(1, self.warmup)
        return ops.where(step < self.warmup, rise, self._after_warmup(step))

    def _after_warmup(self, step):
        return self.floor + (self.peak - self.floor) * (1 + ops.cos(math.pi * self._share(step))) / 2

    def _share(self, step):
        """The fraction of the steps after the warm-up that are done."""
        # Beyond `steps` the rate stays at the floor.
        return ops.clip((step - self.warmup) / (self.steps - self.warmup), 0.0, 1.0)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup, "floor": self.floor}


@keras.saving.register_keras_serializable("keras_splitmask")
class WarmupLinear(WarmupCosine):
    """Linear from 0 to `peak` over `warmup` steps, then linear to `floor` at step `steps`: usual for
    segmentation."""

    def _after_warmup(self, step):
        # A polynomial of power 1, as in BEiT's configuration for ADE20k.
        return self.peak + (self.floor - self.peak) * self._share(step)


@keras.saving.register_keras_serializable("keras_splitmask")
class WarmupSteps(WarmupCosine):
    """Linear from 0 to `peak` over `warmup` steps; divided by 10 after 27/36 of the steps and again after 33/36.

    Usual for detection."""

    def _after_warmup(self, step):
        # The "3x" schedule of detectors: epochs 27 and 33 of 36.
        drops = sum(ops.cast(step >= self.steps * share, "float32") for share in (27 / 36, 33 / 36))
        return ops.maximum(self.peak * 0.1**drops, self.floor)


SCHEDULES = {"cosine": WarmupCosine, "linear": WarmupLinear, "steps": WarmupSteps}
