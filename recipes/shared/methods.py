"""The pre-training methods of --method: how each is built and trained, and which flags it reads."""

import dataclasses
import functools
import sys
from collections.abc import Callable

from absl import flags

from recipes.shared import commandline, presets, visual_words

FLAGS = flags.FLAGS
TOKENIZER_FLAGS = {"tokenizer", "dalle_weights", "dalle_sha256", "vocabulary", "fit_patches", "word_resolution"}
# By the crop of --augmentation: the range of the fraction of an image's area that one of two views shows.
VIEWS = {"crop": (0.2, 1.0), "quarter_crop": (0.08, 0.25), "none": (1.0, 1.0)}
# BEiT's values, which the paper uses for SplitMask. `Method.defaults` has those of the other methods' authors.
DEFAULTS = {
    "min_learning_rate": 1e-5,
    "warmup": 10 / 300,
    "weight_decay": 0.05,
    "clip_norm": 3.0,
    "drop_path": 0.1,
    "beta_2": 0.999,
}


def plain_augmentation():
    import keras_splitmask as ks

    host, layer = ks.augment.preset(FLAGS.augmentation, FLAGS.seed)
    return {"crop": host}, layer


def plain_batches(source, image_shape, host):
    from keras_splitmask import data

    return functools.partial(data.batches, **host)


def plain_optimizer(source):
    return {"weight_decay": FLAGS.weight_decay}


@dataclasses.dataclass(frozen=True)
class Method:
    """A value of --method.

    Attributes:
        build: returns the model, from its encoder, the source of images, the steps of the run, and the arguments that
            all methods take.
        flags: names of the flags that this method reads and that some method does not.
        defaults: default values of flags that differ from `DEFAULTS`.
        rate: default peak learning rate per image of a batch; None for SplitMask's own rule.
        augmentation: returns the augmentation on the host, arguments of `data.batches`, and the layer in the step or
            None.
        batches: returns the function that reads batches, from the source, the image shape and the host's augmentation.
        optimizer: returns further arguments of `training.adamw`, from the source.
        after_loading: called with the model once the weights of --init_from are loaded.
        trains: whether the method takes optimizer steps.
    """

    build: Callable
    flags: frozenset = frozenset()
    defaults: dict = dataclasses.field(default_factory=dict)
    rate: float | None = None
    augmentation: Callable = plain_augmentation
    batches: Callable = plain_batches
    optimizer: Callable = plain_optimizer
    after_loading: Callable = lambda model: None
    trains: bool = True


def build_splitmask(encoder, source, steps, **shared):
    import keras_splitmask as ks

    return ks.SplitMask(
        encoder,
        visual_words.build_tokenizer(encoder) if FLAGS.inpaint_weight else None,
        keep=FLAGS.keep,
        split=FLAGS.split,
        decoder_depth=FLAGS.decoder_depth,
        predicted=FLAGS.predicted,
        projector=FLAGS.projector or None,
        temperature=FLAGS.temperature,
        inpaint_weight=FLAGS.inpaint_weight,
        match_weight=FLAGS.match_weight,
        **shared,
    )


def splitmask_batches(source, image_shape, host):
    from keras_splitmask import data

    if FLAGS.views == "2":
        return functools.partial(data.two_view_batches, scale=VIEWS[host["crop"]])
    return plain_batches(source, image_shape, host)


def build_beit(encoder, source, steps, **shared):
    import keras_splitmask as ks

    return ks.baselines.BEiT(
        encoder, visual_words.build_tokenizer(encoder), split=FLAGS.split, **mask_ratio_if_given(), **shared
    )


def build_mae(encoder, source, steps, **shared):
    import keras_splitmask as ks

    return ks.baselines.MAE(
        encoder,
        **mask_ratio_if_given(),
        decoder_depth=FLAGS.mae_decoder_depth,
        decoder_width=FLAGS.mae_decoder_width,
        **shared,
    )


def mask_ratio_if_given():
    return {} if FLAGS.mask_ratio is None else {"mask_ratio": FLAGS.mask_ratio}


def build_deit(encoder, source, steps, **shared):
    import keras_splitmask as ks

    return ks.baselines.DeiT(encoder, source.class_count, **shared)


def deit_augmentation():
    import keras_splitmask as ks

    return ks.augment.host_preset(FLAGS.augmentation), None  # images are mixed, and so augmented before, on the host


def deit_batches(source, image_shape, host):
    from keras_splitmask import data

    source.check_labelled(f"the train split of {FLAGS.dataset}")
    mix = {"mixup": FLAGS.mixup, "cutmix": FLAGS.cutmix, "smoothing": FLAGS.label_smoothing}
    transform = data.compose(FLAGS.rand_augment, FLAGS.random_erasing)
    return functools.partial(data.mixed_batches, mix=mix, image_transform=transform, repeats=FLAGS.repeats, **host)


def build_dino(encoder, source, steps, **shared):
    import keras_splitmask as ks

    temperatures = (FLAGS.teacher_temperature,) * 2
    return ks.baselines.DINO(
        encoder, steps, FLAGS.prototypes, momentum=FLAGS.teacher_momentum, teacher_temperatures=temperatures, **shared
    )


def dino_augmentation():
    import keras_splitmask as ks

    return {}, ks.augment.views_preset(FLAGS.augmentation, FLAGS.seed)


def dino_batches(source, image_shape, host):
    from keras_splitmask import data
    from keras_splitmask.baselines.dino import local_size

    views = data.MultiCrop(FLAGS.local_crops, local_size(image_shape, FLAGS.patch_size))
    return functools.partial(data.view_batches, views=views)


def dino_optimizer(source):
    """A rising weight decay, clipping per weight, and a last layer that is frozen at first."""
    return {
        "weight_decay": (FLAGS.weight_decay, FLAGS.final_weight_decay),
        "clip_each": True,
        # The prototypes, which DINO's code keeps still in the first epoch.
        "frozen": "student_head/kernel$",
        "frozen_steps": round(FLAGS.frozen_epochs * len(source) / FLAGS.batch_size),
    }


def build_untrained(encoder, source, steps, **shared):
    import keras_splitmask as ks

    if FLAGS.init_from:
        raise commandline.BadInput(
            "Expected no --init_from with --method=random, whose encoder is untrained; leave it out."
        )
    return ks.baselines.Untrained(encoder)


METHODS = {
    "splitmask": Method(
        build_splitmask,
        flags=frozenset({*TOKENIZER_FLAGS, "preset", *presets.FLAGS, "inpaint_weight", "match_weight"}),
        batches=splitmask_batches,
    ),
    "beit": Method(build_beit, flags=frozenset({*TOKENIZER_FLAGS, "split", "mask_ratio"})),
    "mae": Method(
        build_mae,
        flags=frozenset({"mask_ratio", "mae_decoder_depth", "mae_decoder_width"}),
        defaults={"min_learning_rate": 0.0, "warmup": 40 / 800, "clip_norm": 0.0, "drop_path": 0.0, "beta_2": 0.95},
        rate=1.5e-4 / 256,
    ),
    "deit": Method(
        build_deit,
        flags=frozenset({"label_smoothing", "mixup", "cutmix", "rand_augment", "random_erasing", "repeats"}),
        defaults={"warmup": 5 / 300, "clip_norm": 0.0},
        rate=5e-4 / 512,
        augmentation=deit_augmentation,
        batches=deit_batches,
    ),
    "dino": Method(
        build_dino,
        flags=frozenset(
            {
                "local_crops",
                "prototypes",
                "teacher_momentum",
                "teacher_temperature",
                "frozen_epochs",
                "final_weight_decay",
            }
        ),
        defaults={"augmentation": "dino", "weight_decay": 0.04},
        rate=5e-4 / 256,
        augmentation=dino_augmentation,
        batches=dino_batches,
        optimizer=dino_optimizer,
        after_loading=lambda model: model.start_student(),
    ),
    "random": Method(build_untrained, trains=False),
}


def chosen():
    """The `Method` of --method."""
    return METHODS[FLAGS.method]


def build(source, image_shape, augmentation, steps):
    """Build the model of --method on its encoder, for a run of `steps` steps; not compiled."""
    import keras_splitmask as ks

    encoder = ks.Encoder.from_size(
        FLAGS.size, image_shape, FLAGS.patch_size, drop_path=FLAGS.drop_path, positions=FLAGS.positions
    )
    return chosen().build(
        encoder, source, steps, seed=FLAGS.seed, augmentation=augmentation, accumulate=FLAGS.accumulate
    )


def learning_rate():
    """The peak learning rate: --learning_rate, or what the method's authors use for --batch_size."""
    if FLAGS.learning_rate is not None:
        return FLAGS.learning_rate
    if (rate := chosen().rate) is not None:
        return rate * FLAGS.batch_size
    # BEiT's 1.5e-3 at a batch of 2048, in proportion. The paper says nothing of small batches; the least is our choice.
    least = presets.LEARNING_RATES.get(FLAGS.preset, 5e-4)
    return max(least, 1.5e-3 * FLAGS.batch_size / 2048)


def reads(name):
    """Return whether the method reads a flag."""
    return name not in _of_some_methods() or name in chosen().flags


def _of_some_methods():
    return frozenset().union(*(method.flags for method in METHODS.values()))


def settle_flags():
    """Give flags that were not set the method's defaults, and clear those that it does not read, so that run.flags
    does not list them.

    A flag that the method does not read is refused if it was typed. In a flag file, which other methods may share, it
    is named and ignored.
    """
    unread = sorted(name for name in _of_some_methods() if not reads(name))
    typed = {argument.lstrip("-").split("=")[0] for argument in sys.argv[1:] if argument.startswith("-")}
    if wrong := [f"--{name}" for name in unread if {name, f"no{name}"} & typed]:
        raise commandline.BadInput(
            f"--method={FLAGS.method} does not read {', '.join(wrong)}; leave {'it' if len(wrong) == 1 else 'them'}"
            " out."
        )
    if listed := [f"--{name}" for name in unread if not FLAGS[name].using_default_value]:
        print(f"--method={FLAGS.method} ignores {', '.join(listed)} of the flag file", flush=True)
    for name in unread:
        FLAGS[name].value = None
    for name, value in {**DEFAULTS, **chosen().defaults}.items():
        FLAGS[name].value = value if FLAGS[name].value is None else FLAGS[name].value
