"""The losses: pure functions of tensors that return one value per example."""

import keras
from keras import ops

from keras_splitmask.training.distribution import scan

LOGITS_AT_ONCE = 2**27  # half a GiB in float32


def inpaint_by(head, hidden, ids):
    """`inpaint` of what a layer predicts, of which no more than `LOGITS_AT_ONCE` are held at any time; the gradient computes them anew.

    Args:
        head: a built layer from (B, m, D) to logits (B, m, V).
        hidden: (B, m, D) float.
        ids: (B, m) int32, the words.

    Returns:
        As `inpaint`.
    """
    count, vocabulary = ids.shape[1], head.kernel.shape[-1]
    images = hidden.shape[0] or 128  # TensorFlow knows it under a strategy alone
    parts = next(n for n in range(1, count + 1) if count % n == 0 and (n == count or images * count // n * vocabulary <= LOGITS_AT_ONCE))
    if parts == 1:
        return inpaint(head(hidden), ids)
    weights = [ops.convert_to_tensor(v) for v in head.trainable_variables]

    def of_part(carry, part):
        hidden, ids = part

        @keras.remat
        def answer(hidden, *weights):
            logits, _ = head.stateless_call(weights, [], hidden)
            return inpaint(logits, ids)

        return carry, answer(hidden, *weights)

    def split(x):
        return ops.moveaxis(ops.reshape(x, (-1, parts, count // parts, *x.shape[2:])), 1, 0)

    _, answers = scan(of_part, ops.zeros(()), (split(hidden), split(ids)))
    return tuple(ops.mean(of_parts, axis=0) for of_parts in answers)


def inpaint(logits, ids):
    """Cross entropy between predicted and true visual words, averaged over an example's unseen patches (section 4).

    Args:
        logits: (B, m, V) float.
        ids: (B, m) int32, the words; no one-hot table of them is built.

    Returns:
        The loss (B,) float32, and the share of the words to which no other was preferred (B,) float32.
    """
    # Not logsumexp, whose gradient costs torch two more passes over (B, m, V); nor argmax, which costs more than max.
    log_shares = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    of_word = ops.take_along_axis(log_shares, ops.expand_dims(ids, -1), axis=-1)[..., 0]  # (B, m)
    hits = ops.cast(of_word >= ops.max(log_shares, axis=-1), "float32")
    return -ops.mean(of_word, axis=-1), ops.mean(hits, axis=-1)


def match(a, b, all_a, all_b, labels, temperature=0.2):
    """Symmetric InfoNCE between the pooled vectors of the two halves (equation 2, with the logarithm that it lacks in print).

    An example's positive is the other half of its own image, its negatives the other halves of all other images of the global batch.

    Args:
        a, b: (B, D) float, pooled vectors of the first and second halves; normalised here.
        all_a, all_b: (G, D) float, the same of the global batch; on one device `a` and `b` themselves.
        labels: (B,) int32, the rows of `all_a` and `all_b` that hold these examples.
        temperature: 0.2 in the paper.

    Returns:
        The loss (B,) float32, the mean of both directions, and whether each positive was nearest (B,) float32, likewise averaged.
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
    """Cross entropy of the student's views to the teacher's, averaged over all pairs of different views (DINO, equation 3).

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
        labels: (B, classes) float, each row a distribution.

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
