"""Collectives and random numbers inside a step: the only file that knows of several replicas and of micro-batches.

Under JAX a batch is global: the compiler divides the step. Under a TensorFlow strategy each replica runs the step on
its share of the batch, so values that depend on the whole batch (negatives, gradients, random numbers) must be
exchanged between replicas. The same goes for each micro-batch when gradients are accumulated.
"""

import contextlib
import dataclasses
import threading

import keras
import numpy as np
from keras import ops


def _replica():
    """TensorFlow's context of this replica where several share a batch, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def replicas():
    """How many replicas run the step at hand, each on its share of the batch, and know of the others by this file
    alone."""
    replica = _replica()
    return replica.num_replicas_in_sync if replica else 1


def to_numpy(variable):
    """A variable's value, also where devices of other hosts have parts of it, as long as this host's have all."""
    value = variable.value
    if keras.backend.backend() != "jax" or value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(ops.convert_to_numpy(variable))
    whole = np.empty(value.shape, value.dtype)
    for part in value.addressable_shards:
        whole[part.index] = part.data
    return whole


@dataclasses.dataclass(frozen=True)
class _Share:
    """A replica's `images` of a global batch of `total`, from number `start` on."""

    images: object
    start: object
    total: object

    def rows(self, each):
        """The same in rows, `each` of an image."""
        return _Share(self.images * each, self.start * each, self.total * each)


_thread = threading.local()  # TensorFlow runs replicas in threads


def size(data):
    """Images in a batch: an int where it is known, else a scalar int32."""
    return ops.shape(keras.tree.flatten(data)[0])[0]


def labels_shape(data):
    """TensorFlow: return the shape of the labels in a batch or a dataset; None if it is not known.

    No batch of the dataset is read.
    """
    import tensorflow as tf

    _, labels, _ = keras.utils.unpack_x_y_sample_weight(getattr(data, "element_spec", data))
    shapes = [
        x.shape for x in tf.nest.flatten(labels, expand_composites=True) if x is not None
    ]  # of each replica's share
    return tuple(shapes[0]) if shapes and tf.TensorShape(shapes[0]).rank else None


@contextlib.contextmanager
def shared(data):
    """Let replicas know how the global batch is divided: equally, or by the sizes that they exchange.

    `data` is the shard of this replica.
    """
    replica, batch = _replica(), keras.tree.flatten(data)[0]
    if replica and not replica.merge_call(_known_to_be_equal, args=(batch,)):
        number, count = replica.replica_id_in_sync_group, replica.num_replicas_in_sync
        images = ops.convert_to_tensor(size(data))
        # Each replica fills in its own size, so the sum is the list of all.
        sizes = replica.all_reduce("SUM", images * ops.one_hot(number, count, dtype="int32"))
        _thread.share = _Share(images, ops.sum(ops.where(ops.arange(count) < number, sizes, 0)), ops.sum(sizes))
    try:
        yield
    finally:
        _thread.share = None


def _known_to_be_equal(strategy, batches):
    """Return whether it is known before the step runs that all replicas' batches have the same size."""
    # Shapes, not values: all replicas must decide alike, and before the step runs.
    sizes = {batch.shape[0] for batch in strategy.experimental_local_results(batches)}
    return len(sizes) == 1 and None not in sizes


def _share(count, each=None):
    """Locate this replica's `count` rows among those of all replicas. An image has `each` rows."""
    if share := getattr(_thread, "share", None):
        # Without `each` it follows from the rows; a replica without an image has none of either.
        return share.rows(count // ops.maximum(share.images, 1) if each is None else each)
    replica = _replica()
    return (
        _Share(count, count * replica.replica_id_in_sync_group, count * replica.num_replicas_in_sync)
        if replica
        else _Share(count, 0, count)
    )


def weighted(loss):
    """Weight a replica's mean loss for the mean over all replicas; 0 without an image."""
    share = getattr(_thread, "share", None)
    if share is None:
        return loss
    # Times the number of replicas, since the mean over replicas divides by it.
    weight = ops.cast(share.images * replicas(), loss.dtype) / ops.cast(share.total, loss.dtype)
    # The mean of no images is NaN, for which the whole step would be skipped.
    return ops.where(share.images > 0, loss, 0.0) * weight


def gather_batch(x, each=1):
    """Gather the rows of all replicas, with their gradients, and the indices of this replica's own rows.

    Args:
        x: (B, ...), the shard of this replica.
        each: number of rows per image.

    Returns:
        The global batch (G, ...) and the own rows' indices (B,) int32. On JAX a batch is global already; on
        TensorFlow outside of a strategy, and on torch, there is only one replica.
    """
    own = ops.arange(ops.shape(x)[0], dtype="int32")
    if replica := _replica():
        share = _share(ops.shape(x)[0], each)
        own = own + share.start
        # all_gather needs shards of equal size. Unequal ones are padded to the whole batch and summed.
        if getattr(_thread, "share", None):
            after = share.total - share.start - share.images
            return replica.all_reduce("SUM", _pad(x, share.start, after)), own
        x = replica.all_gather(x, axis=0)
    return x, own


def _pad(x, before, after):
    """TensorFlow: add rows of zeros before and after x (B, ...). Their numbers are known only in the step."""
    import tensorflow as tf

    return tf.pad(x, [[before, after]] + [[0, 0]] * (len(x.shape) - 1))


def mean_of_batch(x, each=1):
    """Average rows (B, ...) over all replicas; an image has `each` rows."""
    replica = _replica()
    if not replica:
        return ops.mean(x, axis=0)
    # A sum over replicas, divided by all rows: the mean of means is another number where shares differ.
    total = _share(ops.shape(x)[0], each).total
    return replica.all_reduce("SUM", ops.sum(x, axis=0)) / ops.cast(total, x.dtype)


@dataclasses.dataclass(frozen=True)
class _Part:
    """`images` images of a batch or a shard: those numbered index, index + count, ... So each device has some of each
    part."""

    index: object
    count: int
    images: object
    vectors: object  # what the loss compares across the batch, (B / count, count, ...), if anything


@contextlib.contextmanager
def part_of_batch(index, count, images, vectors=None):
    """Let `uniform` and `whole_batch` know that the current batch is a part; see `_Part`."""
    _thread.part = _Part(index, count, images, vectors)
    try:
        yield
    finally:
        _thread.part = None


def whole_batch(x):
    """Return the vectors of the whole batch (B, ...), given those of the current part, `x` (B / count, ...).

    Without parts this is `x` itself. The vectors of other parts are constants. The gradient is that of the whole
    batch's loss, times `count`, since the gradients of the parts are averaged.
    """
    part = getattr(_thread, "part", None)
    if not part or part.vectors is None:
        return x
    # The value stays x, and its gradient counts `count` times.
    x = x + (part.count - 1) * (x - ops.stop_gradient(x))
    # The current part's vectors are those just computed, with their gradient; the others come from the first pass.
    own = ops.reshape(ops.equal(ops.arange(part.count), part.index), (1, -1) + (1,) * (len(x.shape) - 1))
    vectors = ops.where(own, ops.expand_dims(x, 1), ops.cast(part.vectors, x.dtype))
    return ops.reshape(vectors, (-1, *x.shape[1:]))


def across_batch(x):
    """Exchange vectors x (B, ...) across the global batch, for a loss that compares images.

    Returns:
        The vectors (B, ...) of this replica, those of the global batch (G, ...), and the indices (B,) int32 of the
        former among the latter. With gradient accumulation, B and G count all micro-batches.
    """
    own = whole_batch(x)
    return own, *gather_batch(own)


def uniform(shape, low=0.0, high=1.0, seed=None):
    """`keras.random.uniform` in float32 for a batch (B, ...). A row's numbers do not depend on how the batch is
    divided."""
    # float32 in every precision: in float16 many numbers would be equal, and an order made by sorting them biased.
    replica, part = _replica(), getattr(_thread, "part", None)
    if not replica and not part:
        return keras.random.uniform(shape, low, high, dtype="float32", seed=seed)
    rows = shape[0] * (part.count if part else 1)  # of this replica
    share = _share(rows)
    # Every replica draws for the global batch, with the same seed, and keeps the numbers of its own rows.
    drawn = keras.random.uniform((share.total, *shape[1:]), low, high, dtype="float32", seed=seed)
    drawn = drawn[share.start : share.start + rows]
    if part:  # an image may have several rows
        drawn = ops.reshape(drawn, (part.images, part.count, -1, *shape[1:]))[:, part.index]
    return ops.reshape(drawn, shape)


def average(tensors):
    """Average each tensor of a list over all replicas; None stays None."""
    replica = _replica()
    if not replica:
        return tensors
    means = iter(replica.all_reduce("MEAN", [tensor for tensor in tensors if tensor is not None]))
    return [None if tensor is None else next(means) for tensor in tensors]


def keep_on_first_replica(gradients):
    """Set gradients that all replicas share to zero on all but the first.

    Keras clips each replica's gradients before it sums them. Full gradients on one replica make the clipping exact.
    """
    replica = _replica()
    if not replica:
        return gradients
    return [
        None if g is None else g * ops.cast(ops.equal(replica.replica_id_in_sync_group, 0), g.dtype) for g in gradients
    ]


def cond_across_replicas(condition, then, otherwise, *arguments):
    """TensorFlow's `cond` for functions that update variables. The condition must be the same on all replicas."""
    import tensorflow as tf

    def cond(condition, run):
        tf.cond(condition, lambda: (run(then), tf.no_op())[1], lambda: (run(otherwise), tf.no_op())[1])

    def merged(strategy, condition, arguments):
        condition = strategy.experimental_local_results(condition)[0]
        cond(condition, lambda function: strategy.extended.call_for_each_replica(function, args=arguments))

    context = tf.distribute.get_replica_context()
    if (
        tf.distribute.has_strategy() and context
    ):  # inside a branch of `cond`, replicas cannot meet to update a variable, so they meet before it
        context.merge_call(merged, args=(condition, arguments))
    else:
        cond(condition, lambda function: function(*arguments))


def logs_for_keras(logs):
    """Scalars by name that a step returns, as Keras expects them: of several hosts, it takes the mean along an axis."""
    import tensorflow as tf

    several = isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)
    return {name: ops.expand_dims(value, 0) for name, value in logs.items()} if several else logs
