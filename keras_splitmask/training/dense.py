"""keras.layers.Dense at torch's full speed."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_splitmask")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` without activation, whose bias torch adds inside the product, as JAX and TensorFlow do once compiled.

    Keras adds it to the finished product, one more pass over it: measured on a CPU, 6 to 20% of a SplitMask step on torch.
    """

    def call(self, inputs, training=None):
        if keras.backend.backend() != "torch":
            return super().call(inputs, training=training)
        import torch

        return torch.nn.functional.linear(inputs, ops.convert_to_tensor(self.kernel).T, ops.convert_to_tensor(self.bias))
