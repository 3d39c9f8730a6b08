"""Messages about a run in trouble: why a step was skipped, and which of the recipe's flags may help."""

from absl import flags

from recipes.shared import event_files, workdir

FLAGS = flags.FLAGS


def advice():
    """Write a sentence of advice for a run that diverged."""
    start = "Skip the next data with --rewind=1000, or start" if "rewind" in FLAGS else "Start"
    return f"{start} again in another --workdir with a lower --learning_rate or a longer --warmup."


def remedies():
    """Write a sentence of advice for each problem of `training.hints`, by its name."""
    pack = ", or pack the images once with --cache" if "cache" in FLAGS and not FLAGS.cache else ""
    found = {
        "data": f"Raise --workers{pack}.",
        "divergence": "Lower --learning_rate or raise --warmup.",
        "collapse": (
            f"Lower --learning_rate{' or --temperature' if _given('temperature') else ''}, or raise --batch_size."
        ),
    }
    if _given("tokenizer"):
        others = [f"--tokenizer={name}" for name in ("kmeans", "random_patches") if name != FLAGS.tokenizer]
        found["words"] = f"Try {' or '.join(others)}."
    return found


def _given(name):
    return name in FLAGS and FLAGS[name].value is not None


def log(run, model, source, batches, steps, checkpoints, measures=(), shift=0, repeats=1, batch_size=None):
    """Create the `RunLog` of a run, which resumes from the state in the checkpoints. It names the cause and the images
    of each skipped step.

    Args:
        run: the `workdir.Run`.
        model: a compiled `ObjectiveModel`.
        source: the images of `batches(start)`, which returns the batches from a step on.
        steps: number of steps of the whole run.
        checkpoints: the `Checkpoints` of the run.
        measures: see `RunLog`.
        shift: steps by which the data are ahead, from --rewind.
        repeats: times that each image appears in a batch, see `data.batches`.
        batch_size: images per step; by default as --batch_size says.
    """
    import keras_splitmask as ks
    from keras_splitmask import data

    batch_size = batch_size or FLAGS.batch_size

    def explain(step):
        # The batch of that step is read again, since its images follow from the number of the step.
        tensor = model.first_bad_tensor(next(iter(batches(step - 1))), step - 1) or "its loss or gradient"
        names = data.names_of(source, batch_size, FLAGS.seed, step - 1 + shift, repeats)
        return (
            f"step {step} skipped: {tensor} is not finite; its images:"
            f" {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        )

    options = {"advice": advice(), "remedies": remedies(), "state": checkpoints.note.get("log")}
    options["loggers"] = event_files.loggers(run, checkpoints.step)
    checkpoints.log = ks.training.RunLog(
        run.folder / workdir.METRICS,
        steps,
        batch_size,
        len(source),
        checkpoints.step,
        measures,
        explain,
        **options,
    )
    return checkpoints.log
