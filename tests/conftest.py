"""What the tests share: a small model, images for it, and scripts in a process of their own."""

import atexit
import gc
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling takes most of the tests' time on JAX
# What one test has compiled, others and their processes read: two fifths of JAX' time.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"keras-splitmask-{os.getpid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# GPUs round the factors of float32 products to ten bits otherwise.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.backend.keras_private import set_random_seed
from keras_splitmask.tokenizers.dvae import decoder_convolutions, encoder_convolutions
from tests import annotations, running

annotations.watch()
atexit.register(
    shutil.rmtree, os.path.join(tempfile.gettempdir(), f"keras-splitmask-{os.getpid()}"), ignore_errors=True
)
ROOT = pathlib.Path(__file__).resolve().parents[1]
EAGERLY = keras.backend.backend() != "jax"


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items):
    """What is `long` runs every day on torch, which traces and compiles nothing."""
    for item in items:
        if keras.backend.backend() != "torch" and item.get_closest_marker("long"):
            item.add_marker("endurance")


@pytest.fixture(autouse=True, scope="module")
def what_stays_is_not_looked_through_again():
    """What modules, traces and compiled steps keep for good is millions of objects on JAX. The garbage collector would
    visit them again and again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def signals_are_heard():
    """As on a terminal: what a shell runs in the background ignores SIGINT, under nohup SIGHUP, and so would all that
    it starts."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def fresh_state():
    """Every test starts from the same random weights, and in float32."""
    set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True)
def tensors_stay_on_their_device(monkeypatch):
    """On torch, NumPy gets no tensor out of the library by itself, which fails on a GPU: where both meet, `keras.ops`
    must compute."""
    if keras.backend.backend() != "torch":
        return
    import torch

    torch.backends.cudnn.allow_tf32 = False  # as JAX' precision above
    as_array, library = torch.Tensor.__array__, str(pathlib.Path(ks.__file__).parent)

    def refused(tensor, *arguments, **options):
        if sys._getframe(1).f_code.co_filename.startswith(library):
            raise TypeError("can't convert a tensor of a GPU to numpy")
        return as_array(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "__array__", refused)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def value_and_gradients():
    """Of a scalar function of several tensors, and with respect to each of them, as arrays."""

    def found(function, inputs):
        if keras.backend.backend() == "jax":
            import jax

            value, gradients = jax.value_and_grad(function, tuple(range(len(inputs))))(*inputs)
        elif keras.backend.backend() == "torch":
            inputs = [ops.convert_to_tensor(x).requires_grad_() for x in inputs]
            value = function(*inputs)
            value.backward()
            gradients = [x.grad for x in inputs]
        else:
            import tensorflow as tf

            inputs = [tf.constant(x) for x in inputs]
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = function(*inputs)
            gradients = tape.gradient(value, inputs)
        return [ops.convert_to_numpy(x) for x in (value, *gradients)]

    return found


@pytest.fixture
def make_images(rng):
    """Random images (count, H, W, C) uint8."""
    return lambda count=8, image_shape=(16, 16, 3): rng.integers(0, 256, (count, *image_shape), "uint8")


@pytest.fixture
def make_encoder():
    """A two-block encoder, by default of 4x4 patches."""

    def make(image_shape=(16, 16, 3), patch_size=4, width=16, depth=2, heads=2, **kwargs):
        return ks.Encoder(image_shape, patch_size, width, depth, heads, **kwargs)

    return make


@pytest.fixture
def make_model(make_encoder):
    """A small SplitMask; what describes the encoder goes there. By default it steps in the way that starts soonest."""

    def make(optimizer="sgd", run_eagerly=EAGERLY, jit_compile=False, vocabulary=32, **kwargs):
        names = ("image_shape", "patch_size", "width", "depth", "heads", "drop_path", "positions")
        encoder = make_encoder(**{"depth": 1, **{name: kwargs.pop(name) for name in names if name in kwargs}})
        if "tokenizer" not in kwargs:
            kwargs["tokenizer"] = ks.tokenizers.RandomProjection(encoder.image_shape, encoder.patch_size, vocabulary)
        model = ks.SplitMask(encoder, **{"decoder_depth": 1, **kwargs})
        jit_compile = (jit_compile or keras.backend.backend() == "jax") and not run_eagerly
        model.compile(optimizer=optimizer, run_eagerly=run_eagerly, jit_compile=jit_compile)
        return model

    return make


@pytest.fixture
def dvae(rng, tmp_path_factory):
    """Makes the files encoder.npz and decoder.npz of a dVAE with random weights; returns their paths."""

    def make(hidden=4, vocabulary=16):
        folder, paths = tmp_path_factory.mktemp("dvae"), []
        for half, table in (("encoder", encoder_convolutions), ("decoder", decoder_convolutions)):
            arrays = {}
            for name, (n_out, n_in, side) in table(hidden, vocabulary).items():
                arrays[f"{name}.w"] = (rng.standard_normal((n_out, n_in, side, side)) / (n_in * side**2) ** 0.5).astype(
                    "float32"
                )
                arrays[f"{name}.b"] = rng.standard_normal(n_out).astype("float32") / 4
            paths.append(folder / f"{half}.npz")
            np.savez(paths[-1], **arrays)
        return paths

    return make


@pytest.fixture
def python():
    """Runs Python with these arguments at the root of the repository on the given backend, and returns what it
    printed."""

    def run(*arguments, backend="tensorflow", **environment):
        env = {**os.environ, "KERAS_BACKEND": backend, **environment}
        end = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
        )
        assert end.returncode == 0, end.stderr[-4000:]
        return end.stdout

    return run


@pytest.fixture
def hosts():
    """Runs the same Python twice at the root of the repository, as two hosts that work together, and returns what both
    printed."""

    def run(backend, *arguments, **environment):
        with socket.socket() as one, socket.socket() as other:  # both ports are free, and not the same
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (one, other)]
        started = []
        for i in range(2):
            if backend == "tensorflow":
                own = {
                    "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})
                }
            else:
                names = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
                own = {
                    f"KERAS_DISTRIBUTION_{name}": value
                    for name, value in zip(names, (addresses[0], "2", str(i)), strict=True)
                }
            env = {**os.environ, "KERAS_BACKEND": backend, **own, **environment}
            command = [sys.executable, *map(str, arguments)]
            started.append(
                subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
        try:
            ends = [process.communicate(timeout=300) for process in started]
        finally:
            for process in started:
                process.kill()
        for process, (_, error) in zip(started, ends, strict=True):
            assert process.returncode == 0, error[-4000:]
        return [text for text, _ in ends]

    return run


@pytest.fixture
def check_every_weight_moves():
    """Trains on batches of images, and checks that all weights have changed, and all rows of a table of positions."""

    def check(model, batches):
        before = [ops.convert_to_numpy(w) for w in model.trainable_variables]
        for images in batches:
            model.train_on_batch(images)
        for weight, old in zip(model.trainable_variables, before, strict=True):
            changed = ops.convert_to_numpy(weight) != old
            assert changed.any(), weight.path
            if weight.name == "positions":
                assert changed.any(axis=1).all(), weight.path

    return check


@pytest.fixture
def command():
    return running.run_by_command


@pytest.fixture
def here():
    return running.run_here


@pytest.fixture
def parsed():
    return running.parsed_here


@pytest.fixture
def refused(here, tmp_path):
    """Runs a recipe that must end in one line of stderr and exit status 2, with nothing written; returns that line."""

    def run(name, *arguments, runner=here):
        before = sorted(tmp_path.rglob("*"))
        end = runner(name, *arguments)
        assert end.status == 2, (end.status, end.err)
        assert end.err.startswith(f"{name}.py: ") and end.err.count("\n") == 1 and end.err.endswith("\n"), end.err
        assert sorted(tmp_path.rglob("*")) == before
        return end.err

    return run


@pytest.fixture
def fix_order(monkeypatch, rng):
    """Make every split draw one and the same order of 15 patches per image; returns that order."""

    def fix(count, patches=15):
        order = rng.random((count, patches)).argsort(axis=1).astype("int32")
        monkeypatch.setattr(ks.Split, "call", lambda self, images: ops.convert_to_tensor(order))
        return order

    return fix
