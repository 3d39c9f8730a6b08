"""Take one training step of SplitMask in float32 and in bfloat16, and save what it did; gpu_compare.py compares two.

    python benchmarks/gpu_step.py --backend=torch --output=torch_gpu.npz

Weights, images and the order of the patches are drawn by NumPy, so that they are the same on each backend and device.
The file holds for each precision: PRECISION/device, PRECISION/loss, PRECISION/gradient_norm, and for each weight
PRECISION/before/NAME and PRECISION/after/NAME.
"""

import benchmark
from absl import flags

from recipes.shared import commandline

flags.DEFINE_string("output", None, "File to write, .npz.")
FLAGS = flags.FLAGS
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def set_weights(model, rng):
    """Draw all trainable weights; the scales of norms around 1, all else around 0."""
    for weight in model.trainable_variables:
        noise = 0.05 * rng.standard_normal(weight.shape)
        weight.assign((noise + (weight.name == "gamma")).astype("float32"))


def weights_of(model):
    """The trainable weights by name, as arrays."""
    import keras

    return {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.trainable_variables}


def take_step():
    """Build a model, take one step, and return the arrays to save."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    model = benchmark.build_model()
    set_weights(model, rng)
    images = rng.integers(0, 256, (FLAGS.batch_size, *model.encoder.image_shape), "uint8")
    order = rng.random((FLAGS.batch_size, model.split.count)).argsort(axis=1).astype("int32")
    # Backends and devices would draw different orders.
    model.split.call = lambda images: keras.ops.convert_to_tensor(order)
    before = weights_of(model)
    logs = model.train_on_batch(images, return_dict=True)
    return {
        "device": str(model.trainable_variables[0].value.device),
        "loss": np.float32(logs["loss"]),
        "gradient_norm": np.float32(logs["gradient_norm"]),
        **{f"before/{name}": value for name, value in before.items()},
        **{f"after/{name}": value for name, value in weights_of(model).items()},
    }


def main():
    import keras
    import numpy as np

    benchmark.RUN.warmup = 0  # or the first step would move nothing
    found = {}
    for precision, policy in PRECISIONS.items():
        keras.config.set_dtype_policy(policy)
        step = take_step()
        print(f"{precision:<10}loss {step['loss']:.6f}, gradient norm {step['gradient_norm']:.6f}", flush=True)
        found |= {f"{precision}/{name}": value for name, value in step.items()}
    np.savez(FLAGS.output, **found)


if __name__ == "__main__":
    commandline.run(main, required=("output",))
