"""Measure the cost of a SplitMask step and of its parts, in comparison with others on the same encoder.

The others are the same step written by hand in the plain backend (plain_tensorflow.py, plain_jax.py, plain_torch.py),
other methods of this library, and Hugging Face's models in torch (rivals.py).

    python benchmarks/benchmark.py --backend=jax
    python benchmarks/benchmark.py --backend=torch --beside=by_hand,beit,mae,hf_mae,hf_beit --parts
    python benchmarks/benchmark.py --backend=torch --size=vit_tiny --image_size=32 --channels=3 --vocabulary=8192 \
        --batch_size=32
    python benchmarks/benchmark.py --backend=jax --precision=bfloat16 --size=vit_base --image_size=224 --channels=3 \
        --patch_size=16 --vocabulary=8192 --batch_size=256 \
        --beside=torch_by_hand,by_hand,hf_mae,hf_beit --compile --parts    # a GPU

First, the loss of the step by hand must equal ours for the same weights, images and order of patches. Then all train in
turns.
"""

import importlib
import importlib.util
import pathlib
import statistics
import sys
import types

from absl import flags
from timing import take_turns
from work import dense, flops, peak_flops, peak_memory

from recipes.shared import commandline, fitting, image_sets, screen, writing

# These change the result.
flags.DEFINE_string("size", "vit_micro", "Encoder: vit_micro, vit_tiny, vit_small, vit_base or vit_large.")
flags.DEFINE_string("image_size", "28", "Image size in pixels: 224, or 48x80 (height x width).")
flags.DEFINE_integer("channels", 1, "Channels of the images, which are random.", lower_bound=1)
flags.DEFINE_integer("patch_size", 4, "Side of a patch in pixels; divides the image.")
flags.DEFINE_integer("vocabulary", 512, "Visual words.")
flags.DEFINE_float("keep", 0.5, "Fraction of the patches that each branch sees, in (0, 0.5].")
flags.DEFINE_integer("batch_size", 64, "Images per step.", lower_bound=2)

flags.DEFINE_list(
    "beside",
    ["by_hand"],
    "What to compare SplitMask with: by_hand (in the backend), torch_by_hand, beit, mae, hf_mae, hf_beit. Ratios are"
    " to the first.",
)
flags.register_validator(
    "beside",
    lambda names: set(names) <= set(RIVALS),
    "must be names among by_hand, torch_by_hand, beit, mae, hf_mae, hf_beit",
)
flags.DEFINE_bool("compile", False, "Compile torch_by_hand, hf_mae and hf_beit with torch.compile.")
flags.DEFINE_bool("each_loss", True, "Also time SplitMask with only one of its two losses.")
flags.DEFINE_bool("parts", False, "Time steps that end earlier, to measure the fraction of each part.")
flags.DEFINE_string(
    "dataset",
    "sample",
    "Images for the last of these parts, reading: sample, folder:PATH, npz:PATH, npy:PATH or tfds:NAME.",
)

# These do not.
flags.DEFINE_integer(
    "steps",
    5,
    "Steps of a turn, after one that is not timed. Raise it if steps are short.",
    lower_bound=1,
)
flags.DEFINE_integer("repeats", 5, "Turns of each contender. Raise it on a busy machine.", lower_bound=1)
flags.DEFINE_enum(
    "clock",
    "wall",
    ("wall", "processor"),
    "Clock: wall, or processor, the CPU time of this process, if other processes use the CPU too.",
)
flags.DEFINE_string("json", None, "File to write the table to.")
flags.DEFINE_bool("jit", None, "Compile the step with XLA on TensorFlow. Default: only on accelerators.")
FLAGS = flags.FLAGS

RIVALS = ("by_hand", "torch_by_hand", "beit", "mae", "hf_mae", "hf_beit")
OURS = "keras_splitmask"
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}  # relative, between two losses
RUN = types.SimpleNamespace(
    peak=1e-3,
    steps=10_000,
    warmup=300,
    floor=1e-5,
    weight_decay=0.05,
    clip_norm=3.0,
    beta_1=0.9,
    beta_2=0.999,
    epsilon=1e-8,
)


def build_model(method="splitmask", kind=None, **options):
    """Build and compile a method by the flags. `options` are for SplitMask, or for the subclass `kind`."""
    import keras_splitmask as ks

    image_shape = (*image_sets.image_size(), FLAGS.channels)
    tokenizer = ks.tokenizers.RandomProjection(image_shape, FLAGS.patch_size, FLAGS.vocabulary)
    encoder = ks.Encoder.from_size(FLAGS.size, image_shape, FLAGS.patch_size)
    # split="random" in all: so the steps by hand and MAE draw their patches.
    if method == "splitmask":
        model = (kind or ks.SplitMask)(encoder, tokenizer, keep=FLAGS.keep, split="random", **options)
    else:
        model = ks.baselines.BEiT(encoder, tokenizer, split="random") if method == "beit" else ks.baselines.MAE(encoder)
    optimizer = ks.training.adamw(
        RUN.peak,
        RUN.steps,
        warmup=RUN.warmup,
        floor=RUN.floor,
        weight_decay=RUN.weight_decay,
        clip_norm=RUN.clip_norm,
    )
    model.compile(optimizer=optimizer, jit_compile=fitting.jit())
    return model


def by_hand(framework, model):
    """Create the step written by hand in a framework, with the weights of `model`."""
    if not importlib.util.find_spec(framework):
        raise commandline.BadInput(
            f"Expected {framework} for a step by hand in it, which is not installed; install it, or leave it out of"
            " --beside."
        )
    import keras
    import numpy as np

    import keras_splitmask as ks

    values = {name: keras.ops.convert_to_numpy(weight) for name, weight in ks.interchange.named_weights(model).items()}
    vectors, _ = values.pop("vectors"), values.pop("portraits")
    # The library's own numbers, by which black and white are normalised.
    black, white = keras.ops.convert_to_numpy(
        ks.patches.normalise(np.array([[0], [255]], "uint8") * np.ones(FLAGS.channels, "uint8"))
    )
    setting = types.SimpleNamespace(
        **vars(RUN),
        mean=-black / (white - black),
        std=1 / (white - black),
        patch_size=FLAGS.patch_size,
        heads=model.encoder.heads,
        count=model.split.count,
        seen=model.split.seen_count,
        half=model.tokenizer.resolution == "half",
        temperature=model.temperature,
        precision=FLAGS.precision,
        compiled=FLAGS.compile if framework == "torch" else fitting.jit(),
    )
    return importlib.import_module(f"plain_{framework}").Plain(values, vectors, setting)


def losses(model, plain, images):
    """Compute the losses of the model and of the step by hand for the same images (B, H, W, C) and order of patches."""
    from keras import ops

    from keras_splitmask.training import Batch

    state = model.split.seed_generator.state
    # `objective` draws the order again: from the same state it is the same.
    before = ops.convert_to_numpy(state)
    order = ops.convert_to_numpy(model.split(images))  # (B, N)
    state.assign(before)
    loss, _ = model.objective(Batch(ops.convert_to_tensor(images)), training=False)
    return float(ops.convert_to_numpy(loss)), plain.loss(images, order)


def check_equality(model, name, plain, images):
    ours, theirs = losses(model, plain, images)
    difference = abs(ours - theirs) / abs(theirs)
    if not difference <= TOLERANCE[FLAGS.precision]:
        raise commandline.BadInput(
            f"The losses differ: {ours:.6f} here, {theirs:.6f} in {name}; no use in timing them."
        )
    print(f"equal     loss {ours:.6f} here, {theirs:.6f} in {name}, relative difference {difference:.1e}", flush=True)


def add_noise(model, rng):
    """Move every weight, so that biases and norms are not at values at which they do nothing."""
    for weight in model.trainable_variables:
        weight.assign_add(0.05 * rng.standard_normal(weight.shape).astype("float32"))


def rows_of(seconds, work, peak):
    """Summarise each contender in a dictionary. Ratios are taken within each round."""
    rows = []
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        row = {"step": name, "ms": 1e3 * middle, "images_per_second": FLAGS.batch_size / middle}
        if FLAGS.beside:
            # Within a round, since the speed of a machine changes from one to the next.
            ratios = [one / other for one, other in zip(taken, seconds[FLAGS.beside[0]], strict=True)]
            row.update(ratio=statistics.median(ratios), ratio_min=min(ratios), ratio_max=max(ratios))
        rows.append({**row, "gflops": work[name] / middle / 1e9, "share_of_peak": work[name] / middle / peak})
    return rows


def print_table(rows):
    ratios = f"to {FLAGS.beside[0]} (min..max)" if FLAGS.beside else ""
    print(f"\n{'step':<18}{'ms':>9}{'images/s':>10}{ratios:>28}{'GFLOP/s':>10}{'of peak':>9}")
    for row in rows:
        ratio = "{ratio:.3f} ({ratio_min:.3f}..{ratio_max:.3f})".format(**row) if "ratio" in row else "-"
        line = f"{row['step']:<18}{row['ms']:>9.2f}{row['images_per_second']:>10.1f}{ratio:>28}"
        print(f"{line}{row['gflops']:>10.1f}{row['share_of_peak']:>9.1%}")


def rival(name):
    """Create Hugging Face's model of our size, and count the FLOP of its step."""
    if not importlib.util.find_spec("transformers"):
        raise commandline.BadInput(
            f"Expected transformers for --beside={name}, which is not installed; run: pip install torch==2.13.0"
            " transformers"
        )
    ours = build_model(name.removeprefix("hf_"))
    work = flops(ours, FLAGS.batch_size)
    if hasattr(ours, "word_perplexity"):  # words are given to it
        work -= dense(FLAGS.batch_size * ours.split.count, ours.tokenizer.dimension, ours.tokenizer.vocabulary)
    return importlib.import_module("rivals").Rival(ours, RUN, FLAGS.precision, FLAGS.compile), work


def contenders_beside(model, images):
    """Create the contenders: the model, those of --beside, and the model with only one of its losses.

    Returns:
        {name: contender} and {name: FLOP of its step}.
    """
    import keras

    contenders, work = {OURS: model}, {}
    for name in FLAGS.beside:
        if name.endswith("by_hand"):
            contenders[name] = by_hand("torch" if name == "torch_by_hand" else keras.backend.backend(), model)
            check_equality(model, name, contenders[name], images)
        elif name.startswith("hf_"):
            contenders[name], work[name] = rival(name)
        else:
            contenders[name] = build_model(name)
    for name in ("inpaint_weight", "match_weight") if FLAGS.each_loss else ():
        contenders[f"{name}=0"] = build_model(**{name: 0.0})
    return contenders, {
        name: work.get(name) or flops(one if hasattr(one, "fit") else model, FLAGS.batch_size)
        for name, one in contenders.items()
    }


def turns():
    return FLAGS.steps, FLAGS.repeats, FLAGS.clock


def print_parts(images):
    """Measure and print the fraction of each part in a step. Return {part: fraction}."""
    from parts import PARTS, Partial, shares

    from keras_splitmask import data

    source = data.open_source(FLAGS.dataset, channels=FLAGS.channels)
    steps = {f"to {part}": build_model(kind=Partial, count=i + 1, source=source) for i, part in enumerate(PARTS)}
    found = shares([statistics.median(seconds) for seconds in take_turns(steps, images, *turns()).values()])
    print("\n" + "\n".join(f"{part:<18}{share:>9.1%}" for part, share in found.items()))
    return found


def main():
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = build_model()
    add_noise(model, rng)
    images = rng.integers(0, 256, (FLAGS.batch_size, *model.encoder.image_shape), "uint8")
    contenders, work = contenders_beside(model, images)
    peak = peak_flops()
    rows = rows_of(take_turns(contenders, images, *turns()), work, peak)
    print_table(rows)
    memory = peak_memory()
    found = {"parts": print_parts(images)} if FLAGS.parts else {}
    print(
        f"\n{keras.backend.backend()}, {FLAGS.size} on {images.shape[1:]}, {work[OURS] / 1e9:.1f} GFLOP a step, median"
        f" of {FLAGS.repeats} turns of {FLAGS.steps} steps"
    )
    print(
        f"largest matrix product {peak / 1e9:.1f} GFLOP/s, peak memory of the"
        f" {', of the '.join(f'{name} {count / 2**20:.0f} MiB' for name, count in memory.items())}"
    )
    if FLAGS.json:
        result = {
            "backend": keras.backend.backend(),
            "flags": {flag.name: flag.value for flag in FLAGS.get_key_flags_for_module(sys.argv[0])},
            "rows": rows,
            "peak_gflops": peak / 1e9,
        }
        writing.write_json(pathlib.Path(FLAGS.json), {**result, **found, "memory_bytes": memory})
    else:
        screen.check_result()


if __name__ == "__main__":
    commandline.run(main)
