"""Packages that only some users need: imported where they are used, and missed with a line that says what to
install."""

import importlib


def optional(module, extra):
    """The named module, or an ImportError that names the extra of this package that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'Expected {module} to be installed, received "{error}"; run pip install "keras_splitmask[{extra}]".'
        ) from error
