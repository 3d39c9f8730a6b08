"""The accuracy of a classifier on images that it is not trained on, while it trains and at the end."""

from absl import flags

from recipes.shared import fitting

FLAGS = flags.FLAGS
BEST = "best.keras"
BATCH = 64  # images at a time, which need less memory than a training step on a few
TIMES = 10  # of a run in which the accuracy is measured, about, and at most
PER_TRAINED = 0.75  # images evaluated for each one trained on, at most: a fifth of the time, without gradients


def scores_of(model, images):
    """Predict the probabilities (B, classes) float32 of images (B, H, W, C)."""
    import numpy as np

    logits = model.predict(images, batch_size=BATCH, verbose=0).astype("float64")
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (scores / scores.sum(axis=1, keepdims=True)).astype("float32")


def steps_between(steps, images):
    """The steps from one measurement on this many images to the next: a multiple of --log_every, or the whole run."""
    times = min(TIMES, int(PER_TRAINED * steps * FLAGS.batch_size / images))
    every = fitting.interval(steps)
    return max(1, steps // times // every) * every if times > 1 else steps


def times(steps, images):
    """How often the accuracy on this many images is measured in a run of this many steps."""
    return -(-steps // steps_between(steps, images))


class Validation:
    """Measure the accuracy some `TIMES` times in a run, for a `RunLog`; optionally keep the best model as best.keras.

    Args:
        run: the `workdir.Run`.
        model: a `Classifier`.
        images, labels: what to evaluate on.
        split: its name, for the log: val gives val_accuracy.
        steps: steps of the run.
        keep: whether to save the model each time that its accuracy is the highest so far.

    Attributes:
        best: (accuracy, step) of the saved model; None if there is none.
    """

    def __init__(self, run, model, images, labels, split, steps, keep):
        self.run = run
        self.model = model
        self.images = images
        self.labels = labels
        self.name = f"{split}_accuracy"
        self.steps = steps
        self.every = steps_between(steps, len(images))
        self.keep = keep
        self.best = None

    def resume(self, lines):
        """Take the best model from the lines of metrics.jsonl up to the step where the run resumes."""
        for line in lines if self.keep and self.run.has(BEST) else ():
            self._is_better(line.get(self.name), line["step"])

    def __call__(self, step):
        """The accuracy by its name if it is time to measure it, or nothing."""
        if not step or (step % self.every and step < self.steps):
            return {}
        accuracy = float((scores_of(self.model, self.images).argmax(axis=1) == self.labels).mean())
        accuracy = float(f"{accuracy:.6g}")  # as metrics.jsonl has it, so that a resumed run compares the same numbers
        if self.keep and self._is_better(accuracy, step):
            self.run.save_model(self.model, BEST)
        return {self.name: accuracy}

    def _is_better(self, accuracy, step):
        better = accuracy is not None and (self.best is None or accuracy > self.best[0])
        if better:
            self.best = accuracy, step
        return better
