"""Trains small models for ten steps each and compares them with those of one device, or writes down what came out.

python many_devices.py METHODS DEVICES,... [OUTPUT]     where DEVICES is STRATEGY:COUNT, and splitmask/2 is
SplitMask that takes its batches in two parts. Methods are also retinanet, maskrcnn and upernet. Of several processes,
each is a host.
"""

import functools
import sys

import keras
import numpy as np

import keras_splitmask as ks
from keras_splitmask.backend import distribution
from keras_splitmask.backend.devices import start_devices

SHAPE = (8, 12, 3)
DENSE, DENSE_SHAPE = ("retinanet", "maskrcnn", "upernet"), (32, 64, 3)
STEPS, BATCH = 10, 8


def build_dense(method):
    encoder = ks.Encoder(DENSE_SHAPE, patch_size=16, width=16, depth=1, heads=2, drop_path=0.2)
    if method == "retinanet":
        return ks.transfer.RetinaNet(encoder, 2, width=8, anchor_scale=2.0)
    if method == "maskrcnn":
        return ks.transfer.MaskRCNN(encoder, 2, width=8, hidden=8, anchor_scale=2.0, proposals=8, samples=8)
    return ks.transfer.Segmenter(encoder, 2, width=8)


def build(method, accumulate):
    keras.utils.set_random_seed(0)
    if method in DENSE:
        return compiled(build_dense(method))
    encoder = ks.Encoder(SHAPE, patch_size=4, width=16, depth=1, heads=2, drop_path=0.2)
    augmentation = ks.augment.preset("three_augment")[1]
    if method == "dino":
        model = ks.baselines.DINO(
            encoder,
            STEPS,
            prototypes=24,
            local_shape=(4, 8),
            augmentation=ks.augment.views_preset("dino"),
            accumulate=accumulate,
        )
    else:
        words = ks.tokenizers.RandomProjection(SHAPE, 4, vocabulary=16)
        make = ks.baselines.BEiT if method == "beit" else functools.partial(ks.SplitMask, decoder_depth=1)
        model = make(encoder, words, augmentation=augmentation, accumulate=accumulate)
    return compiled(model)


def compiled(model):
    optimizer = ks.training.adamw(
        1e-3, STEPS, clip_norm=0.5, layer_decay=0.8, depth=1
    )  # at this norm each of these gradients is clipped
    optimizer.epsilon = 1e-4  # a gradient that is zero but for rounding must not move its weight as far as others
    model.compile(optimizer, jit_compile=keras.backend.backend() == "jax")
    return model


def batches(method, host, hosts):
    """This host's share of ten batches that differ."""
    rng = np.random.default_rng(0)
    own = slice(BATCH * host // hosts, BATCH * (host + 1) // hosts)
    for _ in range(STEPS):
        if method in DENSE:
            images, targets = dense_batch(method, rng)
            yield images[own], keras.tree.map_structure(lambda x: x[own], targets)
            continue
        images = rng.integers(0, 256, (BATCH, 2, *SHAPE), "uint8")
        local = rng.integers(0, 256, (BATCH, 3, 4, 8, 3), "uint8")
        yield ({"global": images[own], "local": local[own]} if method == "dino" else images[own, 0],)


def dense_batch(method, rng):
    """Images, and a label map or up to two objects of each, in the second half none."""
    images = rng.integers(0, 256, (BATCH, *DENSE_SHAPE), "uint8")
    if method == "upernet":
        return images, rng.integers(0, 2, (BATCH, *DENSE_SHAPE[:2]), "int32")
    corner = rng.uniform(0, 12, (BATCH, 2, 2))
    found = np.concatenate([corner, corner + rng.uniform(8, 20, (BATCH, 2, 2))], axis=-1).astype("float32")
    labels = rng.integers(0, 2, (BATCH, 2), "int32")
    found[BATCH // 2 :], labels[BATCH // 2 :] = 0, -1
    masks = {"masks": rng.integers(0, 2, (BATCH, 2, 8, 8), "uint8")} if method == "maskrcnn" else {}
    return images, {"boxes": found, "labels": labels, **masks}


def train(method, devices):
    with devices.scope():
        method, _, accumulate = method.partition("/")
        model = build(method, int(accumulate or 1))
        feed = devices.dataset_for_fit(lambda: batches(method, devices.host, devices.hosts))
        logs = model.fit(feed, epochs=STEPS, steps_per_epoch=1, shuffle=False, verbose=0).history
    if keras.backend.backend() == "jax":
        kernel = model.encoder.blocks[0].attention.qkv.kernel.value
        print(f"qkv of {kernel.addressable_shards[0].data.shape[1]} columns on each device")
    values = {f"logs/{name}": np.array(numbers) for name, numbers in logs.items()}
    return values | {v.path: distribution.to_numpy(v) for v in model.weights if "seed_generator" not in v.path}


def compare(many, one, name):
    """Everything within 1e-5; of what is larger than 1, such as the norm of the gradient, within 1e-5 of its size."""
    assert set(many) == set(one) and len(one) > 20
    for key in one:
        np.testing.assert_allclose(many[key], one[key], atol=1e-5, rtol=1e-5, err_msg=f"{key} with {name}")
    print(f"{name} equals one device: {len(one)} values")


if __name__ == "__main__":
    methods, kinds = (text.split(",") for text in sys.argv[1:3])
    made = {}
    for kind in kinds:
        strategy, count = kind.split(":")
        devices = start_devices(
            strategy if strategy != "one" else None, int(count) or None, 2 if strategy == "model_parallel" else None
        )
        for method in methods:
            made[kind, method] = train(method, devices)
    if sys.argv[3:]:
        np.savez(f"{sys.argv[3]}-{devices.host}.npz", **made[kind, method])
        print(f"host {devices.host} of {devices.hosts}")
    else:
        for kind, method in made:
            compare(made[kind, method], made["one:1", method], f"{method} {kind}")
