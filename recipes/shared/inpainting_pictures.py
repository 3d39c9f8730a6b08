"""Pictures of what a model inpaints: the same few images during pre-training, and a larger one at its end."""

import functools

from absl import flags

from recipes.shared import writing

FLAGS = flags.FLAGS
PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the run, after which the images are drawn: most changes early
FEW = 4  # images
FOLDER = "pictures/over_time"


class InpaintingPictures:
    """Draw images while a model learns: call it with the number of steps done, at the end of each interval of the log.

    A picture is drawn at the end of the interval in which a part of the run ends, so a run that resumes draws what it
    would have drawn. No random number of the run is used.

    Args:
        run: the `workdir.Run`.
        model: a model that `evaluation.has_picture`.
        source: the training images.
        probe: (images, labels) to draw at the end, or None.
        steps: number of steps of the whole run.
    """

    def __init__(self, run, model, source, probe, steps):
        self.run = run
        self.model = model
        self.source = source
        self.probe = probe
        self.steps = steps

    @functools.cached_property
    def few(self):
        """The images (B, H, W, C) uint8 that are drawn while the model learns. They do not depend on flags that may
        change when the run resumes."""
        from keras_splitmask import data

        reader = data.Reader(self.source, self.model.encoder.image_shape, FEW)
        return reader[range(len(reader))]

    def __call__(self, step):
        """Write a picture of this step if it is due: pictures/over_time/step-NUMBER.png, and beside it what does not
        change. If it cannot be written, a line says so, and the run goes on."""
        from keras_splitmask import evaluation

        if not is_due(step, self.steps, FLAGS.log_every):
            return
        try:
            fixed, predicted = evaluation.inpainting_strips(self.model, self.few)
            for name, strip in {**fixed, f"step-{step:010d}": predicted}.items():
                self._save(f"{FOLDER}/{name}.png", strip)
        except OSError as error:
            print(f"no picture of step {step}: {error.strerror or error}; the run goes on without it", flush=True)

    def _save(self, name, strip):
        from PIL import Image

        path = self.run.file(name)
        with writing.aside(path, f"{path.name}.part") as part:
            Image.fromarray(strip).save(part, format="PNG")

    def finish(self):
        """Write the picture at the end of the run: --pictures images, evenly spread over the probe or drawn from the
        source, with both parts and what each predicts."""
        from keras_splitmask import data, evaluation

        shape = self.model.encoder.image_shape
        images, _ = self.probe or data.read_all(self.source, shape, limit=FLAGS.pictures)
        images = images[:: max(1, len(images) // FLAGS.pictures)][: FLAGS.pictures]
        path = self.run.file(f"pictures/inpainting_{FLAGS.tokenizer or FLAGS.method}.png")
        evaluation.save_inpainting(path, self.model, images)
        print(f"picture   {path}", flush=True)


def is_due(step, steps, interval):
    """Return whether one of `PARTS` of a run of `steps` ends in the interval of the log that ends at `step`."""
    before = (step - 1) // interval * interval
    return step > 0 and any(before < max(1, round(part * steps)) <= step for part in PARTS)
