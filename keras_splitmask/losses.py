"""The losses: pure functions of tensors that return one value per example; `inpaint` alone returns a mean, with its
gradient."""

from keras import ops

from keras_splitmask.backend import chunks
from keras_splitmask.backend.layers import add_product, add_rows, cross_entropy, linear, transposed


def inpaint(head, hidden, ids):
    """Cross entropy between predicted and true visual words, averaged over the unseen patches of all examples (section
    4).

    With thousands of words, the table of all logits is by far the largest of a step. So the patches are taken in parts,
    and what the gradient needs of a part's logits is taken from them at once.

    Args:
        head: a built layer `linear(x, kernel, bias)` from (B, m, D) to logits (B, m, V).
        hidden: (B, m, D) float.
        ids: (B, m) int32, the words.

    Returns:
        The loss and the share of the words to which no other was preferred, scalars float32.
    """
    if getattr(head, "quantization_mode", None):
        raise ValueError(
            f"Expected a head of float weights, received {head.quantization_mode}; train and evaluate the model before"
            " it is quantized."
        )
    kernel, bias = ops.convert_to_tensor(head.kernel), ops.convert_to_tensor(head.bias)
    tokens, weights, biases = (ops.cast(ops.stop_gradient(x), hidden.dtype) for x in (hidden, kernel, bias))
    back = transposed(weights)  # (V, D)

    # Each device adds up what its own images ask of the head, so that devices need not meet for each part.
    devices = chunks.devices_of_batch()

    def by_device(x):
        return ops.reshape(x, (devices, -1, x.shape[-1]))

    def of_part(sums, part):
        tokens, words = ops.reshape(part[0], (-1, weights.shape[0])), ops.reshape(part[1], (-1,))
        logits = ops.cast(linear(tokens, weights, biases), "float32")  # (n, V)
        of_word = ops.take_along_axis(logits, ops.expand_dims(words, -1), axis=-1)[:, 0]
        hits = ops.cast(of_word >= ops.max(logits, axis=-1), "float32")  # by argmax, it would cost more
        loss, towards_logits = cross_entropy(logits, words)
        bias = add_rows(sums["bias"], by_device(towards_logits))
        towards_logits = ops.cast(towards_logits, tokens.dtype)
        sums = {"bias": bias, "kernel": add_product(sums["kernel"], by_device(tokens), by_device(towards_logits))}
        towards_tokens = ops.reshape(ops.matmul(towards_logits, back), (-1, *part[0].shape[1:]))
        return sums, {"loss": ops.mean(loss), "hits": ops.mean(hits), "tokens": towards_tokens}

    sums = {"kernel": ops.zeros((devices, *weights.shape)), "bias": ops.zeros((devices, *biases.shape))}
    sums, found = chunks.by_parts(of_part, sums, (tokens, ids), width=weights.shape[1])
    sums = {name: ops.sum(x, axis=0) for name, x in sums.items()}
    gradients = [(hidden, chunks.join_parts(found["tokens"])), (kernel, sums["kernel"]), (bias, sums["bias"])]
    loss = with_gradient(ops.mean(found["loss"]), gradients, 1 / ops.cast(ops.maximum(ops.size(ids), 1), "float32"))
    return loss, ops.mean(found["hits"])


def with_gradient(value, gradients, scale):
    """A scalar that is `value`, and whose gradient with respect to each x of the pairs (x, g) is `scale` times g."""
    along = scale * sum(
        ops.sum(ops.cast(x, "float32") * ops.cast(ops.stop_gradient(g), "float32")) for x, g in gradients
    )
    return ops.stop_gradient(value) + (along - ops.stop_gradient(along))


def match(a, b, all_a, all_b, labels, temperature=0.2):
    """Symmetric InfoNCE between the pooled vectors of the two halves (equation 2, with the logarithm that it lacks in
    print).

    An example's positive is the other half of its own image, its negatives the other halves of all other images of the
    global batch.

    Args:
        a, b: (B, D) float, pooled vectors of the first and second halves; normalised here.
        all_a, all_b: (G, D) float, the same of the global batch; on one device `a` and `b` themselves.
        labels: (B,) int32, the rows of `all_a` and `all_b` that hold these examples.
        temperature: 0.2 in the paper.

    Returns:
        The loss (B,) float32, the mean of both directions, and whether each positive was nearest (B,) float32, likewise
        averaged.
    """
    losses, hits = [], []
    for queries, keys in ((a, all_b), (b, all_a)):
        logits = ops.matmul(unit(queries), ops.transpose(unit(keys))) / temperature  # (B, G)
        of_positive = ops.take_along_axis(logits, ops.expand_dims(labels, -1), axis=-1)[:, 0]
        losses.append(ops.logsumexp(logits, axis=-1) - of_positive)
        hits.append(ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels), "float32"))
    return (losses[0] + losses[1]) / 2, (hits[0] + hits[1]) / 2


def reconstruct(predicted, patches):
    """Mean squared error between predicted and true pixels, averaged over an example's masked patches (MAE, section 3).

    Args:
        predicted: (B, m, P) float.
        patches: (B, m, P) float, the true pixels, of which each patch is brought to zero mean and unit deviation here.

    Returns:
        The loss (B,) float32.
    """
    mean, deviation = patch_statistics(patches)
    errors = ops.cast(predicted, "float32") - (patches - mean) / deviation
    return ops.mean(errors * errors, axis=(1, 2))


def distil(logits, targets, temperature=0.1):
    """Cross entropy of the student's views to the teacher's, averaged over all pairs of different views (DINO, equation
    3).

    Args:
        logits: (B, S, K) float, the student's, of all views of an image.
        targets: (B, T, K) float, the teacher's probabilities, of the first T of these views.
        temperature: of the student; 0.1 in the paper.

    Returns:
        The loss (B,) float32.
    """
    log_shares = ops.log_softmax(ops.cast(logits, "float32") / temperature, axis=-1)
    # The sum over all pairs is a product of sums; from it is taken what a view would learn from itself.
    of_all = ops.sum(ops.sum(targets, axis=1) * ops.sum(log_shares, axis=1), axis=-1)  # (B,)
    of_same = ops.sum(targets * log_shares[:, : targets.shape[1]], axis=(1, 2))  # (B,)
    return (of_same - of_all) / (targets.shape[1] * (logits.shape[1] - 1))


def patch_statistics(patches):
    """The mean and the deviation of the pixels of each of the patches (B, m, P) float32: (B, m, 1) each."""
    mean, variance = ops.moments(patches, axes=-1, keepdims=True)
    return mean, ops.sqrt(variance + 1e-6)


def classify(logits, labels):
    """Cross entropy with the probabilities of the classes.

    Args:
        logits: (B, classes) float.
        labels: (B, classes) float, each row a chunks.

    Returns:
        The loss (B,) float32, and whether the likeliest class was predicted (B,) float32.
    """
    labels = ops.cast(labels, "float32")
    loss = -ops.sum(labels * ops.log_softmax(ops.cast(logits, "float32"), axis=-1), axis=-1)
    return loss, ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.argmax(labels, axis=-1)), "float32")


def unit(vectors):
    """Vectors (..., D) in float32, scaled to length one."""
    vectors = ops.cast(vectors, "float32")
    return vectors * ops.rsqrt(ops.sum(vectors * vectors, axis=-1, keepdims=True) + 1e-12)
