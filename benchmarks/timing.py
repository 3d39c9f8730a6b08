"""Time training steps: each contender trains for a few steps when it is its turn, so that all see the same machine."""

import itertools
import time

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def same_batches(images):
    return ((images,) for _ in itertools.count())


def time_model(model, images, steps, now):
    """Seconds of a step in `fit`, from the end of an epoch's first step until the last weight is there."""
    import keras

    from keras_splitmask.backend.devices import Devices

    marks = []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                [float(value) for value in logs.values()]  # it has come to its end
                marks.append(now())

        def on_epoch_end(self, epoch, logs=None):
            keras.ops.convert_to_numpy(self.model.trainable_variables[-1])
            marks.append(now())

    batches = getattr(model, "batches", same_batches)
    model.fit(
        Devices().dataset_for_fit(lambda: batches(images)),
        steps_per_epoch=1 + steps,
        callbacks=[Clock()],
        verbose=0,
        shuffle=False,
    )
    return (marks[1] - marks[0]) / steps


def time_by_hand(plain, images, steps, now):
    plain.steps(images, 1)
    start = now()
    plain.steps(images, steps)
    return (now() - start) / steps


def take_turns(contenders, images, steps, repeats, clock):
    """Train all contenders in turns.

    Args:
        contenders: {name: a compiled model, or a step written by hand}.
        images: (B, H, W, C) uint8, the same batch for every step.
        steps: steps of a turn.
        repeats: turns of each contender.
        clock: a name in `CLOCKS`.

    Returns:
        {name: seconds per step in each turn}.
    """
    now = CLOCKS[clock]
    measures = {
        name: time_model if hasattr(contender, "fit") else time_by_hand for name, contender in contenders.items()
    }
    for name, contender in contenders.items():
        start = time.perf_counter()
        measures[name](contender, images, 1, now)
        print(f"start     {name}: {time.perf_counter() - start:.1f} s", flush=True)  # most of it compiles
    seconds = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            seconds[name].append(measures[name](contender, images, steps, now))
    return seconds
