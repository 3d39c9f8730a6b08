"""Hold the library to its annotations while the tests run.

A call that returns is checked: a function that refuses what it got has its own say. Its tensors are seen by shape and
type alone, so that those of all backends and Keras' symbolic ones pass as what they are.
"""

import contextlib
import functools
import inspect
import random
import sys
import typing

import jaxtyping
import keras
import numpy as np
from beartype import BeartypeConf, BeartypeHintOverrides
from beartype.door import is_bearable
from keras import ops

from keras_splitmask.backend import typing as names

NAMES = {name: getattr(jaxtyping, name, getattr(names, name)) for name in names.__all__} | {"Array": names.Array}
# An int is a float, too, and a number of NumPy is what it is: the library takes all of these.
INTS = int | np.integer
NUMBERS = BeartypeConf(
    hint_overrides=BeartypeHintOverrides({int: INTS, float: float | np.floating | INTS, bool: bool | np.bool_})
)
CHECKED = []  # names of the functions that are checked


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
        # While a backend exports a model, a length is an expression.
        self.shape = tuple(int(n) if isinstance(n, (int, np.integer)) else Unknown() for n in tensor.shape)
        of_numpy = isinstance(tensor, np.ndarray)
        self.dtype = np.dtype(tensor.dtype if of_numpy else keras.backend.standardize_dtype(tensor.dtype))


def seen(value):
    """A value with its tensors, in lists, tuples and dictionaries, too, replaced by `Seen`."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(seen, value))
    if type(value) is dict:
        return {key: seen(each) for key, each in value.items()}
    tensors = (np.ndarray, keras.KerasTensor, keras.Variable)
    return Seen(value) if isinstance(value, tensors) or ops.is_tensor(value) else value


@contextlib.contextmanager
def random_numbers_kept():
    """Leave Python's random numbers as they were: beartype draws one to look at an item of a list, and Keras draws its
    seeds from them."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def checked(function):
    """The function, which raises TypeError where a call did not keep to its annotations."""
    signature = inspect.signature(function)
    if not all(isinstance(hint, str) for hint in function.__annotations__.values()):
        # Evaluated already, an annotation of a tensor has become `Any`.
        raise TypeError(f"Expected `from __future__ import annotations` in {function.__module__}.")
    hints = typing.get_type_hints(function, {**function.__globals__, **NAMES})

    @functools.wraps(function)
    def call(*args, **kwargs):
        answer = function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = {**bound.arguments, "return": answer}
        with jaxtyping.jaxtyped("context"), random_numbers_kept():
            for name, hint in hints.items():
                value = values[name]
                if not any(is_bearable(x, hint, conf=NUMBERS) for x in (seen(value), value)):
                    shape = getattr(value, "shape", "")
                    raise TypeError(f"{function.__qualname__}: {name} {value!r:.200} {shape} is no {hint}")
        return answer

    CHECKED.append(f"{function.__module__}.{function.__qualname__}")
    call.__signature__ = signature  # where Keras reads the arguments of constructors, it looks behind no wrapper
    return call


def is_annotated(function):
    """Whether it is a function of a file, not one that Python makes of a data class, and has annotations."""
    return inspect.isfunction(function) and function.__annotations__ and function.__code__.co_filename != "<string>"


def watched(member):
    """What takes the place of a member of a class, or None if nothing does."""
    if isinstance(member, (classmethod, staticmethod)) and is_annotated(member.__func__):
        return type(member)(checked(member.__func__))
    if isinstance(member, property) and is_annotated(member.fget):
        return property(checked(member.fget), member.fset, member.fdel, member.__doc__)
    return checked(member) if is_annotated(member) else None


def watch(package="keras_splitmask"):
    """Replace all annotated functions and methods of a package that is imported by `checked` ones."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == package]
    replaced = {}
    for module in modules:
        for value in [value for value in vars(module).values() if getattr(value, "__module__", 0) == module.__name__]:
            if is_annotated(value):
                replaced[value] = checked(value)
            elif inspect.isclass(value):
                for name, member in [(name, watched(member)) for name, member in vars(value).items()]:
                    if member:
                        setattr(value, name, member)
    for module in modules:
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value in replaced:
                setattr(module, name, replaced[value])
