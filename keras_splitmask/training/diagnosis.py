"""Find the cause of a training step that was skipped: which tensor was the first that is NaN or infinite."""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import ops

from keras_splitmask.backend.keras_private import layers_of
from keras_splitmask.training import steps
from keras_splitmask.training.seeded import seeded_objective


def first_bad_tensor(model: keras.Model, batch: Any, step: int) -> str | None:
    """Compute a training step again with the current weights, and describe its first tensor that is not finite.

    Args:
        model: a compiled `ObjectiveModel`.
        batch: images (B, H, W, C), or the dictionary of crops that the model is fitted to; or a tuple of images and
            labels.
        step: int, the number of the step, from 0 on.

    Returns:
        Its name in words, such as "the gradient of encoder/norm/gamma", or None if all is finite.
    """
    data = batch if isinstance(batch, tuple) else (batch,)
    # In the order of the computation: what is not finite first is the cause, and all that follows its effect.
    named = {"the images": data[0], **{f"the weight {v.path}": v for v in model.trainable_variables}}
    bad = next((name for name, value in named.items() if not all(map(_is_finite, keras.tree.flatten(value)))), None)
    if bad:
        return bad
    outputs: list[str] = []
    layers = layers_of(model, include_self=False)
    for layer in layers:
        # An attribute of the object hides the method of its class; deleting it brings the method back.
        object.__setattr__(layer, "call", _watched(layer, outputs))
    try:
        seeded_objective(model, data, step, training=True)
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")
    if outputs:
        return f"the output of {outputs[0]}"
    loss, _, gradients = steps.compute_gradients(model, data, step)
    named = {
        "the loss": loss,
        **{f"the gradient of {v.path}": g for v, g in zip(model.trainable_variables, gradients, strict=True)},
    }
    return next((name for name, value in named.items() if value is not None and not _is_finite(value)), None)


def _is_finite(tensor):
    return bool(ops.all(ops.isfinite(ops.cast(tensor, "float32"))))


def _watched(layer, bad):
    """Wrap the layer's `call` so that it adds the layer's path to `bad` if its output is not finite."""
    call = layer.call

    @functools.wraps(call)
    def watched(*arguments, **options):
        output = call(*arguments, **options)
        if not all(_is_finite(tensor) for tensor in keras.tree.flatten(output)):
            bad.append(layer.path or layer.name)  # a layer that builds nothing has no path
        return output

    return watched
