"""Make a run resumable at any moment: save checkpoints regularly, and one more when it is asked to stop."""

from __future__ import annotations

import contextlib
import errno
import math
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_splitmask.backend import distribution
from keras_splitmask.backend.devices import Devices
from keras_splitmask.backend.typing import Array
from keras_splitmask.training import checkpoints, model_state
from keras_splitmask.training.log import ADVICE

STATUS = 75  # EX_TEMPFAIL: "try again", as schedulers read it
SAME = 1.0  # seconds within which signals count as one: a process may get it twice, for itself and with its group
SHARE = 0.02  # largest fraction of the time for checkpoints, if `every` is not given


class Checkpoints(keras.callbacks.Callback):
    """Save the state of `fit` at the ends of epochs, and on SIGTERM, SIGINT and SIGHUP.

    After such a signal, the process saves at once and exits with status 75.

    Args:
        folder: folder of the checkpoints.
        start: steps done before.
        every: steps between checkpoints, which are saved at the ends of epochs. None: as often as 2% of the time
            allows.
        keep_every: also keep a checkpoint every `keep_every` steps, besides the last two.
        note: a dictionary for JSON, kept with each checkpoint.
        devices: `backend.devices.Devices`. Of several hosts only the first saves. All stop together at the end of an
            epoch.
    """

    def __init__(self, folder, start=0, every=None, keep_every=None, note=None, devices=None, advice=ADVICE):
        super().__init__()
        self.folder = folder
        self.step = self.saved = start
        self.every = every
        self.keep_every = keep_every
        self.note = note or {}
        self.log = None  # the `RunLog` of the run; its state is kept in the note
        self.advice = advice
        self.devices = devices or Devices()
        self.cost = 0.0  # seconds of the last checkpoint
        self.ended = time.monotonic()
        self.failing = False  # whether the last try to save failed
        self.metrics = {}
        self.training = False
        self.signal = None
        self.asked = -math.inf  # when the signal came

    @contextlib.contextmanager
    def listening(self):
        """Let SIGTERM, SIGINT and SIGHUP save and end the run.

        Once `fit` has begun, the run ends after the current step; before that, at once.

        Signals that are ignored, such as SIGHUP under nohup, stay ignored.
        """
        before = {number: signal.signal(number, self._on_signal) for number in stopping_signals()}
        try:
            yield
            # Libraries may swallow the SystemExit of the handler, as Python does within __del__. So the signal is
            # looked at again.
            self._stop_if_asked()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def resume(self, model: keras.Model, report: Callable[[str], Any] = print) -> int:
        """Load the newest complete checkpoint, if there is one, into a compiled model.

        Returns:
            The number of steps done, 0 if there is no checkpoint.

        Raises:
            ValueError: naming the variables that are missing, left over or of another shape.
        """
        # The moments exist only then, and each array of the checkpoint needs its variable.
        model.optimizer.build(model.trainable_variables)
        found = checkpoints.load_newest(self.folder, report)
        if found is None:
            return 0
        self.step, note, arrays = found
        self.note = note or {}
        self.saved = self.step
        # The metrics of an interrupted interval can be restored only once `fit` has created them.
        self.metrics = {name: arrays.pop(name) for name in list(arrays) if name.startswith("metrics/")}
        model_state.restore(
            model_state.variables_of(model), arrays, f"The checkpoint of step {self.step} in {self.folder}"
        )
        return self.step

    def on_epoch_begin(self, epoch, logs=None):
        self.training = True
        self.before = self.step
        variables = self._metric_variables()
        # Where the model now has other metrics, the interval begins with new ones.
        if self.metrics and {name: v.shape for name, v in self.metrics.items()} == {
            name: tuple(v.shape) for name, v in variables.items()
        }:
            for name, variable in variables.items():
                variable.assign(self.metrics[name])
        self.metrics = {}

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.before + batch + 1  # an execution may be of several steps
        if (
            # Several hosts agree at the end of an epoch only.
            self.signal is not None and self.devices.hosts == 1 and batch + 1 != self.params.get("steps")
        ):  # at the end of an interval, its line is logged first
            # On JAX `fit` keeps the values apart from the model's variables within an epoch.
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()
            # With the metrics, so that after the restart the means of the interval are those of all its steps.
            self.save(within=True)
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        due = (
            time.monotonic() - self.ended >= self.cost / SHARE
            if self.every is None
            else self.step - self.saved >= self.every
        )
        if due:
            self.save()
        # Every host must ask in every epoch: a collective that one of them leaves out hangs the others.
        if self.devices.any_host(self.signal is not None):
            self.signal = self.signal or signal.SIGTERM
        self._stop_if_asked()

    def save(self, within=False):
        """Write a checkpoint now; `within` an epoch, with its metrics.

        Raises:
            FloatingPointError: if a weight or the optimizer's state is not finite. No checkpoint is written then.
        """
        began = time.monotonic()
        variables = {**model_state.variables_of(self.model), **(self._metric_variables() if within else {})}
        arrays = {name: distribution.to_numpy(variable) for name, variable in variables.items()}
        _check_finite(
            {name: array for name, array in arrays.items() if not name.startswith("metrics/")},
            self.step,
            self.saved,
            self.advice,
        )
        try:
            if self.devices.host == 0:
                self.write(arrays)
        except (OSError, MemoryError) as error:
            self._say_that_it_failed(error)
        else:
            self.saved = self.step
            if self.failing:
                _say(f"a checkpoint could be saved again, at step {self.step}")
            self.failing = False
        self.ended = time.monotonic()
        self.cost = self.ended - began

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Write a checkpoint of these arrays. An OSError is reported, and the run goes on."""
        note = {**self.note, "log": self.log.state()} if self.log else self.note
        checkpoints.save(self.folder, self.step, arrays, note, keep_every=self.keep_every, report=_say)

    @contextlib.contextmanager
    def finishing(self):
        """Guard the writing of the final files. If it fails, print one line and exit with status 75."""
        try:
            yield
        except Exception as error:
            if not (cause := failed_write(error)):
                raise
            state = (
                f"the last checkpoint, of step {self.saved}, is in {self.folder}"
                if self.saved
                else "no checkpoint could be saved either"
            )
            _say(
                f"The results could not be written: {cause}; {state}. {remedy(cause)} Then run the same command again."
            )
            raise SystemExit(STATUS) from error

    def _say_that_it_failed(self, error):
        """Report a failure to save: once in a row of failures, and always if the run ends with it."""
        if not self.failing or self.signal is not None:
            last = f"the last is of step {self.saved}" if self.saved else "there is none yet"
            _say(f"no checkpoint at step {self.step} in {self.folder}: {error}; {last}. {remedy(error)}")
        self.failing = True

    def _metric_variables(self):
        return {f"metrics/{i}": variable for i, variable in enumerate(self.model.metrics_variables)}

    def _on_signal(self, number, frame):
        now = time.monotonic()
        if self.signal is not None and now - self.asked < SAME:
            return
        # A second signal, or one before the first step, does not wait for the end of a step.
        if self.signal is not None or not self.training:
            self.signal = number
            self._stop()
        self.signal, self.asked = number, now
        _say(f"{signal.Signals(number).name}: stopping after this step")

    def _stop_if_asked(self):
        if self.signal is not None:
            if self.saved < self.step:
                self.save()
            self._stop()

    def _stop(self):
        name = signal.Signals(self.signal).name
        _say(f"stopped by {name}, saved at step {self.saved}; the same command goes on from there")
        raise SystemExit(STATUS)


def stopping_signals() -> list[signal.Signals]:
    """List the signals that ask a run to stop, except those that are ignored."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def failed_write(error):
    """Find the OSError behind an error, which a library may have wrapped; None if there is none."""
    if isinstance(error, ValueError):  # bad input, not a failed write
        return None
    while error is not None and not (isinstance(error, OSError) and error.errno):
        error = error.__cause__ or error.__context__
    return error


def remedy(error: BaseException) -> str:
    """Write a sentence that says what to do about an error in writing."""
    # EDQUOT: the user's quota is used up. EFBIG: larger than the file system or the shell's limit allows.
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "Make room on that disk." if full else "Check that folder and its permissions."


def _say(line):
    """Print a line, also within a signal handler. If the terminal is gone, as after SIGHUP, only the line is lost."""
    # RuntimeError: the signal came in the middle of another print. ValueError: stdout is closed.
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        print(line, flush=True)


def _check_finite(arrays, step, saved, advice):
    bad = next(
        (name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()), None
    )
    if bad:
        raise FloatingPointError(
            f"Expected a finite state after step {step}, received NaN or infinity in {bad}; it is not saved, and the"
            f" run stops. The checkpoint of step {saved} is the last. {advice}"
        )
