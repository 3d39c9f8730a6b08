"""Weights in and out: models from a run's folder or a file, other libraries' among them, and what they learnt into
other models, by name."""

import contextlib
import dataclasses
import pathlib
import warnings

from keras import ops

from keras_splitmask.encoder import Encoder
from keras_splitmask.interchange import reading, writing
from keras_splitmask.interchange.archives import bounded_weights, load_archive
from keras_splitmask.interchange.weight_files import shown
from keras_splitmask.resampling import change_channels, resample_patches, resample_table

MODEL_FILE = "model.keras"
SMALL = 2**26  # bytes of weights that take little time


def load_model(path):
    """A model that this library saved.

    Args:
        path: a run's folder, or a .keras file.

    Raises:
        ValueError: if there is no such file, or it is no model of this library.
    """
    file = pathlib.Path(path).expanduser()
    if file.is_dir():
        file = file / MODEL_FILE
    if not file.is_file():
        unfinished = (
            "; the run in this folder has not finished: repeat its command first"
            if (file.parent / "checkpoints").is_dir()
            else ""
        )
        raise ValueError(
            f"Expected a run's folder, a .keras or a .safetensors file, received {path}: there is no file"
            f" {file}{unfinished}."
        )
    try:
        return load_archive(file)
    except Exception as error:
        raise ValueError(f"{file} is not a model that keras_splitmask can read: {_reason(error)}") from error


def _reason(error):
    """One line of at most 300 characters. Keras hides the cause behind two of its own."""
    if isinstance(error, TypeError) and error.__context__:
        error = error.__context__
    line = shown((str(error).splitlines() or [type(error).__name__])[0])
    return "its weights are not those of its configuration." if line.startswith("A total of ") else line


def load_encoder(path, report=None, **changes):
    """The encoder of a run's folder or .keras file, or of a model of Hugging Face or timm.

    Those are a folder with model.safetensors, or a .safetensors file. With it are read config.json and
    preprocessor_config.json beside it; what neither they nor shapes tell is assumed, and warned of if there is no
    `report`. Supported are the encoders of `ViTModel` (also DINO's), `DeiTModel`, `BeitModel` without relative
    positions and `ViTMAEModel`, models that contain them, and timm's `VisionTransformer`; what has another function
    than the encoder is refused. Their positions are learned from here on.

    Args:
        report: a function that is given the `WeightReport` to an encoder with changes or from another library, such as
            `print`.
        **changes: replace arguments of the encoder, such as drop_path=0.1 or image_shape=(48, 80, 3).

    Raises:
        ImportError: for a .safetensors file without the package safetensors.
        ValueError: as `load_model`, if the model has no encoder, if it is another library's that ours cannot express,
            or if the changes make weights that nothing can be resized to.
    """
    model, transferred = _source(path)
    encoder = _encoder_of(model, path)
    if changes:
        fresh = Encoder.from_config({**encoder.get_config(), **changes})
        with _naming(path):
            encoder, transferred = fresh, _after(transferred, copy_weights(encoder, fresh))
    _tell(transferred, report)
    return encoder


def initialise(model, path):
    """Start a model from what a run's folder or a file holds, as `load_encoder` reads it; see `copy_weights`, which this
    returns and raises as."""
    source, transferred = _source(path)
    _encoder_of(source, path)
    with _naming(path):
        return _after(transferred, copy_weights(source, model))


@contextlib.contextmanager
def _naming(path):
    """What is wrong with weights is said with the place that they are from."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_encoder(encoder, folder, layout="vit"):
    """Write an encoder for another library into a new folder, whole or not at all.

    "vit", "deit", "beit" and "mae" write model.safetensors, config.json and preprocessor_config.json for
    `ViTModel.from_pretrained(folder)`, `DeiTModel`, `BeitModel` and `ViTMAEModel` of Hugging Face; "timm" writes what
    `timm.create_model("local-dir:folder")` reads. None has the weights of a pooler or a head. "deit" takes an encoder
    with one extra token alone; BEiT's keys have no biases, which change nothing. `load_encoder(folder)` gives the same
    weights, bit by bit, but for those biases.

    Args:
        encoder: an `Encoder`, or a model that has one as `encoder`.
        layout: "vit", "deit", "beit", "mae" or "timm".

    Raises:
        ImportError: without the package safetensors.
        ValueError: if the folder exists, or the layout is unknown or cannot express the encoder.
    """
    encoder = _encoder_of(encoder)
    writing.write(folder, encoder.get_config(), _arrays(encoder), layout)


def _source(path):
    """The model that a path names, and the `WeightReport` to it if it is of another library."""
    path = pathlib.Path(path).expanduser()
    file = reading.find(path) if not (path / MODEL_FILE).is_file() else None
    if file is None:
        return load_model(path), None
    found = reading.read(file)
    nbytes = sum(array.nbytes for array in found.arrays.values())
    try:
        with bounded_weights(
            max(2 * nbytes, SMALL)
        ):  # so that most files which are not whole end below, where each weight is named
            encoder = Encoder(**found.arguments)
    except ValueError as error:
        raise ValueError(f"The weights of {file} do not fit: {_reason(error)}") from error
    weights = named_weights(encoder)
    if wrong := _misfits(found.arrays, weights):
        raise ValueError(f"The weights of {file} do not fit: {wrong}.")
    for name, array in found.arrays.items():
        weights[name].assign(array)
    loaded = [name for name in weights if name not in found.folded]
    return encoder, WeightReport(loaded, {}, {}, found.folded, found.dropped, found.notes)


def _after(first, second):
    """Two transfers, one after the other, as one."""
    if first is None:
        return second
    folded = {name: note for name, note in first.folded.items() if name in {*second.loaded, *second.resized}}
    resized = {name: ", ".join(filter(None, (folded.pop(name, None), note))) for name, note in second.resized.items()}
    loaded = [name for name in second.loaded if name not in folded]
    return WeightReport(loaded, resized, second.fresh, folded, first.dropped, first.notes + second.notes)


def _tell(transferred, report):
    if transferred and report:
        report(transferred)
    elif transferred:
        for note in transferred.notes:
            warnings.warn(note, stacklevel=3)


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """What became of a model's weights, by name; as text, a line for each kind.

    `loaded` were taken as they are, `resized` from another grid, patch size or number of channels, and `fresh` were not
    touched. From a model of another library, `folded` took in what the encoder has no weight for, and `dropped` are
    weights that are no part of an encoder, by their names there. The dictionaries say how, and why. `notes` say what
    was assumed, and what else differs.
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
    """Put what one model learnt into another: the encoder, and the decoder where both have one. All of the encoder, or
    nothing.

    The images may differ in size, patches and channels: tables of positions and the projection of patches are then
    resized (see resampling.py), once and here. The decoder's words stay fresh where they mean something else in the
    target.

    Args:
        source, target: an `Encoder`, or a model that has one as `encoder`, built.

    Returns:
        A `WeightReport`.

    Raises:
        ValueError: naming each weight of the encoder that is missing, left over or of another shape.
    """
    old, new = _encoder_of(source), _encoder_of(target)
    if old.extra_tokens != new.extra_tokens:
        wrong = f"they are of {old.extra_tokens} extra tokens, expected {new.extra_tokens}"
        raise ValueError(
            f"The weights do not fit: {wrong}; make the encoder with extra_tokens={old.extra_tokens}, or start from"
            " another model."
        )
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
    notes = [f"the norms' epsilon was {old.epsilon} and is {new.epsilon}"] if old.epsilon != new.epsilon else []
    return WeightReport([name for name in arrays if name not in resized], resized, fresh, notes=notes)


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
    """The arrays of the source's decoder that are of use in the target, by name how they were resized, and why others
    are fresh."""
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
