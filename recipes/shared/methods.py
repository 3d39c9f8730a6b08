"""The pre-training methods by the flags of pretrain.py: how each is built, and which flags it reads that not all of
them do."""

import functools
import sys

from absl import flags

from recipes.shared import commandline

FLAGS = flags.FLAGS
TOKENIZERS = {"random_projection": "RandomProjection", "random_patches": "RandomPatches", "kmeans": "KMeans"}
OF_LABELS = ("label_smoothing", "mixup", "cutmix", "rand_augment", "random_erasing", "repeats")
OF_WORDS = ("tokenizer", "dalle_weights", "dalle_sha256", "vocabulary", "fit_patches", "word_resolution")


def splitmask(encoder, **shared):
    import keras_splitmask as ks

    return ks.SplitMask(
        encoder,
        build_tokenizer(encoder) if FLAGS.inpaint_weight else None,
        keep=FLAGS.keep,
        split=FLAGS.split,
        decoder_depth=FLAGS.decoder_depth,
        temperature=FLAGS.temperature,
        inpaint_weight=FLAGS.inpaint_weight,
        match_weight=FLAGS.match_weight,
        **shared,
    )


def beit(encoder, **shared):
    import keras_splitmask as ks

    return ks.baselines.BEiT(encoder, build_tokenizer(encoder), split=FLAGS.split, **given("mask_ratio"), **shared)


def mae(encoder, **shared):
    import keras_splitmask as ks

    return ks.baselines.MAE(
        encoder,
        **given("mask_ratio"),
        decoder_depth=FLAGS.mae_decoder_depth,
        decoder_width=FLAGS.mae_decoder_width,
        **shared,
    )


def deit(encoder, classes, **shared):
    import keras_splitmask as ks

    return ks.baselines.DeiT(encoder, classes, **shared)


def dino(encoder, steps, **shared):
    import keras_splitmask as ks

    temperatures = (FLAGS.teacher_temperature,) * 2
    return ks.baselines.DINO(
        encoder, steps, FLAGS.prototypes, momentum=FLAGS.teacher_momentum, teacher_temperatures=temperatures, **shared
    )


def untrained(encoder, **shared):
    import keras_splitmask as ks

    if FLAGS.init_from:
        raise commandline.BadInput(
            "Expected no --init_from with --method=random, whose encoder is untrained; leave it out."
        )
    return ks.baselines.Untrained(encoder)


# name: the function that builds it from an `Encoder`, and the flags that it reads, of those that not all methods read.
METHODS = {
    "splitmask": (
        splitmask,
        {*OF_WORDS, "keep", "split", "decoder_depth", "temperature", "inpaint_weight", "match_weight"},
    ),
    "beit": (beit, {*OF_WORDS, "split", "mask_ratio"}),
    "mae": (mae, {"mask_ratio", "mae_decoder_depth", "mae_decoder_width"}),
    "deit": (deit, set(OF_LABELS)),
    "dino": (
        dino,
        {"local_crops", "prototypes", "teacher_momentum", "teacher_temperature", "frozen_epochs", "final_weight_decay"},
    ),
    "random": (untrained, set()),
}


# What flags mean that were left out: BEiT's numbers, which are SplitMask's, and what the authors of a method chose in
# their place.
SHARED = {
    "augmentation": "crop_flip",
    "min_learning_rate": 1e-5,
    "warmup": 10 / 300,
    "weight_decay": 0.05,
    "clip_norm": 3.0,
    "drop_path": 0.1,
    "beta_2": 0.999,
}
OWN = {
    "mae": {"min_learning_rate": 0.0, "warmup": 40 / 800, "clip_norm": 0.0, "drop_path": 0.0, "beta_2": 0.95},
    "deit": {"warmup": 5 / 300, "clip_norm": 0.0},
    "dino": {"augmentation": "dino", "weight_decay": 0.04},
}
RATES = {"mae": 1.5e-4 / 256, "deit": 5e-4 / 512, "dino": 5e-4 / 256}  # of an image of the batch


def build(source, image_shape, augmentation, steps):
    """The model of --method on its encoder, for a run of so many steps, not compiled."""
    import keras_splitmask as ks

    encoder = ks.Encoder.from_size(
        FLAGS.size, image_shape, FLAGS.patch_size, drop_path=FLAGS.drop_path, positions=FLAGS.positions
    )
    make, _ = METHODS[FLAGS.method]
    own = (
        {"steps": steps}
        if FLAGS.method == "dino"
        else {"classes": source.class_count}
        if FLAGS.method == "deit"
        else {}
    )
    return make(encoder, seed=FLAGS.seed, augmentation=augmentation, accumulate=FLAGS.accumulate, **own)


def augmentations():
    """The augmentation on the host, arguments of `data.batches`, and the one inside the step, a layer or None."""
    import keras_splitmask as ks

    if FLAGS.method != "deit":
        host, layer = ks.augment.preset(FLAGS.augmentation, FLAGS.seed)
        return {"crop": host}, ks.augment.views_preset(
            FLAGS.augmentation, FLAGS.seed
        ) if FLAGS.method == "dino" else layer
    return ks.augment.host_preset(FLAGS.augmentation), None  # images that are mixed on the host are augmented there


def batch_function(source, image_shape, host):
    """The function of `data` that reads the batches of --method, with its arguments from flags and from `host`."""
    from keras_splitmask import data
    from keras_splitmask.baselines.dino import local_size

    if FLAGS.method == "dino":
        views = data.MultiCrop(FLAGS.local_crops, local_size(image_shape, FLAGS.patch_size))
        return functools.partial(data.view_batches, views=views)
    if FLAGS.method != "deit":
        return functools.partial(data.batches, **host)
    source.check_labelled(f"the train split of {FLAGS.dataset}")
    mix = {"mixup": FLAGS.mixup, "cutmix": FLAGS.cutmix, "smoothing": FLAGS.label_smoothing}
    transform = data.compose(FLAGS.rand_augment, FLAGS.random_erasing)
    return functools.partial(data.mixed_batches, mix=mix, image_transform=transform, repeats=FLAGS.repeats, **host)


def learning_rate():
    """The peak that the method's authors would choose for --batch_size."""
    if FLAGS.method in RATES:
        return RATES[FLAGS.method] * FLAGS.batch_size
    return max(5e-4, 1.5e-3 * FLAGS.batch_size / 2048)


def weight_decay(source):
    """The weight decay of a run on these images, and what else the method wants of `training.adamw`."""
    if FLAGS.method != "dino":
        return FLAGS.weight_decay, {}
    frozen_steps = round(FLAGS.frozen_epochs * len(source) / FLAGS.batch_size)
    return (FLAGS.weight_decay, FLAGS.final_weight_decay), {
        "clip_each": True,
        "frozen": "student_head/kernel$",
        "frozen_steps": frozen_steps,
    }


def given(name):
    """{name: value} of a flag, or nothing if it was left out and the method is to choose."""
    return {name: FLAGS[name].value} if FLAGS[name].value is not None else {}


def settle_flags():
    """Flags that --method does not read lose their value, so that run.flags does not name them; those left out get the
    method's.

    An unread one that was typed is refused. In a flag file, which other methods may share, it is named and left out.
    """
    _, read = METHODS[FLAGS.method]
    unread = sorted(set().union(*(names for _, names in METHODS.values())) - read)
    typed = {argument.lstrip("-").split("=")[0] for argument in sys.argv[1:] if argument.startswith("-")}
    if wrong := [f"--{name}" for name in unread if {name, f"no{name}"} & typed]:
        raise commandline.BadInput(
            f"Expected no {', '.join(wrong)} with --method={FLAGS.method}, which does not read it; leave it out."
        )
    if listed := [f"--{name}" for name in unread if not FLAGS[name].using_default_value]:
        print(f"--method={FLAGS.method} does not read {', '.join(listed)} of the flag file", flush=True)
    for name in unread:
        FLAGS[name].value = None
    for name, value in {**SHARED, **OWN.get(FLAGS.method, {})}.items():
        FLAGS[name].value = value if FLAGS[name].value is None else FLAGS[name].value


def build_tokenizer(encoder):
    """By the flags, for the encoder's images; not fitted."""
    import keras_splitmask as ks

    if FLAGS.tokenizer != "dalle":
        if FLAGS.dalle_weights or FLAGS.dalle_sha256:
            raise commandline.BadInput(
                f"Expected --tokenizer=dalle with --dalle_weights, received --tokenizer={FLAGS.tokenizer}."
            )
        make = getattr(ks.tokenizers, TOKENIZERS[FLAGS.tokenizer])
        return make(encoder.image_shape, FLAGS.patch_size, FLAGS.vocabulary, FLAGS.word_resolution, FLAGS.seed)
    commandline.require("dalle_weights")
    if len(FLAGS.dalle_weights) not in (1, 2) or FLAGS.word_resolution:
        wrong = "--word_resolution" if FLAGS.word_resolution else f"{len(FLAGS.dalle_weights)} files in --dalle_weights"
        raise commandline.BadInput(
            f"Expected --tokenizer=dalle with ENCODER_FILE[,DECODER_FILE] alone, received {wrong}; leave it out."
        )
    tokenizer = ks.tokenizers.Dalle.from_files(
        encoder.image_shape, FLAGS.patch_size, *FLAGS.dalle_weights, sha256=FLAGS.dalle_sha256
    )
    if tokenizer.vocabulary != FLAGS.vocabulary:
        raise commandline.BadInput(
            f"Expected --vocabulary={tokenizer.vocabulary}, the words of {FLAGS.dalle_weights[0]}, received"
            f" {FLAGS.vocabulary}."
        )
    return tokenizer
