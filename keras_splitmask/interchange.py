"""Weights in and out: an encoder from a run folder or a file, and weights from one model to another, by name and shape."""

import pathlib

import keras

from keras_splitmask.encoder import Encoder

MODEL_FILE = "model.keras"


def load_model(path):
    """A model that this library saved.

    Args:
        path: a run's folder, or a .keras file.

    Raises:
        ValueError: if there is no such file, or it is no model of this library.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / MODEL_FILE
    if not file.is_file():
        raise ValueError(f"Expected a run's folder or a .keras file, received {path}: there is no file {file}.")
    try:
        return keras.saving.load_model(file, compile=False)
    except Exception as error:
        raise ValueError(f"{file} is not a model that keras_splitmask can read: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def load_encoder(path, **changes):
    """The encoder of a run's folder or .keras file; `changes`, such as drop_path=0.1, replace its arguments.

    Raises:
        ValueError: as `load_model`, if the model has no encoder, or if the changes make weights of another shape.
    """
    model = load_model(path)
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if encoder is None:
        raise ValueError(f"Expected a model with an encoder in {path}, received a {type(model).__name__}.")
    if not changes:
        return encoder
    fresh = Encoder.from_config({**encoder.get_config(), **changes})
    copy_weights(encoder, fresh)
    return fresh


def copy_weights(source, target):
    """Copy all weights of one layer to another of the same structure, or none.

    Raises:
        ValueError: naming each weight that is missing, left over, or of another shape.
    """
    old, new = named_weights(source), named_weights(target)
    wrong = [f"{name} is missing" for name in new if name not in old]
    wrong += [f"{name} is left over" for name in old if name not in new]
    wrong += [
        f"{name} has shape {tuple(old[name].shape)}, expected {tuple(new[name].shape)}"
        for name in new
        if name in old and tuple(old[name].shape) != tuple(new[name].shape)
    ]
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise ValueError(f"The weights do not fit: {shown}.")
    for name, weight in new.items():
        weight.assign(old[name])


def named_weights(layer):
    """The weights of a layer by their path below it, without the state of random number generators."""
    weights = [w for w in layer.weights if w.name != "seed_generator_state"]
    return {w.path.split("/", 1)[-1]: w for w in weights}
