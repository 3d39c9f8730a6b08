import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.training.distribution import gather_batch

REPLICAS = """
import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_splitmask import losses
from keras_splitmask.training.distribution import gather_batch

halves = tf.constant(np.random.default_rng(0).standard_normal((8, 2, 4)), "float32")


def match(own, everyone, labels):
    return losses.match(own[:, 0], own[:, 1], everyone[:, 0], everyone[:, 1], labels)[0]


def share(own):
    with tf.GradientTape() as tape:
        tape.watch(own)
        everyone, labels = gather_batch(own)
        loss = match(own, everyone, labels)
        total = tf.reduce_sum(loss)
    return everyone, labels, loss, match(own, own, tf.range(4)), tape.gradient(total, own)


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
shares = strategy.experimental_distribute_values_from_function(lambda context: halves[4 * context.replica_id_in_sync_group :][:4])
everyone, labels, loss, local_loss, gradient = map(strategy.experimental_local_results, strategy.run(tf.function(share), (shares,)))
for i in range(2):
    np.testing.assert_array_equal(everyone[i], halves)
    np.testing.assert_array_equal(labels[i], [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3])

with tf.GradientTape() as tape:
    tape.watch(halves)
    expected = match(halves, halves, tf.range(8))
    total = tf.reduce_sum(expected)
np.testing.assert_allclose(tf.concat(loss, 0), expected, rtol=1e-5)
assert (tf.concat(local_loss, 0) < expected - 0.1).numpy().all()  # fewer negatives make it easier
np.testing.assert_allclose(tf.concat(gradient, 0), tape.gradient(total, halves), atol=1e-5)
print("equal")
"""

DATA_PARALLEL = """
import keras
import numpy as np
import keras_splitmask as ks

images = np.random.default_rng(0).integers(0, 256, (8, 8, 12, 3), "uint8")


def train():
    keras.utils.set_random_seed(0)
    encoder = ks.Encoder((8, 12, 3), patch_size=4, width=16, depth=1, heads=2)
    model = ks.SplitMask(encoder, ks.tokenizers.RandomProjection((8, 12, 3), 4, vocabulary=16), decoder_depth=1)
    model.compile(keras.optimizers.SGD(0.1))
    logs = model.fit(images, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return [*logs["loss"], *logs["match_loss"], *logs["gradient_norm"], *[np.abs(w).sum() for w in model.get_weights()]]


one = train()
assert len(keras.distribution.list_devices()) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel())
np.testing.assert_allclose(train(), one, rtol=1e-4)
print(len(one), "values are equal")
"""


@pytest.mark.backend
def test_a_replica_alone_has_the_whole_batch(rng):
    x = rng.standard_normal((3, 2, 4)).astype("float32")
    everyone, own = gather_batch(ops.convert_to_tensor(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(everyone), x)
    np.testing.assert_array_equal(ops.convert_to_numpy(own), [0, 1, 2])
    assert keras.backend.standardize_dtype(own.dtype) == "int32"


def test_match_loss_of_two_tensorflow_replicas_equals_one_devices(python):
    assert python("-c", REPLICAS).endswith("equal\n")


def test_two_jax_devices_equal_one(python):
    assert "values are equal" in python("-c", DATA_PARALLEL, backend="jax", XLA_FLAGS="--xla_force_host_platform_device_count=2")
