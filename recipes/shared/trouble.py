"""What a recipe says of a run in trouble: the cause of a step that was skipped, and what to do, by the flags that the
recipe has."""

from absl import flags

from recipes.shared import workdir

FLAGS = flags.FLAGS


def advice():
    """What to do after a run that diverged, in a sentence."""
    start = "Go on with other data by --rewind=1000; or start" if "rewind" in FLAGS else "Start"
    return f"{start} again in another --workdir with a lower --learning_rate or a longer --warmup."


def remedies():
    """What to do about what `training.hints` finds: sentences by its names."""
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


def log(run, model, source, batches, steps, checkpoints, measures=(), shift=0, repeats=1):
    """The `RunLog` of a run that goes on from its checkpoints, which keep its state; it names the cause and the images
    of steps that were skipped.

    Args:
        run: the `workdir.Run`.
        model: a compiled `ObjectiveModel`.
        source: what `batches(start)`, the batches from a step on, are of.
        steps: of the whole run.
        checkpoints: those that the run saves.
        measures: see `RunLog`.
        shift, repeats: how many steps further the data are, and how many times in a row an image comes up; see
            `data.batches`.
    """
    import keras_splitmask as ks
    from keras_splitmask import data

    def explain(step):
        tensor = model.first_bad_tensor(next(iter(batches(step - 1))), step - 1) or "its loss or gradient"
        names = data.names_of(source, FLAGS.batch_size, FLAGS.seed, step - 1 + shift, repeats)
        return (
            f"step {step} skipped: {tensor} is not finite; its images:"
            f" {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        )

    options = {"advice": advice(), "remedies": remedies(), "state": checkpoints.note.get("log")}
    checkpoints.log = ks.training.RunLog(
        run.folder / workdir.METRICS,
        steps,
        FLAGS.batch_size,
        len(source),
        checkpoints.step,
        measures,
        explain,
        **options,
    )
    return checkpoints.log
