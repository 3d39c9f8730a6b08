"""Copy weights from one model into another, by name, and report what became of each."""

import dataclasses

from keras import ops

from keras_splitmask.encoder import Encoder
from keras_splitmask.misfits import misfits, shapes_of
from keras_splitmask.resampling import (
    change_channels,
    resample_patches,
    resample_relative_positions,
    resample_table,
)


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """What became of each weight of a model. Its text has one line for each kind.

    Attributes:
        loaded: names of the weights that were copied unchanged.
        resized: {name: how} of those that were resized to another grid, patch size or number of channels.
        fresh: {name: why} of those that keep their initial values.
        folded: {name: how} of those that absorbed a parameter that our encoder does not have (other libraries only).
        dropped: {name: why} of the other library's weights that are not part of an encoder, by their names there.
        notes: assumptions and other differences, a line each.
    """

    loaded: list
    resized: dict
    fresh: dict
    folded: dict = dataclasses.field(default_factory=dict)
    dropped: dict = dataclasses.field(default_factory=dict)
    notes: list = dataclasses.field(default_factory=list)

    def __str__(self):
        count = len({*self.loaded, *self.resized, *self.folded, *self.fresh})
        lines = [f"loaded    {len(self.loaded)} of {count} weights as they are"]
        for title in ("resized", "folded", "fresh", "dropped"):
            if notes := getattr(self, title):
                by_note = {note: [name for name in notes if notes[name] == note] for note in notes.values()}
                lines.append(f"{title:9} " + "; ".join(f"{_shown(names)} ({note})" for note, names in by_note.items()))
        return "\n".join(lines + [f"note      {note}" for note in self.notes])


def copy_weights(source, target):
    """Copy the weights of one model into another: the encoder, and the decoder if both have one.

    Image size, patch size and channels may differ: tables of positions and the patch projection are then resized (see
    resampling.py). The head for visual words stays fresh if the two tokenizers differ.

    Args:
        source, target: built models, each an `Encoder` or a model that has one as `encoder`.

    Returns:
        A `WeightReport`.

    Raises:
        ValueError: with each weight of the encoder that is missing, left over or of another shape. Nothing is copied.
    """
    old, new = encoder_of(source), encoder_of(target)
    if old.extra_tokens != new.extra_tokens:
        wrong = f"they have {old.extra_tokens} extra tokens, expected {new.extra_tokens}"
        raise ValueError(
            f"The weights do not fit: {wrong}; make the encoder with extra_tokens={old.extra_tokens}, or start from"
            " another model."
        )
    if old.relative_positions != new.relative_positions:
        theirs, mine = ("relative positions" if e.relative_positions else "no relative positions" for e in (old, new))
        raise ValueError(
            f"The weights do not fit: they have {theirs}, expected {mine}; fine-tune that model as it is, or start from"
            " another model."
        )
    arrays, resized = _fit_encoder(old, new)
    weights = named_weights(new)
    if wrong := misfits(arrays, shapes_of(weights)):
        raise ValueError(f"The weights do not fit: {wrong}.")
    # No shape shows the number of heads: other heads would load, and compute something else.
    if old.heads != new.heads:
        raise ValueError(f"The weights do not fit: they have {old.heads} attention heads, expected {new.heads}.")
    fresh = {}
    if getattr(target, "decoder", None) is not None:
        decoder_arrays, decoder_resized, fresh = _fit_decoder(source, target)
        arrays, resized = {**arrays, **decoder_arrays}, {**resized, **decoder_resized}
        weights.update(named_weights(target.decoder))
    known = {id(weight) for weight in weights.values()}
    fresh.update({w.path.split("/", 1)[-1]: "new" for w in target.trainable_variables if id(w) not in known})
    for name, array in arrays.items():
        weights[name].assign(array)
    notes = [f"the norms' epsilon was {old.epsilon} and is {new.epsilon}"] if old.epsilon != new.epsilon else []
    return WeightReport([name for name in arrays if name not in resized], resized, fresh, notes=notes)


def encoder_of(model, path=None):
    """The `Encoder` that a model is or has; ValueError if there is none."""
    encoder = model if isinstance(model, Encoder) else getattr(model, "encoder", None)
    if encoder is None:
        where = f" in {path}" if path else ""
        raise ValueError(f"Expected a model with an encoder{where}, received an object of type {type(model).__name__}.")
    return encoder


def _fit_encoder(old, new):
    """The arrays of the old encoder resized to fit the new one, and {name: how} of those that were resized."""
    arrays, resized = arrays_of(old), {}
    table, kernel, bias = (f"patch_embedding/{name}" for name in ("positions", "project/kernel", "project/bias"))
    # A calculated table is calculated for the new grid, not resized.
    if new.positions != "learned":
        arrays[table] = ops.convert_to_numpy(new.patch_embedding.position_table())
        if (old.positions, old.grid) != (new.positions, new.grid):
            resized[table] = f"calculated for {_size(new.grid)} patches"
    elif old.grid != new.grid:
        arrays[table] = resample_table(arrays[table], old.grid, new.grid)
        resized[table] = f"{_size(old.grid)} to {_size(new.grid)} patches"
    if old.grid != new.grid:
        for name in [name for name in arrays if name.endswith("/relative_positions")]:
            arrays[name] = resample_relative_positions(arrays[name], old.grid, new.grid)
            resized[name] = f"{_size(old.grid)} to {_size(new.grid)} patches"
    notes, channels = [], [encoder.image_shape[-1] for encoder in (old, new)]
    if old.patch_size != new.patch_size:
        arrays[kernel] = resample_patches(arrays[kernel], old.patch_size, new.patch_size)
        notes.append(f"patches of {old.patch_size} to {new.patch_size} pixels")
    if channels[0] != channels[1]:
        # The normalisation of pixels depends on their channels, and is part of what the bias stands for.
        arrays[kernel], arrays[bias] = change_channels(arrays[kernel], arrays[bias], *channels)
        notes.append(f"{channels[0]} to {channels[1]} channels of equal weight")
        resized[bias] = ", ".join(notes)
    if notes:
        resized[kernel] = ", ".join(notes)
    return arrays, resized


def _fit_decoder(source, target):
    """The arrays of the source's decoder that fit the target, {name: how} if resized, and {name: why} if fresh."""
    weights = named_weights(target.decoder)
    arrays, resized = arrays_of(source.decoder) if getattr(source, "decoder", None) is not None else {}, {}
    if not arrays:
        return {}, {}, dict.fromkeys(weights, "the source has no decoder")
    old, new = source.encoder.grid, target.encoder.grid
    if old != new:
        arrays["decoder/positions"] = resample_table(arrays["decoder/positions"], old, new)
        resized["decoder/positions"] = f"{_size(old)} to {_size(new)} patches"
    # The number of a word means nothing to another tokenizer.
    words = {name for name in {**arrays, **weights} if name.startswith("decoder/words/")}
    theirs, mine = (getattr(model, "tokenizer", None) for model in (source, target))
    if words <= set(arrays) & set(weights) and theirs and mine and mine.same_words(theirs):
        words = set()
    arrays = {name: array for name, array in arrays.items() if name not in words}
    # A decoder that does not fit is no error: only the encoder is kept after pre-training.
    if wrong := misfits(arrays, {name: weight.shape for name, weight in weights.items() if name not in words}):
        return {}, {}, dict.fromkeys(weights, wrong)
    return arrays, resized, {name: "another tokenizer" for name in weights if name in words}


def named_weights(layer):
    """Map the path of each weight below a layer to the weight, without the state of random generators."""
    weights = [w for w in layer.weights if w.name != "seed_generator_state"]
    # Paths begin with the name of the model, which differs between models.
    return {w.path.split("/", 1)[-1]: w for w in weights}


def arrays_of(layer):
    return {name: ops.convert_to_numpy(weight) for name, weight in named_weights(layer).items()}


def _shown(items, count=3):
    more = f", and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


def _size(grid):
    return f"{grid[0]}x{grid[1]}"
