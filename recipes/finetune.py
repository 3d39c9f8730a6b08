"""Fine-tune an encoder on labelled images, or train one from scratch with the same budget.

python recipes/finetune.py --init_from=runs/quickstart --dataset=sample --labelled=1000 --workdir=runs/tuned
python recipes/finetune.py --dataset=sample --labelled=1000 --workdir=runs/scratch
python recipes/finetune.py --init_from=runs/pretrained --dataset=folder:labelled --workdir=runs/tuned

A folder has a subfolder for each class, or subfolders train and test (or val) with those in them. If it is not divided,
a fifth of each class is drawn to evaluate on; see --split. If there are both val and test, val is evaluated on during
training, and test only at the end; best.keras is then the model with the highest accuracy on val. model.keras is always
the last one.
"""

from absl import flags

from recipes.shared import (
    commandline,
    common_flags,
    encoders,
    fitting,
    hardware,
    image_sets,
    judgement,
    labelled_settings,
    splits,
    time_limit,
    trouble,
    validation,
    value_range,
)

# These change the result.

# Data.
flags.DEFINE_string(
    "dataset",
    None,
    "Labelled set: sample, folder:PATH, npz:PATH or tfds:NAME. Its train split is used for training; see also --split"
    " and --judge.",
)
flags.DEFINE_float(
    "val",
    None,
    lower_bound=0,
    upper_bound=0.9,
    help="Fraction of the training images of each class to set aside, to evaluate on during training and to choose"
    " best.keras by. 0 disables it. Default: the split val of --dataset, if test is evaluated on at the end.",
)
flags.DEFINE_string(
    "labelled",
    None,
    "Train on a subset: a number (1000), a fraction (1%), or a file that lists names. A number is drawn"
    " equally from each class, and a class that has fewer images gives all of them. A fraction is taken of"
    " each class, at least one image. The choice is saved in subset.txt. Default: all images.",
)
flags.DEFINE_string(
    "image_size",
    None,
    "Image size in pixels: 224, or 48x80 (height x width). Default: that of --init_from. From scratch: auto, the size"
    " of the images, but at most 112 on CPUs and 224 on GPUs.",
)
flags.DEFINE_integer(
    "channels",
    None,
    lower_bound=1,
    help="Convert images to 1 (grey) or 3 (colour) channels. Default: as --init_from has; from scratch as stored.",
)
flags.DEFINE_string("augmentation", "crop_flip", "crop_flip, flip or none. Choose flip if objects fill the image.")
flags.DEFINE_float("crop_ratio", 1.0, "Fraction of a test image's side to keep, from the centre; 0.875 in the paper.")
flags.DEFINE_string(
    "cache",
    None,
    "Folder for packed images, decoded and resized once to 8/7 of --image_size. Later runs read them from"
    " there. Use it if the log says that training waits for data.",
)

# Encoder.
common_flags.encoder(" Default: auto, vit_micro on CPUs and vit_small on GPUs.")
flags.DEFINE_integer(
    "patch_size",
    None,
    lower_bound=1,
    help="Side of a patch in pixels. Default: that of --init_from. From scratch: auto, about an eighth of the image"
    " size on CPUs and a fourteenth on GPUs.",
)
common_flags.drop_path()
flags.DEFINE_bool("frozen", False, "Train only the head.")

# Optimization.
flags.DEFINE_integer(
    "batch_size",
    None,
    lower_bound=1,
    help="Images per step. If there are fewer training images, a step takes all. Default: auto, about an eighth of the"
    " images, from 16 to 64 on CPUs and to 128 on each GPU, and less if memory is short.",
)
flags.DEFINE_float("epochs", None, lower_bound=0, help="Passes over the data, in place of --steps.")
flags.DEFINE_integer(
    "steps",
    None,
    lower_bound=1,
    help="Optimizer steps. Default: auto, 100 epochs, but at least 500 steps, and at most 3,000 on CPUs and 20,000 on"
    " GPUs.",
)
flags.DEFINE_string(
    "time",
    None,
    "Train for about this long, such as 20min, in place of --steps: a few steps are timed first. The time includes the"
    " evaluations during training.",
)
flags.DEFINE_bool("dry_run", False, "Show what would be chosen, and the memory and time it takes, and stop there.")
flags.DEFINE_float(
    "learning_rate",
    1e-3,
    lower_bound=0,
    help="Peak learning rate. Lower it if --layer_decay is 1 and the encoder is large.",
)
flags.DEFINE_float("min_learning_rate", 1e-6, "Final learning rate.")
common_flags.warmup_and_weight_decay(0.1)
common_flags.layer_decay()
common_flags.seed_and_jit()
flags.DEFINE_enum(
    "class_weight",
    None,
    ["balanced"],
    "balanced weights the loss of each image by the inverse of its class's number of images, so that rare classes count"
    " as much as common ones. Default: each image counts the same.",
)

# Regularisation.
flags.DEFINE_float("label_smoothing", 0.1, "Probability that is spread evenly over all classes.")
flags.DEFINE_float("mixup", 0.0, "Alpha of mixup. 0 disables it; 0.8 in the paper, for runs of hundreds of epochs.")
flags.DEFINE_float("cutmix", 0.0, "Alpha of CutMix. 0 disables it; 1.0 in the paper, for runs of hundreds of epochs.")
flags.DEFINE_float(
    "rand_augment",
    0.0,
    lower_bound=0,
    upper_bound=10,
    help="Magnitude of RandAugment. 0 disables it; 7 or 9 in the paper, for runs of hundreds of epochs.",
)
common_flags.fraction(
    "random_erasing",
    0.0,
    "Probability that a rectangle of an image is erased; 0.25 in BEiT's recipe.",
)
flags.DEFINE_integer(
    "repeats",
    1,
    lower_bound=1,
    help=(
        "Repeated augmentation: each image appears this many times per batch, each time with new augmentation; 3"
        " in the paper for its larger data sets."
    ),
)

# These do not change the trained weights.
common_flags.fraction(
    "max_bad_fraction",
    0.1,
    "Largest fraction of unreadable files in each split. Each one is listed in data.json.",
)
flags.DEFINE_string("data_dir", None, "Folder where tfds stores its data.")
common_flags.log_every()
common_flags.save_every()
flags.DEFINE_integer("workers", 2, "Threads that read images. Raise it if the log says that training waits for data.")
flags.adopt_module_key_flags(splits)
flags.adopt_module_key_flags(value_range)
FLAGS = flags.FLAGS


def build_classifier(encoder, source, steps):
    import keras

    import keras_splitmask as ks

    prepared = {"crop_ratio": FLAGS.crop_ratio, "value_range": value_range.numbers()}
    model = ks.transfer.Classifier(
        encoder, source.class_count, FLAGS.frozen, seed=FLAGS.seed, class_names=source.classes, **prepared
    )
    optimizer = fitting.adamw(steps, encoder.depth, clip_norm=None)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    # Of the training images as they are augmented and mixed, unlike the accuracy on images to evaluate on.
    accuracy = keras.metrics.CategoricalAccuracy(name="train_accuracy")
    model.compile(optimizer, loss, metrics=[accuracy], jit_compile=fitting.jit())
    return model


def batch_size_for(count, devices):
    """--batch_size, or as many images as there are and the devices can share."""
    from keras_splitmask.data.counting import counted

    batch_size = min(FLAGS.batch_size, count - count % devices.replicas)
    if 0 < batch_size < FLAGS.batch_size:
        print(f"{counted(batch_size, 'image')} per step, since there are only {count} to train on", flush=True)
    return batch_size or FLAGS.batch_size


def weighted(batches, source):
    """Add the weights (B,) of --class_weight to batches of images and label probabilities (B, classes)."""
    import numpy as np

    if not FLAGS.class_weight:
        return batches
    counts = np.bincount(source.labels, minlength=source.class_count)
    weights = len(source) / (np.count_nonzero(counts) * np.maximum(counts, 1.0))
    weights = np.where(counts > 0, weights, 0.0).astype("float32")
    return batches.map(lambda batch: (*batch, batch[1] @ weights))


def settle_flags():
    """Complete the flags before the images are known, and check --time."""
    value_range.settle()
    time_limit.check()


def announce(sets, images, val, steps):
    """Print what is trained on what, and what the accuracy of the log is measured on."""
    from keras_splitmask.data.counting import counted

    source = sets.train
    labelled = f"{counted(len(source), 'labelled image')} of {counted(source.class_count, 'class')}"
    print(
        f"{labelled}, {len(images)} to evaluate on, encoder"
        f" {'from ' + FLAGS.init_from if FLAGS.init_from else 'from scratch'}{' (frozen)' if FLAGS.frozen else ''},"
        f" {counted(steps, 'step')}",
        flush=True,
    )
    if val:
        print(
            f"val accuracy is measured on {counted(len(val[0]), 'image')} apart from training. {sets.split} is"
            f" evaluated on only at the end. {validation.BEST} is the model that is best on val, model.keras the last.",
            flush=True,
        )
    elif sets.split != "train":
        print(
            f"{sets.split} accuracy is measured on the same {counted(len(images), 'image')} as the final result, which"
            " looks too good if you choose settings by it. To choose settings, add --val=0.1: it sets a tenth of the"
            " training images aside.",
            flush=True,
        )


def main(devices, run):
    import keras_splitmask as ks
    from keras_splitmask import data
    from keras_splitmask.backend.keras_private import set_random_seed

    set_random_seed(FLAGS.seed)
    encoder = encoders.load_encoder()
    channels = encoder.image_shape[-1] if encoder else FLAGS.channels
    sets = splits.open_splits(run, image_sets.open_images(run, channels), FLAGS.labelled, FLAGS.val, validate=True)
    source = sets.train
    labelled_settings.settle(sets, encoder, devices, run.resumed)
    hardware.divide(FLAGS.batch_size, devices.replicas)
    encoder = encoder or encoders.fresh_encoder(image_sets.image_shape(source))
    shape = encoder.image_shape
    judged = image_sets.read(sets.judged, sets.split, shape, ratio=FLAGS.crop_ratio)
    val = image_sets.read(sets.val, "val", shape, ratio=FLAGS.crop_ratio) if sets.val else None
    mix = {"mixup": FLAGS.mixup, "cutmix": FLAGS.cutmix, "smoothing": FLAGS.label_smoothing}
    host = ks.augment.host_preset(FLAGS.augmentation)
    transform = data.compose(FLAGS.rand_augment, FLAGS.random_erasing)
    batch_size = batch_size_for(len(source), devices)

    def batches(start):
        order = {"seed": FLAGS.seed, "start": start, "workers": FLAGS.workers, "repeats": FLAGS.repeats}
        mixed = data.mixed_batches(source, shape, batch_size, mix, **host, image_transform=transform, **order)
        return weighted(mixed, source)

    batches(0)  # stop at bad options before anything is written
    sets.train = source = image_sets.packed(source, shape)
    steps = FLAGS.steps or (None if FLAGS.time else max(1, round(FLAGS.epochs * len(source) / batch_size)))
    if FLAGS.dry_run or not steps:

        def build():
            return build_classifier(type(encoder).from_config(encoder.get_config()), source, time_limit.MODEL_STEPS)

        steps = labelled_settings.measure_steps(build, batches, (val or judged)[0], devices, steps)
    if FLAGS.dry_run:
        raise SystemExit(0)
    if FLAGS.time:
        FLAGS.steps = steps  # so that the run knows them when it resumes
    FLAGS.log_every = fitting.interval(steps)
    model = build_classifier(encoder, source, steps)
    announce(sets, judged[0], val, steps)

    checkpoints = run.checkpoints(model, every=FLAGS.save_every, devices=devices, advice=trouble.advice())
    run.start(source)
    sets.write(run)
    sets.save_record()
    measure = validation.Validation(run, model, *(val or judged), "val" if val else sets.split, steps, keep=bool(val))
    options = {"repeats": FLAGS.repeats, "batch_size": batch_size}
    log = trouble.log(run, model, source, batches, steps, checkpoints, [measure], **options)
    measure.resume(log.past)
    fitting.fit(model, batches, steps, log, checkpoints)
    with checkpoints.finishing():
        sets.save_record()  # again, with files that broke during the run
        judgement.finish(run, model, sets, judged, measure, steps)


if __name__ == "__main__":
    commandline.run(
        hardware.spread(
            main, one_host=True, free={"judge", "time", "dry_run"}, auto=(*labelled_settings.AUTO, "log_every")
        ),
        settle_flags,
        required=("dataset", "workdir"),
    )
