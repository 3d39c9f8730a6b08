"""A run that can end at any moment: checkpoints while it goes on, and one more when it is asked to stop."""

import contextlib
import signal
import time

import keras
import numpy as np

from keras_splitmask.training import checkpoints, distribution

STATUS = 75  # EX_TEMPFAIL: "try again", as schedulers read it
SHARE = 0.02  # of the time that checkpoints may take when nobody says how often to save


class Checkpoints(keras.callbacks.Callback):
    """Saves the state of `fit` at the ends of epochs, and at once on SIGTERM and SIGINT, of which it makes exit status 75.

    Args:
        folder: of the checkpoints.
        start: steps done before.
        every: steps between checkpoints, which are made at the ends of epochs; None for as many as fit in 2% of the time.
        keep_every: keep those of every so many steps; else the last two.
        note: anything that JSON can hold, to be kept with each.
        devices: `distribution.Devices`. Of several hosts the first saves, and all stop together, at the end of an epoch.
    """

    def __init__(self, folder, start=0, every=None, keep_every=None, note=None, devices=None):
        super().__init__()
        self.folder = folder
        self.step = self.saved = start
        self.every = every
        self.keep_every = keep_every
        self.note = note
        self.devices = devices or distribution.Devices()
        self.cost = 0.0  # seconds of the last checkpoint
        self.ended = time.monotonic()
        self.metrics = {}
        self.training = False
        self.signal = None

    @contextlib.contextmanager
    def listening(self):
        """Within it, SIGTERM and SIGINT save and end the run: at the end of a step once `fit` has begun, before that at once."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
            self._stop_if_asked()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def resume(self, model, report=print):
        """Give a compiled model the state of the newest whole checkpoint, if there is one.

        Returns:
            The number of steps done, 0 if there is no checkpoint.

        Raises:
            ValueError: naming each variable that is missing, left over or of another shape.
        """
        model.optimizer.build(model.trainable_variables)
        found = checkpoints.load_newest(self.folder, report)
        if found is None:
            return 0
        self.step, self.note, arrays = found
        self.saved = self.step
        # The metrics of an interval that was cut off are made when `fit` begins.
        self.metrics = {name: arrays.pop(name) for name in list(arrays) if name.startswith("metrics/")}
        checkpoints.restore(checkpoints.variables_of(model), arrays)
        return self.step

    def on_epoch_begin(self, epoch, logs=None):
        self.training = True
        self.before = self.step
        variables = self._metrics()
        if self.metrics and {name: v.shape for name, v in self.metrics.items()} == {name: tuple(v.shape) for name, v in variables.items()}:
            for name, variable in variables.items():
                variable.assign(self.metrics[name])
        self.metrics = {}

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.before + batch + 1  # an execution may be of several steps
        if self.signal is not None and self.devices.hosts == 1 and batch + 1 != self.params.get("steps"):  # else the interval has its line first
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()
            self.save(within=True)
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        due = time.monotonic() - self.ended >= self.cost / SHARE if self.every is None else self.step - self.saved >= self.every
        if due:
            self.save()
        if self.devices.any(self.signal is not None):
            self.signal = self.signal or signal.SIGTERM
        self._stop_if_asked()

    def save(self, within=False):
        """Write a checkpoint of now; `within` an epoch, with its metrics.

        Raises:
            FloatingPointError: if a weight or the optimizer's state is not finite, of which no checkpoint is made.
        """
        began = time.monotonic()
        variables = {**checkpoints.variables_of(self.model), **(self._metrics() if within else {})}
        arrays = {name: distribution.to_numpy(variable) for name, variable in variables.items()}
        _check_finite({name: array for name, array in arrays.items() if not name.startswith("metrics/")}, self.step, self.saved)
        try:
            if self.devices.host == 0:
                checkpoints.save(self.folder, self.step, arrays, self.note, keep_every=self.keep_every)
            self.saved = self.step
        except OSError as error:
            print(f"no checkpoint at step {self.step}: {error}; the one of step {self.saved} is whole. Make room in {self.folder}.", flush=True)
        self.ended = time.monotonic()
        self.cost = self.ended - began

    def _metrics(self):
        return {f"metrics/{i}": variable for i, variable in enumerate(self.model.metrics_variables)}

    def _on_signal(self, number, frame):
        if self.signal is not None or not self.training:
            self.signal = number
            self._stop()
        self.signal = number
        print(f"{signal.Signals(number).name}: stopping after this step", flush=True)

    def _stop_if_asked(self):
        if self.signal is not None:
            if self.saved < self.step:
                self.save()
            self._stop()

    def _stop(self):
        name = signal.Signals(self.signal).name
        print(f"stopped by {name}, saved at step {self.saved}; the same command goes on from there", flush=True)
        raise SystemExit(STATUS)


def _check_finite(arrays, step, saved):
    bad = next((name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()), None)
    if bad:
        raise FloatingPointError(
            f"Expected a finite state after step {step}, received NaN or infinity in {bad}; it is not saved, and the run stops. The checkpoint "
            f"of step {saved} is the last. Try a lower learning rate or a longer warm-up; or other data, with --rewind=1000."
        )
