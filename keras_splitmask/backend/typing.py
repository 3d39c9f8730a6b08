"""The types for annotations. Only type checkers and tests load this: jaxtyping comes with the extra `test`.

`Float[Array, "B N D"]` is a tensor of floats of three axes. An axis of the same name has one length in all that goes
into a call and comes out of it; "..." stands for any number of axes.
"""

from typing import Any

from jaxtyping import Bool, Float, Int, Num, UInt

Array = Any  # of NumPy, TensorFlow, JAX or torch, or a KerasTensor: they have no class in common

__all__ = ["Array", "Bool", "Float", "Int", "Num", "UInt"]
