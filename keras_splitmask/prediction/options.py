"""Check what a caller of predictions and features asks for."""

import numbers
import os


def check_count(name, value):
    """Return a positive whole number as an int; ValueError with its name for anything else."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"Expected {name} as a positive whole number, received {value!r}.")
    return int(value)


def check_ratio(value):
    """Return a crop_ratio as a float; ValueError unless it is a number above 0 and at most 1."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError(f"Expected crop_ratio as a number above 0 and at most 1, received {value!r}.")
    return float(value)


def check_model(model):
    """Raise TypeError if the path of a model is given instead of the model."""
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        raise TypeError(f"Expected a model, received the path {path!r}; pass keras_splitmask.load({path!r}).")


def none_readable(count, left_out):
    """The ValueError for `count` images if none can be read, with the first reason of {name: reason}."""
    why = next((f", such as {name} ({reason})" for name, reason in left_out.items()), "")
    return ValueError(f"Expected readable images, received none of {count}{why}; repair them or choose others.")
