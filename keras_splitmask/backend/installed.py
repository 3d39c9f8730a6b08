"""Which backend Keras will use: checked before Keras is imported, to say in one line what to install."""

import importlib.util
import json
import os
import pathlib
import sys

# In the order of preference; TensorFlow is Keras' own default, too.
BACKENDS = ("tensorflow", "jax", "torch")
HOME = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()


def check():
    """Choose the first installed backend if the user chose none, and stop if there is no backend to use.

    The user chooses by the environment variable KERAS_BACKEND, or by a keras.json that names another backend than
    tensorflow, since Keras itself writes a keras.json with tensorflow.

    Raises:
        ImportError: if the chosen backend, or any backend, is not installed.
    """
    if "keras" in sys.modules:  # its backend is imported
        return
    # Only looked for: importing a backend takes seconds.
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    chosen, by = _chosen()
    if chosen in BACKENDS and chosen not in installed:
        other = f"Use KERAS_BACKEND={installed[0]}, or run" if installed else "Run"
        raise ImportError(f"The backend {chosen}, chosen by {by}, is not installed. {other}: pip install {chosen}")
    if not chosen and not installed:
        raise ImportError(
            "Keras needs a backend, and none is installed. Run one of: pip install torch; pip install tensorflow;"
            " pip install jax"
        )
    if not chosen:
        os.environ["KERAS_BACKEND"] = installed[0]


def _chosen():
    """Return the backend that the user chose and how, or two empty strings."""
    if name := os.environ.get("KERAS_BACKEND"):
        return name, "KERAS_BACKEND"
    try:
        name = json.loads((HOME / "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
    return (name, HOME / "keras.json") if name != "tensorflow" else ("", "")


check()
