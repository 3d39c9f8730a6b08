"""Reads from the compiled JAX step what devices send each other and what memory they need.

python communication.py METHOD STRATEGY:DEVICES,...
"""

import math
import re
import sys
from collections import Counter

import jax
import keras
import numpy as np
from keras.src.backend.jax.trainer import _distribute_data

import keras_splitmask as ks
from keras_splitmask.backend.devices import start_devices

SHAPE, WIDTH, VOCABULARY, BATCH = (32, 32, 3), 64, 128, 16
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "u8": 1, "pred": 1}


def build(method):
    keras.utils.set_random_seed(0)
    encoder = ks.Encoder(SHAPE, patch_size=8, width=WIDTH, depth=2, heads=2, drop_path=0.1)
    words = ks.tokenizers.RandomProjection(SHAPE, 8, vocabulary=VOCABULARY)
    model = {"splitmask": ks.SplitMask, "beit": ks.baselines.BEiT}[method](
        encoder, words, augmentation=ks.augment.preset("three_augment")[1]
    )
    model.compile(ks.training.adamw(1e-3, 10, clip_norm=1.0))
    model.optimizer.build(model.trainable_variables)
    return model


def compiled(model):
    """The step as `fit` compiles it, for one batch."""
    state = model._get_jax_state(
        trainable_variables=True, non_trainable_variables=True, optimizer_variables=True, metrics_variables=True
    )
    batch = _distribute_data((np.zeros((BATCH, *SHAPE), "uint8"),))
    shardings = (None, model._get_state_sharding_spec())
    return jax.jit(model.train_step, donate_argnums=0, out_shardings=shardings).lower(tuple(state), batch).compile()


def collectives(step):
    """Bytes of what each kind of collective returns on a device."""
    sent = Counter()
    for kind, name in re.findall(
        r"= (\S.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", step.as_text()
    ):
        shapes = re.findall(r"(\w+)\[([\d,]*)\]", kind)
        sent[name] += sum(BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n) for dtype, shape in shapes)
    return sent


if __name__ == "__main__":
    method, kinds = sys.argv[1:]
    for kind in kinds.split(","):
        strategy, count = kind.split(":")
        devices = start_devices(strategy, int(count), 2 if strategy == "model_parallel" else None)
        model = build(method)
        step = compiled(model)
        weights = sum(math.prod(v.shape) for v in model.trainable_variables)
        memory = step.memory_analysis()
        sent = collectives(step)
        print(
            kind,
            weights,
            sent["all-reduce"],
            sent["all-gather"],
            sum(sent.values()),
            memory.argument_size_in_bytes,
            memory.temp_size_in_bytes,
        )
