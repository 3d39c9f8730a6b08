"""Models of the Hugging Face Hub by name, downloaded by the package huggingface_hub where it is installed."""

import pathlib

from keras_splitmask.backend.optional import optional
from keras_splitmask.interchange import reading
from keras_splitmask.interchange.names import CONFIG, PREPROCESSOR, WEIGHTS
from keras_splitmask.interchange.stored_arrays import printable

PREFIX = "hf:"


def downloaded(name):
    """Download the weights of a model and what stands beside them, unless they are in the cache of huggingface_hub.

    Args:
        name: "hf:OWNER/NAME", or "hf:OWNER/NAME@REVISION" for a branch, tag or commit.

    Returns:
        The folder, a `pathlib.Path`.

    Raises:
        ValueError: if there is no such model, no network, or no file of weights.
        ImportError: if huggingface_hub is not installed.
    """
    model, _, revision = name.removeprefix(PREFIX).partition("@")
    hub = optional("huggingface_hub", "hub")
    for weights in (WEIGHTS, reading.TORCH_WEIGHTS):
        stem, suffix = weights.split(".")
        # The weights, or several files of them and their index.
        wanted = [CONFIG, PREPROCESSOR, weights, f"{stem}-*.{suffix}", f"{weights}.index.json"]
        try:
            folder = pathlib.Path(hub.snapshot_download(model, revision=revision or None, allow_patterns=wanted))
        # Of many types: of the network, the name, the rights and the disk.
        except Exception as error:
            reason = printable((str(error).splitlines() or [type(error).__name__])[0])
            raise ValueError(
                f"Expected a model of the Hugging Face Hub, received {printable(name)} ({reason}); check the name and"
                " the network, or download its files by hand and name their folder."
            ) from error
        if reading.find(folder):
            return folder
    raise ValueError(f"Expected {WEIGHTS} or {reading.TORCH_WEIGHTS} in the model {printable(name)}, received neither.")
