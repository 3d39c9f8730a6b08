"""Find what went wrong in a training step that was skipped."""

import functools

import keras
from keras import ops


def find(model, batch, step):
    """The first tensor that is not finite in a training step, computed again with the current weights.

    Args:
        model: a `PretextModel`.
        batch: images (B, H, W, C), or the dictionary of images that the model is fitted to, or a tuple of them and
            their labels.
        step: int, the number of the step, from 0 on.

    Returns:
        Its description, or None if all is finite.
    """
    data = batch if isinstance(batch, tuple) else (batch,)
    named = {"the images": data[0], **{f"the weight {v.path}": v for v in model.trainable_variables}}
    bad = next((name for name, value in named.items() if not all(map(_is_finite, keras.tree.flatten(value)))), None)
    if bad:
        return bad
    outputs = []
    layers = [layer for layer in model._flatten_layers(include_self=False)]
    for layer in layers:
        object.__setattr__(layer, "call", _watched(layer, outputs))
    try:
        model._seeded_objective(data, step, training=True)
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")
    if outputs:
        return f"the output of {outputs[0]}"
    loss, _, gradients = model._gradients(data, step)
    named = {"the loss": loss, **{f"the gradient of {v.path}": g for v, g in zip(model.trainable_variables, gradients)}}
    return next((name for name, value in named.items() if value is not None and not _is_finite(value)), None)


def _is_finite(tensor):
    return bool(ops.all(ops.isfinite(ops.cast(tensor, "float32"))))


def _watched(layer, bad):
    """The layer's `call`, which adds the layer's path to `bad` if what it returns is not finite."""
    call = layer.call

    @functools.wraps(call)
    def watched(*arguments, **options):
        answer = call(*arguments, **options)
        if not all(_is_finite(tensor) for tensor in keras.tree.flatten(answer)):
            bad.append(layer.path or layer.name)  # a layer that builds nothing has no path
        return answer

    return watched
