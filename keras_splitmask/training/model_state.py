"""All state of a compiled model by name, which is what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from keras_splitmask.backend.typing import Array
from keras_splitmask.misfits import misfits, shapes_of


def variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """All state of a compiled model by path: weights, optimizer, tokenizer and random state, but no metrics."""
    named = [(v.path, v) for v in model.weights if v.name != "seed_generator_state"]
    # Keras numbers generators and optimizers by their order of creation: "adamw_1/encoder_norm_gamma_momentum".
    states = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    named += [(f"random/{i}", v) for i, v in enumerate(states)]
    # In float16 there is an optimizer within one that scales the loss, and both count steps.
    inner = {id(v) for v in getattr(model.optimizer, "inner_optimizer", model.optimizer).variables}
    named += [
        ("optimizer/" + "scaling/" * (id(v) not in inner) + v.path.split("/", 1)[-1], v)
        for v in model.optimizer.variables
    ]
    names = [name for name, _ in named]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"Expected every variable to have a path of its own, received several called {', '.join(twice)}."
        )
    return dict(named)


def restore(variables: Mapping[str, keras.Variable], arrays: Mapping[str, Array], name: str = "The checkpoint") -> None:
    """Give variables the values of a checkpoint, all of them or none.

    Args:
        variables: dictionary of Keras variables by path, as `variables_of` gives it.
        arrays: dictionary of arrays by the same paths.
        name: what they are of, for messages.

    Raises:
        ValueError: naming the first variables that are missing, left over or of another shape.
    """
    # Before the first assignment: a model that is half restored would train on without a word.
    if wrong := misfits(arrays, shapes_of(variables)):
        raise ValueError(f"{name} does not fit the model: {wrong}.")
    for name, variable in variables.items():
        variable.assign(arrays[name])
