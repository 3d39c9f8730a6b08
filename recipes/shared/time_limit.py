"""--time: how many optimizer steps fit into a time, by a few steps that are timed on a model thrown away afterwards."""

import re
import time

from absl import flags

from recipes.shared import commandline

FLAGS = flags.FLAGS
UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
TIMED = 2  # executions of steps that are timed at least, after as many to warm up
LEAST_SECONDS = 1.0  # for which steps are timed at least, since single short steps differ much
MODEL_STEPS = 100_000  # that the model is built for: more than are ever timed
USED = 0.95  # fraction of the time that the steps take; the rest is for the words, checkpoints and the report


def seconds_of(text):
    """Parse --time, such as 2h, 90min or 1h30min, to seconds.

    Raises:
        BadInput: if it is no time.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text.lower())
    if not parts or "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", text.lower()):
        raise commandline.BadInput(f"Expected --time as 2h, 90min or 1h30min, received {text!r}.")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def check():
    """Stop if --time is no time, or given together with --steps or --epochs.

    Raises:
        BadInput: in one line.
    """
    if not FLAGS.time:
        return
    if FLAGS.steps or FLAGS.epochs is not None:
        raise commandline.BadInput(
            f"Expected --time without --steps and --epochs, received --time={FLAGS.time}; leave the others out."
        )
    seconds_of(FLAGS.time)


def executions(steps):
    """Round a number of steps down to whole executions (--steps_per_execution), at least one."""
    at_once = FLAGS.steps_per_execution if "steps_per_execution" in FLAGS else 1
    return max(1, steps // at_once) * at_once


def seconds_of_a_step(model, batches, devices):
    """Measure the time of a training step on a model that is thrown away afterwards."""
    import keras

    ends, count = [], executions(1) * TIMED

    def note(epoch, logs):
        ends.append(time.monotonic())
        model.stop_training = ends[-1] - ends[0] >= LEAST_SECONDS

    feed = devices.dataset_for_fit(lambda: (batch if isinstance(batch, tuple) else (batch,) for batch in batches(0)))
    options = {"callbacks": [keras.callbacks.LambdaCallback(on_epoch_end=note)], "verbose": 0, "shuffle": False}
    model.fit(feed, steps_per_epoch=count, epochs=10**6, **options)
    return (ends[-1] - ends[0]) / (count * (len(ends) - 1))


def steps_in(seconds, of_a_step, besides=0.0):
    """The number of steps that fit into a time, if `besides` seconds of it go into something else."""
    return executions(int((USED * seconds - besides) / of_a_step))


def divided(total, fraction, spent=None):
    """Divide a time between pre-training and fine-tuning, so that all methods take equally long.

    Args:
        total: seconds of both together.
        fraction: of it for pre-training. 0 for none, as from scratch.
        spent: seconds that the steps of pre-training took; None if they are not done.

    Returns:
        The seconds to give each, as --time. Fine-tuning gets what pre-training left, since its steps took longer or
        shorter than forecast: at least half of its fraction, or a busy machine would make a method look bad.
    """
    pretrain = fraction * total
    left = total - (pretrain if spent is None or not fraction else spent / USED)
    return pretrain, max((total - pretrain) / 2, left)
