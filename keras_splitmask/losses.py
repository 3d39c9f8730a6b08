"""The losses of all methods: pure functions of tensors that return one value per example."""

from __future__ import annotations

from keras import ops

from keras_splitmask.backend.typing import Array, Float, Int, Num


def inpaint(logits: Float[Array, "B m V"], ids: Int[Array, "B m"]) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Cross entropy between predicted and true visual words, averaged over an example's unseen patches (section 4).

    This is the definition. The models call `backend.linear_cross_entropy`, which computes the same in less memory.

    Returns:
        The loss and the accuracy, float32. A word counts as predicted if no other has a larger logit.
    """
    logits = ops.cast(logits, "float32")
    word_logits = ops.take_along_axis(logits, ops.expand_dims(ids, -1), axis=-1)[..., 0]  # (B, m)
    loss = ops.logsumexp(logits, axis=-1) - word_logits
    hits = ops.cast(word_logits >= ops.max(logits, axis=-1), "float32")
    return ops.mean(loss, axis=1), ops.mean(hits, axis=1)


def match(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    all_a: Float[Array, "G D"],
    all_b: Float[Array, "G D"],
    labels: Int[Array, " B"],
    temperature: float = 0.2,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Symmetric InfoNCE between the pooled vectors of the two halves (equation 2, whose printed form lacks the log).

    The positive of an example is the other half of its own image. Its negatives are the other halves of all other
    images of the global batch.

    Args:
        a, b: pooled vectors of the first and second halves; normalised here.
        all_a, all_b: the vectors of the global batch; on one device `a` and `b` themselves.
        labels: the rows of `all_a` and `all_b` that hold these examples.
        temperature: 0.2 in the paper.

    Returns:
        The loss and the accuracy, float32, both averaged over the two directions.
    """
    losses, hits = [], []
    for queries, keys in ((a, all_b), (b, all_a)):
        logits = ops.matmul(unit(queries), ops.transpose(unit(keys))) / temperature  # (B, G)
        positive_logits = ops.take_along_axis(logits, ops.expand_dims(labels, -1), axis=-1)[:, 0]
        losses.append(ops.logsumexp(logits, axis=-1) - positive_logits)
        hits.append(ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels), "float32"))
    return (losses[0] + losses[1]) / 2, (hits[0] + hits[1]) / 2


def reconstruct(predicted: Float[Array, "B m P"], patches: Float[Array, "B m P"]) -> Float[Array, " B"]:
    """Mean squared error between predicted and true pixels, averaged over an example's masked patches (MAE, section 3).

    `patches` are the true pixels; each patch is scaled to zero mean and unit variance here. The loss is float32.
    """
    mean, std = patch_statistics(patches)
    errors = ops.cast(predicted, "float32") - (patches - mean) / std
    return ops.mean(errors * errors, axis=(1, 2))


def distil(
    logits: Float[Array, "B S K"], targets: Float[Array, "B T K"], temperature: float = 0.1
) -> Float[Array, " B"]:
    """Cross entropy between teacher and student, averaged over all pairs of different views (DINO, equation 3).

    Args:
        logits: the student's, for all S views of an image.
        targets: the teacher's probabilities, for the first T of these views.
        temperature: the student's; 0.1 in the paper.
    """
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32") / temperature, axis=-1)
    # The sum over all pairs of views is a product of sums. Pairs of a view with itself do not count.
    all_pairs = ops.sum(ops.sum(targets, axis=1) * ops.sum(log_probabilities, axis=1), axis=-1)  # (B,)
    diagonal = ops.sum(targets * log_probabilities[:, : targets.shape[1]], axis=(1, 2))  # (B,)
    return (diagonal - all_pairs) / (targets.shape[1] * (logits.shape[1] - 1))


def patch_statistics(patches: Float[Array, "B m P"]) -> tuple[Float[Array, "B m 1"], Float[Array, "B m 1"]]:
    """The mean and the standard deviation of the pixels of each patch."""
    mean, variance = ops.moments(patches, axes=-1, keepdims=True)
    return mean, ops.sqrt(variance + 1e-6)


def classify(logits: Float[Array, "B K"], labels: Num[Array, "B K"]) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Cross entropy with target probabilities of the K classes, such as those of a mixed image; each row sums to 1.

    Returns:
        The loss, and whether the class with the largest target was predicted, both float32.
    """
    labels = ops.cast(labels, "float32")
    loss = -ops.sum(labels * ops.log_softmax(ops.cast(logits, "float32"), axis=-1), axis=-1)
    return loss, ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.argmax(labels, axis=-1)), "float32")


def unit(vectors: Num[Array, "*axes D"]) -> Float[Array, "*axes D"]:
    """Scale vectors to length one, in float32."""
    vectors = ops.cast(vectors, "float32")
    return vectors * ops.rsqrt(ops.sum(vectors * vectors, axis=-1, keepdims=True) + 1e-12)
