"""The only file that knows of several devices."""

import keras
from keras import ops


def gather_batch(x):
    """The rows of all replicas, with their gradients, and where this replica's own stand among them.

    Args:
        x: (B, ...), one replica's share of the batch.

    Returns:
        The global batch (G, ...) and the own rows' indices (B,) int32. Under JAX a batch is global already; under TensorFlow
        outside of a strategy, and in one process of torch, the replica is alone.
    """
    own = ops.arange(ops.shape(x)[0], dtype="int32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            own = own + ops.shape(x)[0] * replica.replica_id_in_sync_group
            x = replica.all_gather(x, axis=0)
    return x, own
