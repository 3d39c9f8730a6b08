"""Packages that only some users need: imported where they are used, and missed with a line that says what to
install."""

import importlib

# keras-cv is pinned: transfer/ replaces and patches parts of it that another version may have renamed.
PACKAGES = {  # of each extra in pyproject.toml, without those that are for some machines only
    "tf": "tensorflow tensorflow-datasets",
    "data": "grain pillow simplejpeg pyyaml",
    "cv": "keras-cv==0.9.0",
    "coco": "pycocotools",
    "report": "matplotlib",
    "tensorboard": "tensorboard",
    "onnx": "tf2onnx onnxruntime",
    "litert": "ai-edge-litert",
    "hub": "huggingface_hub",
}


def optional(module, extra):
    """Import and return the named module of an extra of this package.

    Raises:
        ImportError: if the module cannot be imported. The message names the packages to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'Expected {module} to be installed, received "{error}". Run: pip install {PACKAGES[extra]}'
        ) from error
