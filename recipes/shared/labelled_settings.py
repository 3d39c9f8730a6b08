"""finetune.py's `auto` flags: filled in from the images, the encoder and the machine, and said on the screen."""

import random
import time

from absl import flags

from recipes.shared import auto, image_sets, screen, settings, time_limit, validation

FLAGS = flags.FLAGS
# Flags whose default is auto. A run that resumes takes them from its run.flags.
AUTO = ("image_size", "patch_size", "size", "batch_size", "epochs", "steps")


def settle(sets, encoder, devices, resumed=False):
    """Fill in the flags that are `auto`, say what was chosen, and refuse what does not fit into memory.

    Args:
        sets: the `splits.Splits`.
        encoder: the encoder of --init_from, or None.
        devices: the `Devices` of the run.
        resumed: whether the run resumes; it did fit, and so is not refused.

    Raises:
        BadInput: if training would take more memory than there is.
    """
    facts = settings.facts_of(sets.train, devices)
    given = {"batch_size": FLAGS.batch_size, "frozen": FLAGS.frozen}
    given["evaluated"] = sum(len(source) for source in (sets.judged, sets.val) if source)
    if FLAGS.epochs is None and not FLAGS.time:
        given["steps"] = FLAGS.steps
    if encoder:
        given["encoder"] = (encoder.width, encoder.depth, encoder.heads)
        given |= {"image_size": encoder.image_shape[:2], "patch_size": encoder.patch_size}
        given["relative_positions"] = encoder.relative_positions
    else:
        given |= {"size": FLAGS.size, "patch_size": FLAGS.patch_size, "image_size": image_sets.image_size()}
    made = auto.plan_labelled(facts, given)
    for name in made.reasons:
        value = made.values[name]
        FLAGS[name].value = settings.text_of(value) if name == "image_size" else value
    settings.say(made.reasons)
    if not resumed:
        settings.check_memory(facts, made)


def measure_steps(build, batches, images, devices, steps):
    """Measure a few steps and an evaluation, and print how long a run will take.

    Args:
        build: a function that returns a `Classifier` to measure on, which is thrown away.
        batches: a function from a step to the batches from there on.
        images: (B, H, W, C), those that are evaluated.
        devices: the `Devices` of the run.
        steps: of the run; None for as many as fit into --time.

    Returns:
        The steps of the run.
    """
    from keras_splitmask.data.counting import counted

    state = random.getstate()  # Keras draws its seeds from it; the run is the same as if nothing had been measured
    model = build()
    seconds = time_limit.seconds_of_a_step(model, batches, devices)
    validation.scores_of(model, images)  # the first time compiles
    began = time.monotonic()
    validation.scores_of(model, images)
    evaluation = time.monotonic() - began
    random.setstate(state)
    if steps is None:
        total = time_limit.seconds_of(FLAGS.time)
        steps = time_limit.steps_in(total, seconds)
        for _ in range(2):  # fewer steps may have fewer evaluations
            steps = time_limit.steps_in(
                total, seconds, min(validation.times(steps, len(images)) * evaluation, total / 2)
            )
        if steps < auto.LABELLED_STEPS:
            least = screen.in_words(auto.LABELLED_STEPS * seconds / time_limit.USED)
            print(
                f"warning   {screen.in_words(total)} is enough for {counted(steps, 'step')}. Fewer than"
                f" {auto.LABELLED_STEPS} are often too few: allow more than {least}, or choose smaller images or a"
                " smaller encoder.",
                flush=True,
            )
    print(
        f"time      {screen.in_words(steps * seconds)} for {counted(steps, 'step')} of {seconds:.2g} s;"
        f" evaluations besides: {validation.times(steps, len(images))} of {evaluation:.2g} s",
        flush=True,
    )
    return steps
