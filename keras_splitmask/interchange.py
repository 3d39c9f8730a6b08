"""Weights in and out: models from a run's folder or a file, and what they learnt into models of other images, by name."""

import dataclasses
import pathlib

import keras
from keras import ops

from keras_splitmask.archives import check_archive
from keras_splitmask.encoder import Encoder
from keras_splitmask.resampling import change_channels, resample_patches, resample_table

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
        unfinished = "; the run in this folder has not finished: repeat its command first" if (file.parent / "checkpoints").is_dir() else ""
        raise ValueError(f"Expected a run's folder or a .keras file, received {path}: there is no file {file}{unfinished}.")
    try:
        check_archive(file)
        return keras.saving.load_model(file, compile=False)
    except Exception as error:
        raise ValueError(f"{file} is not a model that keras_splitmask can read: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def load_encoder(path, report=None, **changes):
    """The encoder of a run's folder or .keras file; `changes` replace its arguments, such as drop_path=0.1 or image_shape=(48, 80, 3).

    Args:
        report: a function that is given the `Transfer` to an encoder with changes, such as `print`.

    Raises:
        ValueError: as `load_model`, if the model has no encoder, or if the changes make weights that nothing can be resized to.
    """
    encoder = _encoder_of(load_model(path), path)
    if not changes:
        return encoder
    fresh = Encoder.from_config({**encoder.get_config(), **changes})
    transferred = transfer(encoder, fresh)
    if report:
        report(transferred)
    return fresh


def initialise(model, path):
    """Start a model from what a run's folder or a .keras file holds; see `transfer`, which this returns and raises as."""
    source = load_model(path)
    _encoder_of(source, path)
    return transfer(source, model)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What became of a model's weights, by name; as text, one to three lines.

    `loaded` were taken as they are, `resized` from another grid, patch size or number of channels, and `fresh` were not touched;
    the dictionaries say how, and why.
    """

    loaded: list
    resized: dict
    fresh: dict

    def __str__(self):
        lines = [f"loaded    {len(self.loaded)} of {len(self.loaded) + len(self.resized) + len(self.fresh)} weights as they are"]
        for title, notes in (("resized", self.resized), ("fresh", self.fresh)):
            if notes:
                by_note = {note: [name for name in notes if notes[name] == note] for note in notes.values()}
                lines.append(f"{title:9} " + "; ".join(f"{_shown(names)} ({note})" for note, names in by_note.items()))
        return "\n".join(lines)


def transfer(source, target):
    """Put what one model learnt into another: the encoder, and the decoder where both have one. All of the encoder, or nothing.

    The images may differ in size, patches and channels: tables of positions and the projection of patches are then resized (see
    resampling.py), once and here. The decoder's words stay fresh where they mean something else in the target.

    Args:
        source, target: an `Encoder`, or a model that has one as `encoder`, built.

    Returns:
        A `Transfer`.

    Raises:
        ValueError: naming each weight of the encoder that is missing, left over or of another shape.
    """
    old, new = _encoder_of(source), _encoder_of(target)
    arrays, resized = _fit_encoder(old, new)
    weights = named_weights(new)
    if wrong := _misfits(arrays, weights):
        raise ValueError(f"The weights do not fit: {wrong}.")
    if old.heads != new.heads:
        raise ValueError(f"The weights do not fit: they are of {old.heads} attention heads, expected {new.heads}.")
    fresh = {}
    if hasattr(target, "decoder"):
        decoder_arrays, decoder_resized, fresh = _fit_decoder(source, target)
        arrays, resized = {**arrays, **decoder_arrays}, {**resized, **decoder_resized}
        weights.update(named_weights(target.decoder))
    known = {id(weight) for weight in weights.values()}
    fresh.update({w.path.split("/", 1)[-1]: "new" for w in target.trainable_variables if id(w) not in known})
    for name, array in arrays.items():
        weights[name].assign(array)
    return Transfer([name for name in arrays if name not in resized], resized, fresh)


def _encoder_of(model, path=None):
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if encoder is None:
        place = f" in {path}" if path else ""
        raise ValueError(f"Expected a model with an encoder{place}, received a {type(model).__name__}.")
    return encoder


def _fit_encoder(old, new):
    """The arrays of one encoder, those resized that depend on the image of another; and by name how."""
    arrays, resized = _arrays(old), {}
    table, kernel, bias = (f"patch_embedding/{name}" for name in ("positions", "project/kernel", "project/bias"))
    if new.positions != "learned":
        arrays[table] = ops.convert_to_numpy(new.patch_embedding.table)
        if (old.positions, old.grid) != (new.positions, new.grid):
            resized[table] = f"calculated for {_size(new.grid)} patches"
    elif old.grid != new.grid:
        arrays[table] = resample_table(arrays[table], old.grid, new.grid)
        resized[table] = f"{_size(old.grid)} to {_size(new.grid)} patches"
    notes, channels = [], [encoder.image_shape[-1] for encoder in (old, new)]
    if old.patch_size != new.patch_size:
        arrays[kernel] = resample_patches(arrays[kernel], old.patch_size, new.patch_size)
        notes.append(f"patches of {old.patch_size} to {new.patch_size} pixels")
    if channels[0] != channels[1]:
        arrays[kernel], arrays[bias] = change_channels(arrays[kernel], arrays[bias], *channels)
        notes.append(f"{channels[0]} to {channels[1]} channels, which share alike")
        resized[bias] = ", ".join(notes)
    if notes:
        resized[kernel] = ", ".join(notes)
    return arrays, resized


def _fit_decoder(source, target):
    """The arrays of the source's decoder that are of use in the target, by name how they were resized, and why others are fresh."""
    weights = named_weights(target.decoder)
    arrays, resized = _arrays(source.decoder) if hasattr(source, "decoder") else {}, {}
    if not arrays:
        return {}, {}, dict.fromkeys(weights, "no decoder to take it from")
    old, new = source.encoder.grid, target.encoder.grid
    if old != new:
        arrays["decoder/positions"] = resample_table(arrays["decoder/positions"], old, new)
        resized["decoder/positions"] = f"{_size(old)} to {_size(new)} patches"
    words = {name for name in {**arrays, **weights} if name.startswith("decoder/words/")}
    theirs, mine = (getattr(model, "tokenizer", None) for model in (source, target))
    if words <= set(arrays) & set(weights) and theirs and mine and mine.same_words(theirs):
        words = set()
    arrays = {name: array for name, array in arrays.items() if name not in words}
    if wrong := _misfits(arrays, {name: weight for name, weight in weights.items() if name not in words}):
        return {}, {}, dict.fromkeys(weights, wrong)
    return arrays, resized, {name: "other words" for name in weights if name in words}


def named_weights(layer):
    """The weights of a layer by their path below it, without the state of random number generators."""
    weights = [w for w in layer.weights if w.name != "seed_generator_state"]
    return {w.path.split("/", 1)[-1]: w for w in weights}


def _arrays(layer):
    return {name: ops.convert_to_numpy(weight) for name, weight in named_weights(layer).items()}


def _misfits(arrays, weights):
    """What keeps arrays from being the values of weights of the same names, in words; nothing if they fit."""
    wrong = [f"{name} is missing" for name in weights if name not in arrays]
    wrong += [f"{name} is left over" for name in arrays if name not in weights]
    wrong += [
        f"{name} has shape {arrays[name].shape}, expected {tuple(weight.shape)}"
        for name, weight in weights.items()
        if name in arrays and arrays[name].shape != tuple(weight.shape)
    ]
    return _shown(wrong, 6, "; ")


def _shown(items, count=3, separator=", "):
    more = f"{separator}and {len(items) - count} more" if len(items) > count else ""
    return separator.join(items[:count]) + more


def _size(grid):
    return f"{grid[0]}x{grid[1]}"
