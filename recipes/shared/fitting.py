"""Training in intervals of the log, resumed where a run stopped."""

import contextlib

from absl import flags

from recipes.shared import commandline, progress, time_limit

FLAGS = flags.FLAGS
LONGEST = 50  # steps between lines of the log, by default


def jit():
    """Decide whether to compile the step with XLA. On CPUs TensorFlow's own kernels are faster than XLA's."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return "auto"
    if FLAGS.jit is not None:
        return FLAGS.jit
    from keras_splitmask.backend.devices import accelerator

    return accelerator()


def interval(steps):
    """The steps between lines of the log of a run: --log_every, or a twentieth of the run, but at most `LONGEST`."""
    return FLAGS.log_every or time_limit.executions(min(LONGEST, steps // 20))


def adamw(steps, depth, **options):
    """Create the optimizer of a run on labels by the flags; `options` are more arguments of `training.adamw`.

    Pre-trained blocks of an encoder of `depth` learn more slowly than the head (--layer_decay).
    """
    import keras_splitmask as ks

    return ks.training.adamw(
        FLAGS.learning_rate,
        steps,
        warmup=round(FLAGS.warmup * steps),
        floor=FLAGS.min_learning_rate,
        weight_decay=FLAGS.weight_decay,
        # From scratch there is nothing to keep, so all blocks learn alike.
        layer_decay=FLAGS.layer_decay if FLAGS.init_from else 1.0,
        depth=depth,
        **options,
    )


def fit(model, batches, steps, log, checkpoints):
    """Train up to step `steps`. Each Keras epoch is one interval of the log; the first and the last may be shorter.

    `batches(start)` returns the batches from step `start` on. With `steps=0` only the initial measurements are logged.
    """
    every = interval(steps)
    if not steps:
        log.on_train_begin()
    with contextlib.closing(log), checkpoints.listening(), progress.shown(steps, log) as shown:
        # A signal may have come before, while a library swallowed the exception.
        commandline.stop_if_asked()
        while (start := checkpoints.step) < steps:
            length = min(every - start % every, steps - start)
            epochs = (steps - start) // every if length == every else 1
            # Under a strategy, TensorFlow's own threads take the batches, so `fit` does not wait where this looks.
            feed = checkpoints.devices.dataset_for_fit(
                lambda: log.timed(batches(start), measured=checkpoints.devices.strategy is None)
            )
            model.fit(
                feed,
                steps_per_epoch=length,
                epochs=epochs,
                callbacks=[log, checkpoints, shown],
                verbose=0,
                shuffle=False,
            )
        if checkpoints.saved < steps:
            checkpoints.save()
