"""Train with other packages for some minutes on the CPU, to compare with SplitMask at equal time.

    python benchmarks/rival_runs.py --method=simclr --dataset=folder:photos --minutes=30 --workdir=runs/simclr
    splitmask finetune --init_from=runs/simclr --dataset=folder:photos --labelled=500 --workdir=runs/simclr-tuned
    python benchmarks/rival_runs.py --method=resnet18 --dataset=folder:photos --minutes=40 --labelled=500 \
        --workdir=runs/resnet18

mae, simclr and dino are lightly's, on timm's VisionTransformer of the size of our encoder. They learn from all images
of the train split without labels, and write the encoder as timm does. Fine-tuning reads it, so that is the same
for all. resnet18 learns the labels of the images that `finetune` draws by the same --labelled and --seed. pixels finds
the nearest neighbours among those images by their pixels, which takes no training.

As with --time of `pretrain`, the minutes are those of the training steps, whose number is chosen by timing some on a
model that is thrown away. Images are decoded before that, once, and augmented in one process.

    pip install lightly timm torchvision
"""

import importlib.metadata
import importlib.util
import pathlib
import time

from absl import flags

from recipes.shared import commandline, time_limit, writing

flags.DEFINE_enum("method", None, ["mae", "simclr", "dino", "resnet18", "pixels"], "What to train.")
flags.DEFINE_string("dataset", None, "Images, as of pretrain: folder:PATH with the subfolders train and test.")
flags.DEFINE_float("minutes", 10.0, "Minutes of training steps.", lower_bound=0)
flags.DEFINE_integer("image_size", 32, "Side of an image in pixels.", lower_bound=1)
flags.DEFINE_integer("patch_size", 4, "Side of a patch in pixels; divides the image.", lower_bound=1)
flags.DEFINE_string("size", "vit_micro", "Encoder: vit_micro, vit_tiny, vit_small, vit_base or vit_large.")
flags.DEFINE_string("labelled", None, "Train images whose labels are used, as of finetune: 500, 1% or a subset.txt.")
flags.DEFINE_integer("batch_size", 64, "Images per step.", lower_bound=2)
flags.DEFINE_float("learning_rate", None, "Peak learning rate. Default: the method's.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Seed of all random numbers.", lower_bound=0)
flags.DEFINE_integer("threads", 1, "CPU threads of torch.", lower_bound=1)
flags.DEFINE_string("workdir", None, "New folder for result.json and the encoder.")
FLAGS = flags.FLAGS

PACKAGES = ("torch", "torchvision", "timm", "lightly")
WARMUP = 0.1  # of the steps, in which the learning rate rises
TIMED = 0.02  # of the minutes, for which steps are timed before
LINES = 20  # of the log


def decoded(source, short_side):
    """Read all images of a source, as PIL's; larger ones are shrunk to a short side of this many pixels."""
    from PIL import Image

    images = []
    for i in range(len(source)):
        image = Image.fromarray(source.readable(i, source.image)[0])
        factor = short_side / min(image.size)
        size = [round(factor * side) for side in image.size]
        images.append(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2) if factor < 1 else image)
    return images


def endless_batches(method, images, labels):
    """Yield (views, labels) of shuffled batches without end."""
    from torch.utils.data import DataLoader, default_collate

    def augmented(indices):
        return default_collate([(method.transform(images[i]), labels[i]) for i in indices])

    size = min(FLAGS.batch_size, len(images))
    while True:
        yield from DataLoader(range(len(images)), size, shuffle=True, drop_last=True, collate_fn=augmented)


def trained_for(method, batches, steps):
    """Train by AdamW with a warm-up and a cosine, and yield each loss."""
    import torch
    from lightly.models.utils import get_weight_decay_parameters
    from lightly.utils.scheduler import CosineWarmupScheduler

    decayed, others = get_weight_decay_parameters([method])
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    rate = FLAGS.learning_rate or method.rate
    optimizer = torch.optim.AdamW(groups, rate, method.betas, weight_decay=method.weight_decay)
    scheduler = CosineWarmupScheduler(optimizer, round(WARMUP * steps), steps)
    method.train()
    for step, (views, labels) in zip(range(steps), batches, strict=False):
        loss = method(views, labels, step / steps)
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(step / steps)
        optimizer.step()
        scheduler.step()
        yield loss.item()


def seconds_of_a_step(method, batches):
    """Time steps of a method that is thrown away afterwards, from the third on."""
    losses = trained_for(method, batches, time_limit.MODEL_STEPS)
    for _ in range(2):
        next(losses)
    start, count = time.monotonic(), 0
    while time.monotonic() - start < max(time_limit.LEAST_SECONDS, TIMED * 60 * FLAGS.minutes):
        next(losses)
        count += 1
    return (time.monotonic() - start) / count


def train(build, source):
    """Train `build()` on a source for --minutes. Returns it and what result.json tells of it."""
    import keras
    import numpy as np

    images = decoded(source, round(FLAGS.image_size * 8 / 7))
    labels = np.zeros(len(images), int) if source.labels is None else source.labels.astype(int)
    method = build()
    of_a_step = seconds_of_a_step(method, endless_batches(method, images, labels))
    steps = time_limit.steps_in(60 * FLAGS.minutes, of_a_step)
    print(f"{len(images)} images, {1e3 * of_a_step:.0f} ms a step, {steps} steps", flush=True)

    keras.utils.set_random_seed(FLAGS.seed)
    method, losses, start = build(), [], time.monotonic()
    every = max(1, steps // LINES)
    for loss in trained_for(method, endless_batches(method, images, labels), steps):
        losses.append(loss)
        if len(losses) % every == 0:
            mean = np.mean(losses[-every:])
            print(f"step {len(losses)}/{steps} loss {mean:.4f} {time.monotonic() - start:.0f} s", flush=True)
    seconds = time.monotonic() - start
    shown = len(losses) * min(FLAGS.batch_size, len(images))
    return method, {
        "minutes": seconds / 60,
        "steps": len(losses),
        "images_per_second": shown / seconds,
        "epochs": shown / len(images),
        "learning_rate": FLAGS.learning_rate or method.rate,
        "first_loss": float(np.mean(losses[:every])),
        "last_loss": float(np.mean(losses[-every:])),
    }


def pretrain(source, home):
    """Pre-train an encoder, and write it as timm does."""
    import rival_methods
    from safetensors.torch import save_file

    from keras_splitmask.encoder import SIZES
    from keras_splitmask.interchange.configuration import described
    from keras_splitmask.interchange.names import WEIGHTS

    width, depth, heads = SIZES[FLAGS.size]
    sizes = {"img_size": FLAGS.image_size, "patch_size": FLAGS.patch_size}
    sizes |= {"embed_dim": width, "depth": depth, "num_heads": heads}
    method, result = train(lambda: rival_methods.PRETRAINED[FLAGS.method](sizes), source)
    save_file(method.encoder.vit.state_dict(), home / WEIGHTS)
    shape = {"image_shape": (FLAGS.image_size, FLAGS.image_size, source.channels), "patch_size": FLAGS.patch_size}
    for name, content in described({**shape, "width": width, "depth": depth, "heads": heads}, "timm").items():
        writing.write_json(home / name, content)
    return result


def labelled_sets(source, home):
    """The train images that --labelled chooses, which subset.txt lists as that of finetune does, and the test split."""
    from keras_splitmask import data

    source.check_labelled(f"the train split of {FLAGS.dataset}")
    test = data.open_source(FLAGS.dataset, "test", channels=source.channels, classes=source.classes)
    test.check_labelled(f"the test split of {FLAGS.dataset}")
    labelled = data.subset_of(source, FLAGS.labelled, FLAGS.seed) if FLAGS.labelled else source
    writing.write_text(home / "subset.txt", "".join(f"{labelled.name(i)}\n" for i in range(len(labelled))))
    return labelled, test


def supervise(source, home):
    """Train a ResNet-18 on the labelled images, and evaluate it."""
    import rival_methods

    from keras_splitmask import data

    labelled, test = labelled_sets(source, home)
    method, result = train(lambda: rival_methods.ResNet18(FLAGS.image_size, source.class_count), labelled)
    images, labels = data.read_all(test, (FLAGS.image_size, FLAGS.image_size, source.channels))
    return {**result, "labelled": len(labelled), "top1": float((method.classify(images) == labels).mean())}


def compare_pixels(source, home):
    """Classify by the 20 nearest neighbours among the labelled images, in the pixels of images of two sizes."""
    from keras_splitmask import data, evaluation

    labelled, test = labelled_sets(source, home)
    result = {"labelled": len(labelled)}
    for side in (8, FLAGS.image_size):
        (bank, labels), (images, truth) = (data.read_all(s, (side, side, source.channels)) for s in (labelled, test))
        bank, images = evaluation.standardise(*(x.reshape(len(x), -1).astype("float32") for x in (bank, images)))
        result[f"top1_{side}px"] = float((evaluation.weighted_knn(bank, labels, images) == truth).mean())
    return result


RUNS = {"resnet18": supervise, "pixels": compare_pixels}


def main():
    import keras

    from keras_splitmask import data
    from keras_splitmask.encoder import SIZES
    from keras_splitmask.patches import grid_shape

    if FLAGS.size not in SIZES:
        raise commandline.BadInput(f"Expected --size among {', '.join(SIZES)}, received {FLAGS.size}.")
    if FLAGS.method not in RUNS:
        grid_shape((FLAGS.image_size, FLAGS.image_size, 3), FLAGS.patch_size)  # refuses patches that do not fit
    if missing := [name for name in PACKAGES if FLAGS.method != "pixels" and not importlib.util.find_spec(name)]:
        raise commandline.BadInput(
            f"Expected {', '.join(missing)} for --method={FLAGS.method}, received none; run: pip install lightly timm"
            " torchvision"
        )
    home = pathlib.Path(FLAGS.workdir)
    if (home / "result.json").exists():
        raise commandline.BadInput(f"Expected a new --workdir, received {home}, which holds a result.")
    home.mkdir(parents=True, exist_ok=True)
    if FLAGS.method != "pixels":
        import torch

        torch.set_num_threads(FLAGS.threads)
    keras.utils.set_random_seed(FLAGS.seed)
    # Colour: the augmentations expect three channels.
    source = data.open_source(FLAGS.dataset, channels=3, report=print)
    result = RUNS.get(FLAGS.method, pretrain)(source, home)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    given = {name: FLAGS[name].value for name in ("method", "dataset", "batch_size", "threads", "seed")}
    writing.write_json(home / "result.json", {**given, **result, "versions": versions})
    print(", ".join(f"{name} {value:.4g}" for name, value in result.items()), flush=True)


if __name__ == "__main__":
    commandline.run(main, lambda: FLAGS.set_default("backend", "torch"), required=("method", "dataset", "workdir"))
