"""Fine-tune an encoder on labelled images, or train one from scratch with the same budget.

python recipes/finetune.py --init_from=runs/quickstart --dataset=sample --labelled=1000 --workdir=runs/tuned
python recipes/finetune.py --size=vit_micro --patch_size=4 --dataset=sample --labelled=1000 --workdir=runs/scratch
"""

from absl import flags

from recipes.shared import commandline, common_flags, encoders, fitting, hardware, image_sets, trouble, value_range

# These change the result.

# Data.
flags.DEFINE_string(
    "dataset",
    None,
    "Labelled set: sample, folder:PATH, npz:PATH or tfds:NAME. Its train split is used for training; see also --judge.",
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
    "Image size in pixels: 224, or 48x80 (height x width). Default: that of --init_from. From scratch: 224;"
    " for arrays and the sample their own size.",
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
common_flags.encoder()
flags.DEFINE_integer("patch_size", None, lower_bound=1, help="Side of a patch in pixels. Default: that of --init_from.")
common_flags.drop_path()
flags.DEFINE_bool("frozen", False, "Train only the head.")

# Optimization.
flags.DEFINE_integer("batch_size", 128, lower_bound=1, help="Images per step.")
flags.DEFINE_float("epochs", 100, lower_bound=0, help="Passes over the data. Small data sets need more.")
flags.DEFINE_integer("steps", None, lower_bound=1, help="Optimizer steps. Default: as --epochs says.")
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
flags.DEFINE_enum(
    "judge",
    None,
    ["test", "val", "train"],
    "Split to evaluate on. Default: test, or val if test is missing or has no labels.",
)
common_flags.fraction(
    "max_bad_fraction",
    0.1,
    "Largest fraction of unreadable files in each split. Each one is listed in data.json.",
)
flags.DEFINE_string("data_dir", None, "Folder where tfds stores its data.")
flags.DEFINE_integer("log_every", 50, lower_bound=1, help="Steps between lines of the log.")
flags.DEFINE_integer("workers", 2, "Threads that read images. Raise it if the log says that training waits for data.")
flags.adopt_module_key_flags(value_range)
FLAGS = flags.FLAGS


def build_classifier(encoder, source, steps):
    import keras

    import keras_splitmask as ks

    prepared = {"crop_ratio": FLAGS.crop_ratio, "value_range": value_range.given()}
    model = ks.transfer.Classifier(
        encoder, source.class_count, FLAGS.frozen, seed=FLAGS.seed, class_names=source.classes, **prepared
    )
    optimizer = fitting.adamw(steps, encoder.depth, clip_norm=None)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=fitting.jit())
    return model


def finish(run, model, split, images, labels, steps):
    """Measure the accuracy on a split, and write it with the report and the model at the end of a run."""
    logits = model.predict(images, batch_size=256, verbose=0)
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    result = {f"{split}_top1": accuracy, "steps": steps, "seed": FLAGS.seed, "classes": model.class_names}
    run.write_json("result.json", result)
    run.write_report()
    run.save_model(model)
    print(f"{split} top-1 {accuracy:.2%}")


def main(devices, run):
    import keras

    import keras_splitmask as ks
    from keras_splitmask import data

    keras.utils.set_random_seed(FLAGS.seed)
    encoder = encoders.load_encoder()
    channels = encoder.image_shape[-1] if encoder else FLAGS.channels
    source = image_sets.open_images(run, channels, FLAGS.labelled)
    source.check_labelled(f"the train split of {FLAGS.dataset}")
    judged, split = image_sets.open_judged(source, source.channels)
    encoder = encoder or encoders.fresh_encoder(image_sets.image_shape(source))
    shape = encoder.image_shape
    images, labels = image_sets.read(judged, split, shape, ratio=FLAGS.crop_ratio)
    mix = {"mixup": FLAGS.mixup, "cutmix": FLAGS.cutmix, "smoothing": FLAGS.label_smoothing}
    host = ks.augment.host_preset(FLAGS.augmentation)
    transform = data.compose(FLAGS.rand_augment, FLAGS.random_erasing)

    def batches(start):
        order = {"seed": FLAGS.seed, "start": start, "workers": FLAGS.workers, "repeats": FLAGS.repeats}
        return data.mixed_batches(source, shape, FLAGS.batch_size, mix, **host, image_transform=transform, **order)

    batches(0)  # stop at bad options before anything is written
    source = image_sets.packed(source, shape)
    steps = FLAGS.steps or max(1, round(FLAGS.epochs * len(source) / FLAGS.batch_size))
    model = build_classifier(encoder, source, steps)
    print(
        f"{len(source)} labelled images of {source.class_count} classes, {len(images)} to evaluate on, encoder"
        f" {'from ' + FLAGS.init_from if FLAGS.init_from else 'from scratch'}{' (frozen)' if FLAGS.frozen else ''},"
        f" {steps} steps",
        flush=True,
    )

    checkpoints = run.checkpoints(model, devices=devices, advice=trouble.advice())
    run.start(source, listed=bool(FLAGS.labelled))
    image_sets.save_record(source, judged, split)
    log = trouble.log(run, model, source, batches, steps, checkpoints, repeats=FLAGS.repeats)
    fitting.fit(model, batches, steps, FLAGS.log_every, log, checkpoints)
    with checkpoints.finishing():
        image_sets.save_record(source, judged, split)  # again, with files that broke during the run
        finish(run, model, split, images, labels, steps)


if __name__ == "__main__":
    commandline.run(hardware.spread(main, one_host=True, free={"judge"}), value_range.settle)
