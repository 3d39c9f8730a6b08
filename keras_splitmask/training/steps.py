"""The training step of the Keras backend in use: `train_step`, `test_step` and `compute_gradients` of a model."""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_splitmask.training.steps_tensorflow import compute_gradients, test_step, train_step
elif keras.backend.backend() == "jax":
    from keras_splitmask.training.steps_jax import (  # type: ignore[assignment]
        compute_gradients,
        test_step,
        train_step,
    )
else:
    from keras_splitmask.training.steps_torch import compute_gradients, test_step, train_step

__all__ = [
    "compute_gradients",
    "test_step",
    "train_step",
]
