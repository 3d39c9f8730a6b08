"""AdamW as BEiT uses it: which weights decay, how the learning rate moves, and how it falls towards the first
layers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_splitmask.backend.adamw import FusedAdamW, global_norm
from keras_splitmask.training.schedules import SCHEDULES, WarmupCosine

# Every weight must be claimed by one of these rules, the first that fits its path; (pattern, whether it decays).
# BEiT's code decays its mask token, which its list of exceptions misses; here it is treated as the cls token.
DECAY_RULES = (
    (r"(^|/)(bias|beta|gamma)$", False),
    (r"(^|/)(positions|relative_positions|cls_token|extra_tokens|mask_token)$", False),
    (r"(^|/)kernel$", True),
)


def decays(path: str, rules: Sequence[tuple[str, bool]] = DECAY_RULES) -> bool | None:
    """Return whether the weight of this path decays; None if no rule claims it."""
    return next((decay for pattern, decay in rules if re.search(pattern, path)), None)


def layer_of(path: str, depth: int) -> int:
    """Number the layer of a weight: 0 for the encoder's embeddings, i for its block i, depth + 1 for all others."""
    if re.search(r"(^|/)encoder/(patch_embedding|cls_token|extra_tokens)", path):
        return 0
    # As in BEiT's code: embeddings have number 0, the last norm and the head depth + 1.
    block = re.search(r"(^|/)encoder/block_(\d+)/", path)
    return int(block.group(2)) if block else depth + 1


@keras.saving.register_keras_serializable("keras_splitmask")
class LayerwiseAdamW(FusedAdamW):
    """AdamW that decays the weights that `DECAY_RULES` names, and slows the layers far from the head down (BEiT,
    appendix).

    Args:
        learning_rate: a float or a schedule.
        layer_decay: a layer's learning rate is `layer_decay` times that of the layer above it; 1 for none.
        depth: the encoder's number of blocks; needed if layer_decay is not 1.
        weight_decay: a float or a schedule.
        frozen: a regular expression; weights whose paths it fits stay as they are in the first `frozen_steps` steps.
        frozen_steps: int.
        **kwargs: as for `keras.optimizers.AdamW`.

    Raises:
        ValueError: when it is built, if no rule claims some of the weights; they are listed.
    """

    def __init__(
        self,
        learning_rate: Any,
        layer_decay: float = 1.0,
        depth: int = 0,
        weight_decay: Any = 0.004,
        frozen: str | None = None,
        frozen_steps: int = 0,
        name: str = "layerwise_adamw",
        **kwargs,
    ):
        if isinstance(weight_decay, dict):  # of a saved optimizer
            weight_decay = keras.saving.deserialize_keras_object(weight_decay)
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        if self.amsgrad:
            raise ValueError("Expected amsgrad=False, received True; take keras.optimizers.AdamW for it.")
        if not 0 < layer_decay <= 1 or (layer_decay < 1 and not depth):
            raise ValueError(
                f"Expected layer_decay in (0, 1], and a depth if below 1, received {layer_decay=}, {depth=}."
            )
        self.layer_decay = layer_decay
        self.depth = depth
        self.frozen = frozen
        self.frozen_steps = frozen_steps

    def build(self, variables):
        unclaimed = [v.path for v in variables if decays(v.path) is None]
        if unclaimed:
            raise ValueError(
                f"No rule says whether these weights decay: {', '.join(unclaimed)}; add one to DECAY_RULES."
            )
        super().build(variables)
        # Looked up in every step, which on torch is run by Python: the paths of 200 weights take it 1 ms.
        self._kinds = {v.path: (self.scale(v), self._is_frozen(v), decays(v.path)) for v in variables}

    def scale(self, variable: keras.Variable) -> float:
        """The factor of the learning rate for this weight."""
        return (
            self.layer_decay ** (self.depth + 1 - layer_of(variable.path, self.depth)) if self.layer_decay < 1 else 1.0
        )

    def _moves(self, variable):
        """Return 0.0 in the first steps for a frozen weight, and 1.0 otherwise."""
        # DINO's code keeps the last layer of its head still in the first epoch.
        return ops.cast(self.iterations >= self.frozen_steps, "float32") if self._is_frozen(variable) else 1.0

    def _is_frozen(self, variable):
        return self.frozen is not None and bool(re.search(self.frozen, variable.path))

    def decay_of(self, variable):
        return self._decay() if decays(variable.path) else 0.0

    def _decay(self):
        return self.weight_decay(self.iterations) if callable(self.weight_decay) else self.weight_decay

    def _apply_weight_decay(self, variables):
        # torch's kernel decays the weights, too.
        if self.decays_in_update:
            return
        # Decoupled from the moments (Loshchilov and Hutter, 2019): a factor of the weight, not a part of its gradient.
        rate = self.learning_rate * self._decay()
        for v in variables:
            if decays(v.path):
                v.assign(v * ops.cast(1 - rate * self.scale(v) * self._moves(v), v.dtype))

    def _backend_update_step(self, gradients, variables, learning_rate):
        # The moments of a frozen weight follow its gradients all the same: from zero, their correction by the number of
        # steps would have gone by when it is let go, and its first moves be several times too long.
        kinds = [self._kinds[v.path] for v in variables]
        # torch's kernel takes one rate and one decay in a call, so weights that share both are updated together.
        for kind in sorted(set(kinds)):
            group = [(g, v) for g, v, k in zip(gradients, variables, kinds, strict=True) if k == kind]
            rate = learning_rate * kind[0] * self._moves(group[0][1])
            super()._backend_update_step([g for g, _ in group], [v for _, v in group], rate)

    def _clip_gradients(self, gradients):
        if not self.global_clipnorm:
            return super()._clip_gradients(gradients)
        # Exactly 1 where the norm is within the limit, without a branch.
        scale = self.global_clipnorm / ops.maximum(global_norm(gradients), self.global_clipnorm)
        if keras.backend.backend() == "torch":
            import torch

            torch._foreach_mul_(gradients, scale)  # all at once and in place, as torch's own clipping does
            return gradients
        return [g * scale for g in gradients]

    def get_config(self):
        own = {name: getattr(self, name) for name in ("layer_decay", "depth", "frozen", "frozen_steps")}
        scheduled = (
            {"weight_decay": keras.saving.serialize_keras_object(self.weight_decay)}
            if callable(self.weight_decay)
            else {}
        )
        return {**super().get_config(), **scheduled, **own}


def adamw(
    learning_rate: float,
    steps: int,
    *,
    warmup: int | None = None,
    floor: float = 1e-5,
    weight_decay: float | Sequence[float] = 0.05,
    clip_norm: float | None = 3.0,
    layer_decay: float = 1.0,
    depth: int = 0,
    beta_2: float = 0.999,
    clip_each: bool = False,
    frozen: str | None = None,
    frozen_steps: int = 0,
    schedule: str = "cosine",
) -> LayerwiseAdamW:
    """AdamW with linear warm-up, a cosine and clipping, by BEiT's numbers, which are SplitMask's (section 5.1 of the
    paper).

    Args:
        learning_rate: the peak.
        steps: optimizer steps of the whole run.
        warmup: steps of warm-up; left out, 10 of 300 of the run's steps, the paper's share on ImageNet.
        floor: the learning rate at the end; never above the peak.
        weight_decay: not applied to biases, norms, positions, cls and mask tokens. A float, or (first, last), which
            half a cosine joins, as in DINO.
        clip_norm: largest norm of all gradients together; None for no clipping.
        layer_decay, depth: see `LayerwiseAdamW`.
        beta_2: decay of the second moment.
        clip_each: `clip_norm` is that of each weight's gradient by itself, as in DINO.
        frozen, frozen_steps: see `LayerwiseAdamW`.
        schedule: how the learning rate falls: "cosine", "linear" or "steps".

    Raises:
        ValueError: of another schedule, without steps after the warm-up, or of a learning rate below 0 or not finite.
    """
    if not 0 <= learning_rate < math.inf:
        raise ValueError(f"Expected a learning rate of at least 0, received {learning_rate}.")
    if schedule not in SCHEDULES:
        raise ValueError(f"Expected schedule to be one of {', '.join(SCHEDULES)}, received {schedule!r}.")
    warmup = round(steps * 10 / 300) if warmup is None else warmup
    # A floor above the peak would make a run with a small learning rate end with a larger one.
    schedule = SCHEDULES[schedule](learning_rate, steps, warmup, min(floor, learning_rate))
    if isinstance(weight_decay, (tuple, list)):
        # The "floor" may lie above the peak: the half cosine then rises.
        weight_decay = WarmupCosine(weight_decay[0], steps, floor=weight_decay[1])
    clip: dict[str, Any] = {"clipnorm" if clip_each else "global_clipnorm": clip_norm}
    return LayerwiseAdamW(
        schedule,
        layer_decay=layer_decay,
        depth=depth,
        weight_decay=weight_decay,
        frozen=frozen,
        frozen_steps=frozen_steps,
        **clip,
        # PyTorch's default, with which the papers' models were trained; that of Keras is 1e-7.
        epsilon=1e-8,
        beta_2=beta_2,
    )
