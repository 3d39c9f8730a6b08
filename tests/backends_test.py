"""The same weights and images give the same loss and the same gradients on all backends."""

import pathlib
import sys

import keras
import numpy as np
from keras import ops

import keras_splitmask as ks
from keras_splitmask.split import Split


def make():
    encoder = ks.Encoder((12, 20, 5), patch_size=4, width=16, depth=2, heads=2)
    model = ks.SplitMask(
        encoder, ks.tokenizers.RandomProjection((12, 20, 5), 4, vocabulary=32), keep=0.25, decoder_depth=1
    )
    model.compile(keras.optimizers.SGD(1.0))  # a weight then changes by its gradient
    return model


def one_step(source, target):
    """Steps once from the weights, the images and the order of patches in `source`; writes what came of it to
    `target`."""
    given = np.load(source)
    model = make()
    model.set_weights([given[f"weight_{i}"] for i in range(len(model.get_weights()))])
    Split.call = lambda self, images: ops.convert_to_tensor(given["order"])
    before = [ops.convert_to_numpy(w) for w in model.trainable_variables]
    features = ops.convert_to_numpy(model(given["images"])["pooled"])
    logs = model.train_on_batch(given["images"], return_dict=True)
    gradients = {
        f"gradient of {w.path}": old - ops.convert_to_numpy(w)
        for w, old in zip(model.trainable_variables, before, strict=True)
    }
    np.savez(target, features=features, **{name: np.asarray(value) for name, value in logs.items()}, **gradients)


def test_loss_and_gradients_are_equal_on_all_backends(rng, python, tmp_path):
    weights = {
        f"weight_{i}": w + 0.1 * rng.standard_normal(w.shape).astype("float32")
        for i, w in enumerate(make().get_weights())
    }
    images = rng.integers(0, 256, (6, 12, 20, 5), "uint8")
    order = rng.random((6, 15)).argsort(axis=1).astype("int32")
    np.savez(tmp_path / "given.npz", images=images, order=order, **weights)
    results = {}
    for backend in ("tensorflow", "jax", "torch"):
        target = tmp_path / f"{backend}.npz"
        python("-m", "tests.backends_test", tmp_path / "given.npz", target, backend=backend)
        results[backend] = dict(np.load(target))
    expected = results.pop("tensorflow")
    assert len(expected) > 40 and expected["gradient_norm"] > 0.1
    for backend, result in results.items():
        assert set(result) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(result[name], value, rtol=1e-4, atol=1e-4, err_msg=f"{name} on {backend}")


if __name__ == "__main__":
    one_step(*map(pathlib.Path, sys.argv[1:]))
