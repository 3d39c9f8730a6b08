"""Cross entropy of a linear layer without the table of all its logits in memory, with a gradient of its own."""

from keras import ops

from keras_splitmask.backend import chunks
from keras_splitmask.backend.layers import add_product, add_rows, cross_entropy, linear, reshape, transposed


def linear_cross_entropy(hidden, kernel, bias, ids):
    """Compute `losses.inpaint(hidden @ kernel + bias, ids)`, averaged over all examples, chunk by chunk.

    With thousands of words, the table of logits is the largest of a training step by far. So the rows are taken in
    chunks, and what the gradient needs of a chunk's logits is computed at once, while they are in the cache.

    Args:
        hidden: (B, m, D) float.
        kernel: (D, V) float, weights of the layer that predicts words.
        bias: (V,) float.
        ids: (B, m) int32, the words.

    Returns:
        The mean loss and the mean accuracy, scalars float32.
    """
    kernel, bias = ops.convert_to_tensor(kernel), ops.convert_to_tensor(bias)
    # The loop is not differentiated: it computes the gradients itself, and `with_gradient` attaches them to the loss.
    tokens, weights, biases = (ops.cast(ops.stop_gradient(x), hidden.dtype) for x in (hidden, kernel, bias))
    # For 8 images of 196 patches and 8,192 words, the table that is spared has 51 MB, and was made five times in a
    # step.
    back = transposed(weights)  # (V, D)

    # Each device sums the gradients of its own images, so that devices need not exchange them for each chunk.
    devices = chunks.devices_of_batch()

    def by_device(x):
        return reshape(x, (devices, -1, x.shape[-1]))

    def add_chunk(sums, chunk):
        tokens, words = reshape(chunk[0], (-1, weights.shape[0])), reshape(chunk[1], (-1,))
        logits = ops.cast(linear(tokens, weights, biases), "float32")  # (n, V)
        loss, hits, grad_logits = cross_entropy(logits, words)
        # Before the cast: gradients of biases are sums over all rows, and need float32.
        grad_bias = add_rows(sums["bias"], by_device(grad_logits))
        grad_logits = ops.cast(grad_logits, tokens.dtype)
        grad_kernel = add_product(sums["kernel"], by_device(tokens), by_device(grad_logits))
        grad_tokens = reshape(ops.matmul(grad_logits, back), (-1, *chunk[0].shape[1:]))
        chunk_means = {"loss": ops.mean(loss), "hits": ops.mean(hits), "tokens": grad_tokens}
        return {"kernel": grad_kernel, "bias": grad_bias}, chunk_means

    sums = {"kernel": ops.zeros((devices, *weights.shape)), "bias": ops.zeros((devices, *biases.shape))}
    sums, means = chunks.by_parts(add_chunk, sums, (tokens, ids), width=weights.shape[1])
    sums = {name: ops.sum(x, axis=0) for name, x in sums.items()}
    gradients = [(hidden, chunks.join_parts(means["tokens"])), (kernel, sums["kernel"]), (bias, sums["bias"])]
    # At least 1: a replica may have no image.
    loss = with_gradient(ops.mean(means["loss"]), gradients, 1 / ops.cast(ops.maximum(ops.size(ids), 1), "float32"))
    return loss, ops.mean(means["hits"])


def with_gradient(value, gradients, scale):
    """A scalar equal to `value`, whose gradient with respect to x is `scale` times g, for each pair (x, g)."""
    linear_part = scale * sum(
        ops.sum(ops.cast(x, "float32") * ops.cast(ops.stop_gradient(g), "float32")) for x, g in gradients
    )
    return ops.stop_gradient(value) + (linear_part - ops.stop_gradient(linear_part))
