"""Hold the library to its annotations while the tests run.

A call that returns is checked: a function that refuses what it got has its own say. Its tensors are seen by shape and
type alone, so that those of all backends and Keras' symbolic ones pass as what they are.
"""

import functools
import inspect
import sys
import typing

import jaxtyping
import keras
import numpy as np
from beartype.door import is_bearable
from keras import ops

from keras_splitmask.backend import typing as names


class Unknown:
    """A length that is known only when a graph runs: equal to any, also as a part of a product."""

    def __eq__(self, other):
        return True

    def __mul__(self, other):
        return self

    __hash__ = None
    __rmul__ = __add__ = __radd__ = __sub__ = __rsub__ = __floordiv__ = __mul__


class Seen:
    """What is checked of a tensor."""

    def __init__(self, tensor):
        self.shape = tuple(Unknown() if length is None else int(length) for length in tensor.shape)
        self.dtype = np.dtype(keras.backend.standardize_dtype(tensor.dtype))


def seen(value):
    """A value with its tensors, in lists, tuples and dictionaries, too, replaced by `Seen`."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(seen, value))
    if type(value) is dict:
        return {key: seen(each) for key, each in value.items()}
    return Seen(value) if isinstance(value, (np.ndarray, keras.KerasTensor)) or ops.is_tensor(value) else value


def checked(function):
    """The function, which raises TypeError where a call did not keep to its annotations."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, {**function.__globals__, **vars(names)})

    @functools.wraps(function)
    def call(*args, **kwargs):
        answer = function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = {**bound.arguments, "return": answer}
        with jaxtyping.jaxtyped("context"):
            for name, hint in hints.items():
                if not is_bearable(seen(values[name]), hint):
                    shape = getattr(values[name], "shape", "")
                    raise TypeError(f"{function.__qualname__}: {name} {values[name]!r:.200} {shape} is no {hint}")
        return answer

    return call


def watch(package="keras_splitmask"):
    """Replace all annotated functions and methods of a package that is imported by `checked` ones; returns how many."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == package]
    replaced = {}
    for module in modules:
        for value in [value for value in vars(module).values() if getattr(value, "__module__", 0) == module.__name__]:
            if inspect.isfunction(value) and value.__annotations__:
                replaced[value] = checked(value)
            elif inspect.isclass(value):
                for name, method in list(vars(value).items()):
                    # Keras reads the arguments of constructors in a way that sees through no wrapper.
                    if inspect.isfunction(method) and method.__annotations__ and name != "__init__":
                        replaced[method] = checked(method)
                        setattr(value, name, replaced[method])
    for module in modules:
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value in replaced:
                setattr(module, name, replaced[value])
    return len(replaced)
