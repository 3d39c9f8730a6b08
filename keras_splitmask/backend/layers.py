"""Parts of Keras at the backends' full speed."""

import math

import keras
from keras import ops


def linear(x, kernel, bias):
    """x (B, ..., D) times `kernel` (D, V), plus `bias` (V,).

    Torch and TensorFlow add the bias inside the product, as JAX does once compiled; Keras adds it to the finished
    product, one more pass over it: measured on a CPU, 6 to 20% of a SplitMask step on torch.
    """
    if keras.backend.backend() == "torch":
        import torch

        return torch.nn.functional.linear(x, kernel.T, bias)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        product = tf.nn.bias_add(tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel), bias)
        return ops.reshape(product, (-1, *x.shape[1:-1], kernel.shape[1]))
    return ops.add(ops.matmul(x, kernel), bias)


def attention(qkv, start=0):
    """Queries, keys and values (B, n, 3, heads, d) to mixed values (B, n - start, heads, d), for which only tokens from
    `start` on ask."""
    if keras.backend.backend() != "tensorflow":
        query, key, value = ops.unstack(qkv, 3, axis=2)  # torch fills less memory than for slices
        query = query[:, start:] if start else query
        # JAX refuses to differentiate cuDNN's attention of an odd number of tokens. Keras would log that for each
        # block, and then do without it.
        odd = keras.backend.backend() == "jax" and (query.shape[1] % 2 or key.shape[1] % 2)
        return ops.dot_product_attention(query, key, value, flash_attention=False if odd else None)
    import tensorflow as tf

    # Not by einsum as Keras does, at half as much again.
    query, key, value = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))  # (B, heads, n, d)
    query = query[:, :, start:] if start else query
    logits = tf.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)  # (B, heads, m, n)
    shares = tf.cast(tf.nn.softmax(tf.cast(logits, "float32")), value.dtype)
    return tf.transpose(tf.matmul(shares, value), (0, 2, 1, 3))


def gelu(x):
    """The exact GELU; on TensorFlow with a gradient in fewer passes over x than that of its parts, which takes a step
    5% longer on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return ops.gelu(x, approximate=False)
    import tensorflow as tf

    @tf.custom_gradient
    def of_tensor(x):
        scaled = -(0.5**0.5) * x
        share = 0.5 * tf.math.erfc(scaled)

        def gradient(towards):
            bell = math.pi**-0.5 * tf.exp(
                -tf.square(scaled)
            )  # TensorFlow squares, negates and exponentiates in one pass
            return towards * (share - scaled * bell)

        return x * share, gradient

    return of_tensor(x)


def argmax(x):
    """`ops.argmax` of the last axis, int32, without the five passes over x for the sign of its zeros that Keras makes
    on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return ops.cast(ops.argmax(x, axis=-1), "int32")
    import tensorflow as tf

    return tf.argmax(x, axis=-1, output_type="int32")


def cross_entropy(logits, ids):
    """The cross entropies (n,) of logits (n, V) float32 and words (n,) int32, and their gradient (n, V), which has no
    gradient itself."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=ids)
    shares, places = ops.softmax(logits, axis=-1), ops.expand_dims(ids, -1)
    of_word = ops.take_along_axis(logits, places, axis=-1)
    losses = ops.max(logits, axis=-1, keepdims=True) - of_word - ops.log(ops.max(shares, axis=-1, keepdims=True))
    if keras.backend.backend() == "torch":
        gradient = shares.scatter_add_(1, places.long(), shares.new_full((1, 1), -1.0).expand(places.shape))
    else:
        gradient = shares - ops.cast(
            ops.equal(ops.arange(shares.shape[1], dtype="int32"), places), shares.dtype
        )  # XLA builds no table
    return losses[:, 0], gradient


def transposed(x):
    """x (D, V) to (V, D), for several products with it: on TensorFlow it is laid out anew, without which each takes
    twice as long on a CPU.

    It takes a detour by a third axis, since TensorFlow makes a mere transpose part of each product again.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.transpose(x)
    return ops.reshape(ops.transpose(ops.expand_dims(x, 1), (2, 1, 0)), (x.shape[1], x.shape[0]))


def add_product(total, a, b):
    """total (s, D, V) float32 plus the products of a (s, n, D), transposed, and b (s, n, V), both of one dtype; `total`
    may be changed.

    The sums over n are in float32 at least where float16 would overflow, whatever the scale of the loss.
    """
    if keras.backend.backend() == "jax":
        return total + _product_in_float32(a, b)
    if keras.backend.standardize_dtype(a.dtype) == "float16":
        a, b = (
            ops.cast(a, "float32"),
            ops.cast(b, "float32"),
        )  # which TensorFlow multiplies by tensor cores all the same
    if keras.backend.backend() != "torch" or a.dtype != total.dtype:
        return total + ops.cast(ops.matmul(ops.swapaxes(a, 1, 2), b), total.dtype)
    return total.baddbmm_(a.mT, b)


def _product_in_float32(a, b):
    """JAX: a (s, n, D), transposed, times b (s, n, V) to float32, at the speed of their dtype."""
    import jax

    return jax.numpy.matmul(ops.swapaxes(a, 1, 2), b, preferred_element_type="float32")


def add_rows(total, x):
    """total (s, V) plus the sums of the rows of x (s, n, V), both float32: by a product, but on torch, whose sum is
    faster."""
    if keras.backend.backend() == "torch":
        return total + ops.sum(x, axis=1)
    return add_product(total[:, None], ops.ones_like(x[..., :1]), x)[:, 0]


def check_float(layer):
    """Refuse to save a quantized layer, since a model is loaded by its configuration, which does not say so. Raises
    ValueError."""
    if mode := layer.quantization_mode:
        raise ValueError(
            f"Expected float weights to save, received {mode}; save the model first, and quantize it when it is loaded."
        )


@keras.saving.register_keras_serializable("keras_splitmask")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` without activation, as `linear` computes it; quantized, as Keras does, but not saved.

    Raises:
        ValueError: when it is saved quantized.
    """

    def call(self, inputs, training=None):
        if self.quantization_mode:
            return self.quantized_call(inputs, training=training)
        return linear(inputs, ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(self.bias))

    def quantize(self, mode=None, type_check=True, config=None):
        super().quantize(mode, type_check=False, config=config)  # which refuses subclasses by default

    def save_own_variables(self, store):
        check_float(self)
        super().save_own_variables(store)


@keras.saving.register_keras_serializable("keras_splitmask")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis, whose gradient JAX and TensorFlow compute in fewer passes.

    Keras multiplies before it subtracts the mean, which rounds more, too: measured on a CPU, 12 blocks took JAX 1.4
    times as long.
    """

    def call(self, inputs):
        if keras.backend.backend() == "torch":
            return super().call(inputs)
        x = ops.cast(inputs, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        x = x * ops.rsqrt(ops.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(x * ops.cast(self.gamma, "float32") + ops.cast(self.beta, "float32"), self.compute_dtype)
