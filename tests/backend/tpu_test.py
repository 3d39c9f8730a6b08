"""What a TPU asks of a training step: shapes that are known, nothing that returns to the host, matrix products in
bfloat16."""

import pathlib
import re
import runpy
from collections import Counter

import keras
import pytest

BACKEND = keras.backend.backend()
SMALL = runpy.run_path(pathlib.Path(__file__).with_name("many_devices.py"))
METHODS = pytest.mark.parametrize("method", ["splitmask", "splitmask/2", "beit", "dino"])


@pytest.fixture(autouse=True)
def bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")


def model_and_batch(method):
    name, _, parts = method.partition("/")
    model = SMALL["build"](name, int(parts or 1))
    model.optimizer.build(model.trainable_variables)
    batch = next(SMALL["batches"](name, 0, 1))
    return model, batch if isinstance(batch, tuple) else (batch,)


@pytest.mark.backend
@pytest.mark.skipif(BACKEND != "jax", reason="It is JAX that lowers for a TPU without having one.")
@METHODS
def test_the_jax_step_is_lowered_for_a_tpu(method):
    import jax

    model, batch = model_and_batch(method)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in variables] for variables in groups)
    exported = jax.export.export(jax.jit(model.train_step, donate_argnums=0), platforms=["tpu"])(state, batch)
    assert exported.platforms == ("tpu",)
    text = exported.mlir_module()
    assert not re.search(r"custom_call|callback|infeed|outfeed|\bsend\b|\brecv\b|xf64>", text)
    assert not re.search(r"tensor<[\dx]*\?", text)  # a size that is known only when the step runs
    products = Counter(re.findall(r"dot_general.*: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>", text))
    assert products["bf16", "bf16"] > len(model.trainable_variables) / 2  # the others: colours, words, pooled vectors


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="It reads a TensorFlow graph, which the other backends do not have."
)
@METHODS
def test_the_tensorflow_step_is_compiled_without_dynamic_shapes(method):
    import tensorflow as tf

    model, batch = model_and_batch(method)
    batch = keras.tree.map_structure(tf.convert_to_tensor, batch)
    step = tf.function(model.train_step, jit_compile=True, autograph=False)
    operations = step.get_concrete_function(batch).graph.get_operations()
    shapes = {
        op.type
        for op in operations
        for x in op.outputs
        if x.dtype not in (tf.resource, tf.variant) and not x.shape.is_fully_defined()
    }
    assert shapes <= {"BroadcastGradientArgs"}  # whose answers are lists of axes, which the compiler knows
    assert not [op.type for op in operations if re.search("Py|Host|Infeed|Outfeed", op.type)]
    text = step.experimental_get_compiler_ir(batch)(stage="hlo")
    assert not re.search(r"custom-call|callback|infeed|outfeed|\[[^\]]*<=", text)
    products = Counter(re.findall(r"(\w+)\[[\d,]*\]\S* dot\(", text))
    assert products["bf16"] > len(model.trainable_variables) / 2
