"""Two layers of Keras at the backends' full speed."""

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


@keras.saving.register_keras_serializable("keras_splitmask")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis, whose gradient JAX and TensorFlow compute in fewer passes.

    Keras multiplies before it subtracts the mean, which rounds more, too: measured on a CPU, 12 blocks took JAX 1.4 times as long.
    """

    def call(self, inputs):
        if keras.backend.backend() == "torch":
            return super().call(inputs)
        x = ops.cast(inputs, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        x = x * ops.rsqrt(ops.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(x * ops.cast(self.gamma, "float32") + ops.cast(self.beta, "float32"), self.compute_dtype)
