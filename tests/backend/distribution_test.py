import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.backend.distribution import gather_batch

REPLICAS = """
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_splitmask import losses
from keras_splitmask.backend.distribution import gather_batch

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
shares = strategy.experimental_distribute_values_from_function(
    lambda context: halves[4 * context.replica_id_in_sync_group :][:4]
)
results = strategy.run(tf.function(share), (shares,))
everyone, labels, loss, local_loss, gradient = map(strategy.experimental_local_results, results)
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

UNEVEN = """
import keras
import numpy as np

import keras_splitmask as ks
from keras_splitmask.backend.devices import start_devices

devices = start_devices("mirrored", 2)
# two replicas have 3 + 2 of them, 3 + 2 and 1 + 0
images = np.random.default_rng(0).integers(0, 256, (11, 8, 12, 3), "uint8")


def mean_square(labels, logits):
    labels = keras.ops.reshape(keras.ops.cast(labels, "float32"), (-1, 1))
    return keras.ops.mean(keras.ops.square(logits - labels), axis=-1)


loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIONS = {
    "splitmask": {},
    "classifier": {"loss": loss, "metrics": ["accuracy"]},
    "classifier with metrics": {"metrics": ["accuracy"]},
    "classifier with a loss": {"loss": mean_square},
}


def train(method):
    keras.utils.set_random_seed(0)
    encoder = ks.Encoder((8, 12, 3), 4, 16, 1, 2, drop_path=0.2)
    if method == "splitmask":
        words = ks.tokenizers.RandomProjection((8, 12, 3), 4, vocabulary=16)
        model = ks.SplitMask(encoder, words, decoder_depth=1, augmentation=ks.augment.preset("three_augment")[1])
    else:
        model = ks.transfer.Classifier(encoder, 3)
    model.compile(keras.optimizers.SGD(0.1), **OPTIONS[method])
    data = (images,) if method == "splitmask" else (images, np.arange(11) % 3)
    logs = model.fit(*data, batch_size=5, shuffle=False, verbose=0).history
    judged = model.evaluate(*data, batch_size=5, return_dict=True, verbose=0)
    assert logs["skipped_steps"] == [0]
    judged = {f"judged/{name}": value for name, value in judged.items()}
    return {**logs, **judged, **{v.path: v.numpy() for v in model.trainable_variables}}


for method in OPTIONS:
    one = train(method)
    with devices.scope():
        two = train(method)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=1e-5, rtol=1e-5, err_msg=f"{method} {name}")
    print(f"{method} equals one device: {len(one)} values")
"""

SCRIPT = "tests/backend/many_devices.py"
DENSE = "upernet,maskrcnn,retinanet"


@pytest.mark.backend
def test_a_replica_alone_has_the_whole_batch(rng):
    x = rng.standard_normal((3, 2, 4)).astype("float32")
    everyone, own = gather_batch(ops.convert_to_tensor(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(everyone), x)
    np.testing.assert_array_equal(ops.convert_to_numpy(own), [0, 1, 2])
    assert keras.backend.standardize_dtype(own.dtype) == "int32"


def test_match_loss_of_two_tensorflow_replicas_equals_one_devices(python):
    assert python("-c", REPLICAS).endswith("equal\n")


def test_replicas_may_share_a_batch_unevenly_or_have_no_image_of_it(python):
    assert python("-c", UNEVEN).count("equals one device") == 4


@pytest.mark.parametrize(
    ("methods", "devices"),
    [
        ("splitmask,dino,beit", "mirrored:2"),
        pytest.param("splitmask", "mirrored:4", marks=pytest.mark.endurance),
        pytest.param(DENSE, "mirrored:2", marks=pytest.mark.endurance),  # which are traced for minutes
    ],
)
def test_tensorflow_replicas_equal_one_device(python, methods, devices):
    lines = python(SCRIPT, methods, f"{devices},one:1").splitlines()
    assert len([line for line in lines if f"{devices} equals one device" in line]) == len(methods.split(","))


@pytest.mark.parametrize(
    ("methods", "devices"),
    [
        ("splitmask,dino,beit", "data_parallel:4"),
        ("splitmask", "model_parallel:4"),
        pytest.param(DENSE, "data_parallel:2", marks=pytest.mark.endurance),  # JAX compiles them for minutes
    ],
)
def test_jax_devices_equal_one(python, methods, devices):
    text = python(SCRIPT, methods, f"{devices},one:1", backend="jax")
    assert all(f"{method} {devices} equals one device" in text for method in methods.split(","))
    assert ("qkv of 24 columns on each device" in text) == (devices == "model_parallel:4")


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_hosts_equal_one_device(hosts, python, tmp_path, backend):
    """Each of them is given half of each batch."""
    kind = {"tensorflow": "multi_worker:0", "jax": "data_parallel:0"}[backend]
    python(SCRIPT, "splitmask", "one:1", tmp_path / "one", backend=backend)
    assert [
        f"host {i} of 2" in text for i, text in enumerate(hosts(backend, SCRIPT, "splitmask", kind, tmp_path / "two"))
    ] == [True, True]
    one, *two = (np.load(tmp_path / name) for name in ("one-0.npz", "two-0.npz", "two-1.npz"))
    for both in two:
        assert set(both) == set(one)
        for name in one:
            np.testing.assert_allclose(both[name], one[name], atol=1e-5, rtol=1e-5, err_msg=name)


def test_communication_and_memory_match_the_documented_formulas(python):
    """docs/scale.md; of SplitMask on JAX, for 16 images of 32x32x3, width 64 and 128 words."""
    kinds = ",".join(f"data_parallel:{n}" for n in (8, 4, 2))
    text = python(
        "tests/backend/communication.py", "splitmask", kinds, backend="jax", JAX_DISABLE_MOST_OPTIMIZATIONS="0"
    )
    held = {}
    for line in text.splitlines():
        kind, *numbers = line.split()
        devices = int(kind.split(":")[1])
        weights, reduced, gathered, everything, state, held[devices] = map(int, numbers)
        assert gathered == 8 * 16 * 64
        assert 0 <= reduced - (4 * weights + 8 * 16 * 64 + 4 * 128) <= 1024  # scalars
        assert everything == reduced + gathered
        assert state == pytest.approx(12 * weights + 16 * 32 * 32 * 3 / devices, rel=0.05)  # and the tokenizer
    of_image = (held[2] - held[8]) / (16 / 2 - 16 / 8)
    assert held[2] - 8 * of_image == pytest.approx(4 * weights, rel=0.3)  # the gradients
    assert held[4] == pytest.approx(4 * weights + 4 * of_image, rel=0.1)
