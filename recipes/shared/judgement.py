"""The end of fine-tuning: how good the classifier is on images that it was not trained on, in numbers and pictures."""

import math
import shlex

from absl import flags

from recipes.shared import children, screen, validation

FLAGS = flags.FLAGS
LISTED = 20  # classes whose recall is printed


def finish(run, model, sets, judged, measure, steps):
    """Evaluate the model, and write result.json, pictures, the report and the model.

    Args:
        run: the `workdir.Run`.
        model: a trained `Classifier`.
        sets: the `Splits`.
        judged: images and labels of `sets.judged`.
        measure: the `Validation` of the run.
        steps: steps of the run.
    """
    import numpy as np

    from keras_splitmask import evaluation
    from keras_splitmask.data.counting import counted

    images, labels = judged
    names = model.class_names or [str(i) for i in range(model.classes)]
    scores = validation.scores_of(model, images)
    # Of the training images: the class that one would guess without looking at the others.
    trained = np.bincount(sets.train.labels, minlength=model.classes)
    commonest = int(trained.argmax())
    metrics = evaluation.classification_metrics(labels, scores.argmax(axis=1), model.classes, commonest)
    counts = np.bincount(labels, minlength=model.classes)
    recall = {name: float(value) for name, value in zip(names, metrics["recall"], strict=True)}
    result = {
        f"{sets.split}_top1": metrics["top1"],
        "balanced_accuracy": metrics["balanced_accuracy"],
        "commonest_class_top1": metrics["commonest_class_top1"],
        "commonest_class": names[commonest],
        f"commonest_{sets.split}_class": names[counts.argmax()],
        f"commonest_{sets.split}_class_top1": float(counts.max() / len(labels)),
        "train_images": len(sets.train),
        f"{sets.split}_images": len(images),
        **_best(run, sets.split, judged, measure),
        "steps": steps,
        "seed": FLAGS.seed,
        "classes": model.class_names,
        "recall": {name: value for name, value in recall.items() if not math.isnan(value)},
    }
    _show(result, sets.split, labels, metrics["recall"], names, always(names, trained, counts, sets.split))
    _draw(run, metrics["confusion"], images, labels, scores, names, sets.split)
    run.write_json("result.json", result)
    run.write_report()
    run.save_model(model)
    run.show_files()
    if missing := sets.judged.left_out:  # said at the start, too, but that may be hours ago
        name, reason = next(iter(missing.items()))
        print(f"without   {counted(len(missing), 'file')} of {sets.split}, such as {name} ({reason})", flush=True)
    if not children.is_child():  # reproduce.py says what comes next
        _show_next(run)


def _best(run, split, judged, measure):
    """What best.keras is worth, by names of result.json; nothing if there is none."""
    from keras_splitmask.interchange import load_model

    if not measure.best:
        return {}
    images, labels = judged
    scores = validation.scores_of(load_model(run.folder / validation.BEST), images)
    best = {"best_val_accuracy": measure.best[0], "best_step": measure.best[1]}
    return {**best, f"best_{split}_top1": float((scores.argmax(axis=1) == labels).mean())}


def always(names, trained, counts, split):
    """Say what one gets by always naming a class: the commonest of the images to evaluate on, and that in training.

    Args:
        names: names of the classes.
        trained: (classes,) the numbers of training images.
        counts: (classes,) the numbers of images to evaluate on.
        split: the name of their split.
    """
    import numpy as np

    def called(numbers):
        return "one of the commonest classes" if (numbers == numbers.max()).sum() > 1 else "the commonest class"

    guess = int(np.where(trained == trained.max(), counts, -1).argmax())  # of a tie the one that gives most
    best = guess if counts[guess] == counts.max() else int(counts.argmax())
    gives = f"gives {counts[best] / counts.sum():.2%}"
    if best != guess:
        other = f"{names[guess]!r}, {called(trained)} in training, {counts[guess] / counts.sum():.2%}"
        return f"always naming {names[best]!r}, {called(counts)} in {split}, {gives}; {other}"
    where = f"{called(trained)} in training"
    if split != "train":
        again = "" if called(counts) == called(trained) else f"{called(counts)} "
        where += f" and {again}in {split}"
    return f"always naming {names[best]!r}, {where}, {gives}"


def _show(result, split, labels, recall, names, trivial):
    import numpy as np

    top1 = result[f"{split}_top1"]
    print(
        f"{split} top-1 {top1:.2%}, balanced accuracy {result['balanced_accuracy']:.2%}; {trivial}",
        flush=True,
    )
    if "best_step" in result:
        print(
            f"{validation.BEST}, of step {result['best_step']} by its accuracy on val of"
            f" {result['best_val_accuracy']:.2%}: {split} top-1 {result[f'best_{split}_top1']:.2%}",
            flush=True,
        )
    counts = np.bincount(labels, minlength=len(names))
    shown = np.flatnonzero(counts)
    if len(shown) > LISTED:
        print(f"recall of the {LISTED} worst of {len(shown)} classes; result.json has all:", flush=True)
        shown = shown[np.argsort(recall[shown], kind="stable")][:LISTED]
    width = max(len(names[i]) for i in shown)
    for i in shown:
        print(f"{names[i]:<{width}}  recall {recall[i]:6.1%} of {counts[i]}", flush=True)


def _draw(run, confusion, images, labels, scores, names, split):
    """Draw the confusion matrix and the mistakes; without matplotlib print what to install."""
    from keras_splitmask import evaluation
    from keras_splitmask.backend.optional import optional
    from keras_splitmask.data.counting import counted

    try:
        optional("matplotlib", "report")
    except ImportError as error:
        print(f"no pictures of confusions and mistakes: {error}", flush=True)
        return
    path = run.file("pictures/confusion.png")
    evaluation.save_confusion(path, confusion, names, f"{split}, {counted(len(images), 'image')}")
    print(f"picture   {path}", flush=True)
    path = run.file("pictures/mistakes.png")
    if evaluation.save_mistakes(path, images, labels, scores, names, title=f"{split}: "):
        print(f"picture   {path}", flush=True)
    else:
        print(f"no mistakes on {split}, so no picture of them", flush=True)


def _show_next(run):
    """Print commands that run, for what usually comes next."""
    images = "sample" if FLAGS.dataset == "sample" else "NEW_IMAGES"
    given = f"--init_from={shlex.quote(str(run.home))}"
    next_to = shlex.quote(f"{run.home}-predictions")
    print(f"next      {screen.program('predict')} {given} --images={images} --output={next_to}", flush=True)
    print(
        f"          {screen.program('export')} {given} --output={shlex.quote(f'{run.home}-exported')}",
        flush=True,
    )
