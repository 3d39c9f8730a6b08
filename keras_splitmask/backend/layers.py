"""Operations and layers of Keras, written so that each backend runs them at full speed."""

import math

import keras
from keras import ops


def call(layer, *inputs, **options):
    """Call a layer of one's own, of the same precision. On torch, by its `call` method only.

    What Keras does around a layer takes torch 0.13 ms each time (2.13, Keras 3.15): with 8 layers in each of vit_tiny's
    14 blocks, 2% of a step on a CPU. The other backends do it once, when they trace the step.
    """
    return (layer.call if keras.backend.backend() == "torch" else layer)(*inputs, **options)


def reshape(x, shape):
    """`ops.reshape`. On torch without Keras' search for symbolic tensors in `shape`, which takes 0.1 ms each time."""
    return x.reshape(shape) if keras.backend.backend() == "torch" else ops.reshape(x, shape)


def linear(x, kernel, bias):
    """x (B, ..., D) times `kernel` (D, V), plus `bias` (V,).

    Torch and TensorFlow add the bias inside the product, as JAX does once compiled. Keras adds it to the finished
    product, in one more pass over it: on a CPU, 6 to 20% of a SplitMask step on torch.
    """
    if keras.backend.backend() == "torch":
        import torch

        return torch.nn.functional.linear(x, kernel.T, bias)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        product = tf.nn.bias_add(tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel), bias)
        return ops.reshape(product, (-1, *x.shape[1:-1], kernel.shape[1]))
    return ops.add(ops.matmul(x, kernel), bias)


def attention(qkv, heads, start=0, bias=None):
    """Attention: queries, keys and values (B, n, 3 * D), side by side, to mixed values (B, n - start, D).

    Only the tokens from index `start` on are queries; all tokens are keys and values. Each of the `heads` has its own
    D / heads numbers of them. `bias` (1, heads, n - start, n), of the type of qkv, is added to the scaled logits.
    """
    count, width = qkv.shape[1], qkv.shape[2] // 3
    mixed = _attention(reshape(qkv, (-1, count, 3, heads, width // heads)), start, bias)
    return reshape(mixed, (-1, count - start, width))


def _attention(qkv, start, bias):
    """From (B, n, 3, heads, d) to (B, n - start, heads, d)."""
    if keras.backend.backend() == "torch":
        import torch

        # By torch's own function, which reads the parts of qkv where they lie. Keras' copies each of them first. The
        # gradient of a slice is a full tensor of zeros, that of unbind is not.
        query, key, value = (x.transpose(1, 2) for x in qkv.unbind(2))  # (B, heads, n, d)
        query = query[:, :, start:] if start else query
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2)
    if keras.backend.backend() == "jax":
        query, key, value = ops.unstack(qkv, 3, axis=2)
        query = query[:, start:] if start else query
        # JAX refuses to differentiate cuDNN's attention of an odd number of tokens. Keras would log that for each
        # block, and then do without it.
        odd = query.shape[1] % 2 or key.shape[1] % 2
        flash = False if odd or bias is not None else None  # Keras' for TPUs takes no bias
        return ops.dot_product_attention(query, key, value, bias, flash_attention=flash)
    import tensorflow as tf

    # By matmul: the einsum that Keras uses takes 1.6 times as long.
    query, key, value = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))  # (B, heads, n, d)
    query = query[:, :, start:] if start else query
    # The queries are scaled, not the logits, which are more numbers where there are more tokens than d.
    logits = tf.matmul(query * query.shape[-1] ** -0.5, key, transpose_b=True)  # (B, heads, m, n)
    logits = logits if bias is None else logits + bias
    # The softmax is always computed in float32, as Keras does.
    probabilities = tf.cast(tf.nn.softmax(tf.cast(logits, "float32")), value.dtype)
    return tf.transpose(tf.matmul(probabilities, value), (0, 2, 1, 3))


def gelu(x):
    """The exact GELU. On TensorFlow its own gradient takes fewer passes over x, which saves 5% of a step on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return ops.gelu(x, approximate=False)
    import tensorflow as tf

    @tf.custom_gradient
    def with_gradient(x):
        # By erf, which takes half the time of erfc, and in the form that LiteRT knows. In float32: 1 + erf would lose
        # the digits of small probabilities in half precision.
        scaled = 0.5**0.5 * x
        twice = tf.cast(1.0 + tf.math.erf(tf.cast(scaled, "float32")), x.dtype)  # 2 P(x), of the normal distribution

        # P(x) + x p(x), where p is the density of the distribution and x = sqrt(2) scaled.
        def gradient(grad_output):
            density = math.pi**-0.5 * tf.exp(-tf.square(scaled))  # TensorFlow does all of it in one pass
            return grad_output * (0.5 * twice + scaled * density)

        return 0.5 * x * twice, gradient

    return with_gradient(x)


def gather_rows(x, positions):
    """The rows of x (B, N, D) at `positions` (B, n) int32: (B, n, D).

    On torch row by row, since `ops.take_along_axis` picks each of the numbers by an index of its own: with the gradient
    it took seven times as long on a CPU.
    """
    if keras.backend.backend() != "torch":
        return ops.take_along_axis(x, ops.expand_dims(positions, -1), axis=1)
    import torch

    x, positions = ops.convert_to_tensor(x), ops.convert_to_tensor(positions)
    # The rows of all images as one table, so that one look-up serves the batch.
    first_rows = x.shape[1] * torch.arange(x.shape[0], device=x.device)[:, None]
    return torch.nn.functional.embedding(first_rows + positions, x.reshape(-1, x.shape[-1]))


def take_along_axis(x, indices, axis):
    """`ops.take_along_axis` for indices >= 0 that broadcast to x. On torch by gather, since Keras' fixes the number of
    images of an exported program."""
    if keras.backend.backend() != "torch":
        return ops.take_along_axis(x, indices, axis=axis)
    import torch

    x, indices = ops.convert_to_tensor(x), ops.convert_to_tensor(indices)
    shape = [*x.shape[:axis], indices.shape[axis], *x.shape[axis + 1 :]]
    return torch.gather(x, axis, indices.long().expand(shape))


def argmax(x):
    """`ops.argmax` of the last axis, int32, without the five passes for the sign of zeros of Keras on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        return ops.cast(ops.argmax(x, axis=-1), "int32")
    import tensorflow as tf

    return tf.argmax(x, axis=-1, output_type="int32")


def cross_entropy(logits, ids):
    """Cross entropy of logits (n, V) float32 and words (n,) int32.

    Returns:
        The losses (n,); whether no other word has a larger logit (n,), float32; and the gradient of the losses (n, V),
        which has no gradient itself.
    """
    places = ops.expand_dims(ids, -1)
    word_logits, largest = ops.take_along_axis(logits, places, axis=-1), ops.max(logits, axis=-1, keepdims=True)
    hits = ops.cast(word_logits >= largest, "float32")[:, 0]  # argmax would cost more
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # The raw operation returns the gradient, too, which TensorFlow's function for it keeps to itself.
        losses, gradient = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=ids)
        return losses, hits, gradient
    probabilities = ops.softmax(logits, axis=-1)
    # The largest logit has the largest probability, 1 / sum(exp(logits - largest)).
    losses = (largest - word_logits - ops.log(ops.max(probabilities, axis=-1, keepdims=True)))[:, 0]
    if keras.backend.backend() == "torch":
        ones = probabilities.new_full((1, 1), -1.0).expand(places.shape)
        return losses, hits, probabilities.scatter_add_(1, places.long(), ones)
    # By comparison, since XLA then builds no table of its own.
    is_word = ops.equal(ops.arange(logits.shape[1], dtype="int32"), places)
    return losses, hits, probabilities - ops.cast(is_word, probabilities.dtype)


def transposed(x):
    """Transpose x (D, V) to (V, D), for several products with it.

    On TensorFlow and a CPU, products with a transposed matrix take twice as long, so it is copied once. The third axis
    keeps TensorFlow from merging the transpose into each product again.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.transpose(x)
    # For 1,568 patches and 8,192 words a product takes 29 ms instead of 63.
    return ops.reshape(ops.transpose(ops.expand_dims(x, 1), (2, 1, 0)), (x.shape[1], x.shape[0]))


def add_product(total, a, b):
    """Add the product of a (s, n, D), transposed, and b (s, n, V) to total (s, D, V) float32, maybe in place.

    `a` and `b` have one dtype. Sums over n are computed in float32 where float16 could overflow.
    """
    if keras.backend.backend() == "jax":
        return total + _product_in_float32(a, b)
    # 50,000 rows that share a frequent word sum to more than 65,504, the largest float16. No scale of the loss helps.
    if keras.backend.standardize_dtype(a.dtype) == "float16":
        a, b = ops.cast(a, "float32"), ops.cast(b, "float32")  # TensorFlow still uses tensor cores for them
    if keras.backend.backend() != "torch" or a.dtype != total.dtype:
        return total + ops.cast(ops.matmul(ops.swapaxes(a, 1, 2), b), total.dtype)
    return total.baddbmm_(a.mT, b)


def _product_in_float32(a, b):
    """JAX: the product of a (s, n, D), transposed, and b (s, n, V) in float32, at the speed of their dtype."""
    import jax

    return jax.numpy.matmul(ops.swapaxes(a, 1, 2), b, preferred_element_type="float32")


def add_rows(total, x):
    """Add the sums over the rows of x (s, n, V) to total (s, V), both float32.

    By a product with ones, which is faster than a sum on JAX and TensorFlow.
    """
    if keras.backend.backend() == "torch":
        return total + ops.sum(x, axis=1)
    return add_product(total[:, None], ops.ones_like(x[..., :1]), x)[:, 0]


def check_float(layer):
    """Refuse to save a quantized layer: the configuration of a model does not say that it is quantized.

    Raises:
        ValueError: if the layer is quantized.
    """
    if mode := layer.quantization_mode:
        raise ValueError(
            f"Expected float weights to save, received {mode}; save the model first, and quantize it when it is loaded."
        )


@keras.saving.register_keras_serializable("keras_splitmask")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` without activation, computed by `linear`. It can be quantized as in Keras, but not saved so.

    Raises:
        ValueError: when it is saved quantized.
    """

    def call(self, inputs, training=None):
        if self.quantization_mode:
            return self.quantized_call(inputs, training=training)
        # Converted, since autocast gives a variable the dtype of the computation only then.
        return linear(inputs, ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(self.bias))

    def quantize(self, mode=None, type_check=True, config=None):
        super().quantize(mode, type_check=False, config=config)  # by default Keras refuses subclasses

    def float_weights(self):
        """Return the kernel (D, V) and the bias (V,), for a caller that computes the product itself.

        Raises:
            ValueError: if the layer is quantized, since the product would not be that of `call`. In float8 the
                variables are float32 all the same.
        """
        if mode := self.quantization_mode:
            raise ValueError(
                f"Expected a head of float weights, received {mode}; train and evaluate the model before it is"
                " quantized."
            )
        return self.kernel, self.bias

    def save_own_variables(self, store):
        check_float(self)
        super().save_own_variables(store)


@keras.saving.register_keras_serializable("keras_splitmask")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis, whose gradient JAX and TensorFlow compute in fewer passes.

    Keras multiplies before it subtracts the mean, which also rounds more. On a CPU it made 12 blocks take 1.4 times as
    long on JAX.
    """

    def call(self, inputs):
        if keras.backend.backend() == "torch":
            import torch

            # As Keras does, without its checks of arguments, which take 0.1 ms each time.
            x = ops.cast(inputs, self.compute_dtype)
            scale, offset = self.gamma.value.float(), self.beta.value.float()
            normalised = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], scale, offset, self.epsilon)
            return normalised.to(x.dtype)
        x = ops.cast(inputs, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        # The variance of centred numbers: the mean of squares minus the squared mean loses digits.
        x = x * ops.rsqrt(ops.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(x * ops.cast(self.gamma, "float32") + ops.cast(self.beta, "float32"), self.compute_dtype)


def top_k(x, count):
    """The largest of x (B, n), sorted, and their numbers: both (B, count).

    On JAX by sorting, since TensorFlow cannot read what JAX exports of its `top_k`.
    """
    if keras.backend.backend() != "jax":
        return ops.top_k(x, count)
    indices = ops.argsort(-ops.stop_gradient(x), axis=1)[:, :count]
    return take_along_axis(x, indices, axis=1), indices
