"""Count the FLOP of training steps, and measure what the machine can do and how much memory was used.

A FLOP is a multiplication or an addition.
"""

import resource
import sys
import time


def flops(model, batch_size):
    """Count the FLOP of a training step in its matrix products. The backward pass counts twice."""
    patches, values = batch_size * model.split.count, model.encoder.patch_size**2 * model.encoder.image_shape[-1]
    # Twice for the patch embedding, since images need no gradient.
    total = 3 * forward_flops(model, batch_size) + 2 * dense(patches, values, model.encoder.width)
    if hasattr(model, "word_perplexity"):
        total += dense(patches, model.tokenizer.dimension, model.tokenizer.vocabulary)
    return total


def forward_flops(model, images):
    """Count the FLOP of the forward pass after the patch embedding, for a batch of this many images."""
    width, count = model.encoder.width, model.split.count
    if model.name == "beit":
        return model.encoder.depth * block(images, width, 1 + count) + dense(
            images * model.masked_count, width, model.words.units
        )
    if model.name == "mae":
        masked, narrow, depth = model.masked_count, model.decoder.width, model.decoder.depth
        ends = dense(images * (1 + count - masked), width, narrow) + dense(images * masked, narrow, model.pixels.units)
        decoder = (depth - 1) * block(images, narrow, 1 + count) + block(images, narrow, 1 + count, masked)
        return model.encoder.depth * block(images, width, 1 + count - masked) + decoder + ends
    unseen, rows = count - model.split.seen_count, 2 * images
    decoder = (model.decoder_depth - 1) * block(rows, width, 1 + count) + block(
        rows, width, 1 + count, None if model.match_weight else unseen
    )
    return (
        model.encoder.depth * block(rows, width, 1 + model.split.seen_count)
        + decoder
        + dense(rows * unseen, width, model.decoder.vocabulary)
    )


def block(rows, width, tokens, queries=None):
    """Count the FLOP of a transformer block. Only the last `queries` tokens are queries; by default all are."""
    queries = queries or tokens
    # Products with D x D matrices: keys and values of all tokens; of the queries 2 in the attention and 8 in the MLP.
    # Then two products with the table of attention, of queries x tokens x D each.
    return rows * width * (2 * (2 * tokens + 10 * queries) * width + 4 * queries * tokens)


def dense(rows, width, units):
    return 2 * rows * width * units


def peak_flops():
    """Measure the FLOP per second of a large matrix product in the precision of the step: the best of three."""
    import keras

    def product(side):
        x = keras.ops.cast(keras.random.normal((side, side)), keras.config.dtype_policy().compute_dtype)
        float(keras.ops.matmul(x, x)[0, 0])
        start = time.perf_counter()
        float(keras.ops.matmul(x, x)[0, 0])
        return time.perf_counter() - start

    side = 1024
    # Until a product takes 20 ms, so that starting it is a small part.
    while side < 16384 and product(side) < 0.02:
        side *= 2
    return 2 * side**3 / min(product(side) for _ in range(3))


def peak_memory():
    """Peak memory in bytes by name: of the process, and of the accelerator, if there is one."""
    import keras

    # In bytes on macOS, in kilobytes elsewhere.
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)}
    if keras.backend.backend() == "jax":
        import jax

        found["accelerator"] = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    elif keras.backend.backend() == "torch":
        import torch

        found["accelerator"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    else:
        import tensorflow as tf

        found["accelerator"] = (
            tf.config.experimental.get_memory_info("GPU:0")["peak"] if tf.config.list_physical_devices("GPU") else None
        )
    return {name: count for name, count in found.items() if count is not None}
