"""finetune.py's `auto` flags: filled in from the images, the encoder and the machine, and said on the screen."""

from absl import flags

from recipes.shared import auto, image_sets, settings

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
    else:
        given |= {"size": FLAGS.size, "patch_size": FLAGS.patch_size, "image_size": image_sets.image_size()}
    made = auto.plan_labelled(facts, given)
    for name in made.reasons:
        value = made.values[name]
        FLAGS[name].value = settings.text_of(value) if name == "image_size" else value
    settings.say(made.reasons)
    if not resumed:
        settings.check_memory(facts, made)
