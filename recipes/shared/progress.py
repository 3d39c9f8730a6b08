"""Progress of training: a bar on a terminal; otherwise one line, once two steps are timed, about the time it takes."""

import contextlib
import sys
import time

from absl import flags

from recipes.shared import screen, time_limit

FLAGS = flags.FLAGS
TIMED = 2  # steps that are timed to say how long the run will take, after the first, which compiles
LATE = 1.5  # times --time: from here on a forecast says that it is missed
READ_EVERY = 1.0  # seconds between readings of the loss, since each of them waits for the device


@contextlib.contextmanager
def shown(steps, log):
    """Yield a Keras callback that shows the progress of a run on stdout.

    Args:
        steps: steps of the whole run.
        log: the `RunLog` of the run, which is called before the callback.
    """
    if not (sys.stdout.isatty() and steps > log.step):
        # With --time, a run that begins was timed before, and a second forecast is of use only if it is late.
        yield _forecast(steps - log.step, said=bool(_asked()) and not log.step)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(None), TextColumn("{task.description}"))
    # Without a thread of its own. Lines that are printed meanwhile appear above the bar.
    with Progress(*columns, console=Console(file=sys.stdout), auto_refresh=False, transient=True) as bar:
        yield _mover(bar, steps, log)


def _mover(bar, steps, log):
    """Return a callback that moves a bar of rich."""
    import keras

    task = bar.add_task("the first step takes longer, since it compiles", total=steps, completed=log.step)
    bar.refresh()
    timed = []  # (step, time) after the first step of this process, and now
    read = [0.0]

    def move(batch, logs):
        now = time.monotonic()
        timed[1:] = [(log.step, now)]
        if now - read[0] >= READ_EVERY or log.step >= steps:
            read[0] = now
            loss = float(keras.ops.convert_to_numpy(logs["loss"]))
            bar.update(task, completed=log.step, description=words(loss, timed, steps, log.batch_size))
            bar.refresh()

    return keras.callbacks.LambdaCallback(on_train_batch_end=move)


def words(loss, timed, steps, batch_size):
    """Write the loss, the speed and the time left.

    Args:
        timed: pairs of a step and the time after it, in seconds: of the first step, and of the newest.
        steps: steps of the whole run.
        batch_size: images per step.
    """
    (first, began), (step, now) = timed[0], timed[-1]
    if step == first:
        return f"loss {loss:.3f}"
    seconds = max(now - began, 1e-9) / (step - first)  # of a step
    return f"loss {loss:.3f}  {batch_size / seconds:.0f} images/s  {screen.in_words(seconds * (steps - step))} left"


def _forecast(steps, said=False):
    """Return a callback that prints, once two steps are timed, how long all of them will take; with `said`, only if
    that is more than --time."""
    import keras

    from keras_splitmask.data.counting import counted

    ends = []

    def note(batch, logs):
        if len(ends) > TIMED:
            return
        if len(ends) in (0, TIMED):
            keras.ops.convert_to_numpy(next(iter(logs.values())))  # wait for the device
        ends.append(time.monotonic())
        if len(ends) == TIMED + 1:
            at_once = FLAGS.steps_per_execution if "steps_per_execution" in FLAGS else 1
            seconds = (ends[-1] - ends[0]) / (TIMED * at_once) * steps
            late = _late(seconds)
            if late or not said:
                print(f"time      about {screen.in_words(seconds)} for {counted(steps, 'step')}{late}", flush=True)

    def skip(epoch, logs):
        """Leave out what the end of an interval took: measures, pictures and checkpoints."""
        if ends:
            pause = time.monotonic() - ends[-1]
            ends[:] = [end + pause for end in ends]

    return keras.callbacks.LambdaCallback(on_train_batch_end=note, on_epoch_end=skip)


def _asked():
    """--time, of a program that has it."""
    return FLAGS.time if "time" in FLAGS else None


def _late(seconds):
    """Say that --time is missed, since other programs slow the machine down; its steps were counted before."""
    asked = _asked()
    if not asked or seconds < LATE * time_limit.seconds_of(asked):
        return ""
    return f", more than --time={asked}: steps are slower now than when they were measured"
