"""The base class of models with classes: their names, and what they need to take images of any file."""

from __future__ import annotations

from collections.abc import Sequence

from keras_splitmask.encoder import Encoder
from keras_splitmask.training.objective_model import ObjectiveModel


class ClassModel(ObjectiveModel):
    """An `ObjectiveModel` that knows the names of its classes. They are saved with it.

    Args:
        encoder: an `Encoder`.
        classes: number of classes.
        class_names: their names in order, or None if they are not known.
        value_range: (low, high), the stored values that are black and white, as the training images were read; None
            for the range of the type. See `data.open_source`.
        **kwargs: see `ObjectiveModel`.

    Raises:
        ValueError: if there are not as many names as classes, a name is no text or occurs twice, or the range is none.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        class_names: Sequence[str] | None = None,
        value_range: Sequence[float] | None = None,
        **kwargs,
    ):
        super().__init__(encoder, **kwargs)
        self.classes = classes
        self.class_names = None if class_names is None else _check_names(class_names, classes)
        self.value_range = None if value_range is None else _check_range(value_range)

    def get_config(self):
        own = {
            "classes": self.classes,
            "class_names": None if self.class_names is None else list(self.class_names),
            "value_range": None if self.value_range is None else list(self.value_range),
        }
        return {**super().get_config(), **own}


def _check_names(names, classes):
    # A text would be taken for a list of letters.
    names = [names] if isinstance(names, str) else list(names)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"Expected class_names as text, received {wrong[0]!r}; write it as str.")
    if len(names) != classes or len(set(names)) != classes:
        raise ValueError(
            f"Expected {classes} different class_names, one for each class, received {len(names)} names,"
            f" {len(set(names))} of them different."
        )
    return names


def _check_range(limits):
    try:
        low, high = (float(limit) for limit in limits)
    except (TypeError, ValueError):
        raise ValueError(f"Expected value_range as two numbers (low, high), received {limits!r}.") from None
    # `not` in front, so that NaN is refused, too.
    if not low < high or abs(low) == float("inf") or high == float("inf"):
        raise ValueError(f"Expected value_range of two finite numbers, low below high, received ({low}, {high}).")
    return low, high
