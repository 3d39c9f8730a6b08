"""The names that annotations are made of.

`Float[Array, "B N D"]` is a tensor of floats with three axes. Axes of one name have one length in everything that a
call takes and returns; "..." stands for any number of axes. `Shaped` is of any type, as
images are, which may be bool. The tests check every call, by jaxtyping, which comes with the extra `test`. Without it
nothing is checked: an annotation means `Any`.
"""

from typing import TYPE_CHECKING, Any

Array = Any  # of NumPy, TensorFlow, JAX or torch, or a KerasTensor: they have no class in common

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8
else:

    class Unchecked:
        """Takes the place of a type of jaxtyping while the library runs."""

        def __class_getitem__(cls, array_and_axes):
            return Any

    Bool = Float = Int = Num = Shaped = UInt8 = Unchecked

__all__ = ["Array", "Bool", "Float", "Int", "Num", "Shaped", "UInt8"]
