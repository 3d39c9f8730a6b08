"""Log a run: a line on the screen and a line of metrics.jsonl per interval."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_splitmask.training.hints import hints
from keras_splitmask.training.metrics_file import MetricsFile

ADVICE = "Lower the learning rate or lengthen the warm-up."  # for a run that diverged; a program names its flags


class RunLog(keras.callbacks.Callback):
    """Each Keras epoch is one logging interval: print it, and append it to `path` as a line of JSON.

    Args:
        path: file to append to, or None. Lines that cannot be written are kept until they can be.
        steps: steps of the whole run.
        batch_size: images per step.
        images: images of the training set, to count epochs with.
        start: steps done before; lines of the file about later steps are removed.
        measures: functions of the number of steps done that return more values by name, or None.
        patience: largest number of steps in a row that may be skipped.
        advice: a sentence that says what to do then.
        remedies: sentences that say what to do about the hints; see `hints`.
        explain: a function of the number of a skipped step, from 1 on, that returns a line about its cause.
        state: the result of `state()` at step `start`. Default: as the file says.
        loggers: functions that are called with each new line, a dictionary, besides.

    Raises:
        FloatingPointError: in `fit`, if no loss or no gradient was finite in `patience` steps in a row, or in more than
            half of the run up to its end.
    """

    def __init__(
        self,
        path,
        steps,
        batch_size,
        images,
        start=0,
        measures=(),
        explain=None,
        patience=20,
        advice=ADVICE,
        remedies=None,
        state=None,
        loggers=(),
    ):
        super().__init__()
        self.steps = steps
        self.batch_size = batch_size
        self.images = images
        self.step = start
        self.measures = measures
        self.explain = explain
        self.patience = patience
        self.advice = advice
        self.remedies = remedies or {}
        self.loggers = loggers
        self.start = start
        self.file = MetricsFile(path, start) if path else None
        self.past = self.file.past if self.file else []
        self.earlier = self.past[-1].get("seconds", 0.0) if self.past else 0.0
        state = state or (self.past[-1] if self.past else {})
        self.skipped = state.get("skipped_steps", 0)  # up to the last interval
        self.counted = state.get("counted", 0)  # of the interval that an earlier process began
        self.lost_since = state.get(
            "lost_since"
        )  # first of the steps in a row, up to now, without a finite loss and gradient
        self.batches = []
        self.began = None
        self.waited = 0.0  # seconds of this interval
        self.measured = True

    def timed(self, batches: Iterable, measured: bool = True) -> Iterator[tuple]:
        """Yield the batches for `fit` as tuples, and measure how long `fit` waits for them.

        The time is not measured if another thread takes the batches."""
        self.measured = measured
        iterator = iter(batches)
        while True:
            began = time.monotonic()
            batch = next(iterator, None)
            self.waited += time.monotonic() - began
            if batch is None:
                return
            yield batch if isinstance(batch, tuple) else (batch,)

    def on_train_begin(self, logs=None):
        self.began = self.began or time.monotonic()
        # The measures of the untrained encoder, which those that follow are compared with.
        if self.step == 0 and not self.past:
            self._write({"step": 0, "epoch": 0.0, **self._measure()})

    def on_epoch_begin(self, epoch, logs=None):
        self.interval_began = time.monotonic()
        self.step_before = self.step
        self.batches = []
        self.waited = 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.step_before + batch + 1  # one execution may have several steps
        self.batches.append((self.step, logs))  # read at the end of the interval only: reading waits for the device

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self.interval_began
        values = {name: float(value) for name, value in (logs or {}).items()}
        # Rounded: with several replicas it is a sum of fractions.
        skipped = round(values.pop("skipped_steps", 0))
        self._stop_if_lost(skipped, values["loss"])
        self.skipped += skipped
        self.batches, self.counted = [], 0
        if self.step >= self.steps and self.skipped >= self.steps:
            raise FloatingPointError(
                f"Expected a finite loss and gradient, received none in all {self.steps} steps; nothing was learnt."
                f" {self.advice}"
            )
        if skipped >= self.step - self.step_before:
            values = {}  # no step was valid, so there are no means
        values["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        values["images_per_second"] = (self.step - self.step_before) * self.batch_size / seconds
        if self.measured:
            values["data_wait_fraction"] = min(1.0, self.waited / seconds)
        values["seconds"] = self.earlier + time.monotonic() - self.began
        # After the speed, since the measures take time of their own.
        values.update(self._measure())
        if self.skipped:
            values["skipped_steps"] = self.skipped
        self._write({"step": self.step, "epoch": round(self.step * self.batch_size / self.images, 3), **values})

    def _stop_if_lost(self, skipped, loss):
        """Report the skipped steps of this interval. Stop the run if too many are, or no loss is finite."""
        if not skipped and math.isfinite(loss):
            self.lost_since = None
            return
        explained = self.counted
        for step, lost, total in self._steps():
            if lost and self.explain and not explained:
                print(self.explain(step), flush=True)
            self.lost_since = (self.lost_since or step) if lost else None
            explained = total
        in_a_row = self.step - self.lost_since + 1 if self.lost_since else 0
        # A short run may end before `patience` is reached, so losing its second half is enough.
        to_the_end = self.step >= self.steps > self.skipped + skipped and 2 * in_a_row > self.steps
        if not math.isfinite(loss) or in_a_row >= self.patience or to_the_end:
            raise FloatingPointError(
                f"Expected a finite loss and gradient, received none from step {self.lost_since} on; the run stops at"
                f" step {self.step}. {self.advice}"
            )

    def _steps(self):
        """Yield for each step of this interval its number, whether it was skipped, and how many were skipped so far."""
        before = self.counted
        for step, logs in self.batches:
            total = int(logs.get("skipped_steps", 0))
            yield step, total > before or not math.isfinite(float(logs["loss"])), total
            before = total

    def state(self) -> dict[str, Any]:
        """Return the state for the log of a process that resumes after this step, as JSON."""
        state = {"skipped_steps": self.skipped, "lost_since": self.lost_since, "counted": self.counted}
        for step, lost, total in self._steps():
            state |= {"lost_since": (state["lost_since"] or step) if lost else None, "counted": total}
        return state

    def close(self) -> None:
        """End the log: try again to write the lines that could not be written, and say how many are lost."""
        if self.file:
            self.file.close()

    def _measure(self):
        values = {}
        for measure in self.measures:
            values.update(measure(self.step) or {})
        return values

    def _write(self, values):
        # JSON has neither NaN nor infinity.
        values = {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        (self.file or self.past).append(rounded)
        for logger in self.loggers:
            logger(rounded)
        print(self._line(values), flush=True)
        for line in hints(self.past, self.remedies):
            print(f"  {line}", flush=True)

    def _line(self, values):
        shown = [f"step {values['step']}/{self.steps}"]
        for name, label, form in (
            ("loss", "loss", ".3f"),
            ("inpaint_accuracy", "inpainted", ".1%"),
            ("match_accuracy", "matched", ".1%"),
            ("accuracy", "accuracy", ".1%"),
            ("train_accuracy", "train accuracy", ".1%"),
            ("val_accuracy", "val accuracy", ".1%"),
            ("test_accuracy", "test accuracy", ".1%"),
            ("word_perplexity", "words", ".0f"),
            ("knn_accuracy", "kNN", ".1%"),
            ("images_per_second", "", ".0f"),
            ("skipped_steps", "SKIPPED", "d"),
        ):
            if name in values:
                shown.append(f"{label} {values[name]:{form}}".strip() + (" images/s" if not label else ""))
        if self.step > self.start:
            done = time.monotonic() - self.began
            # By the speed of this process only: an earlier one may have run on another machine.
            left = done / (self.step - self.start) * (self.steps - self.step)
            shown.append(f"{int(left // 60)} min {int(left % 60):02d} s left")
        return "  ".join(shown)
