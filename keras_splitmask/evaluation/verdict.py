"""Say in plain words how a run went, from its metrics: rules that each look at one thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_splitmask.evaluation.metrics import latest, mean_between, newest, planned_steps, series, unfinished

Judgement = tuple[str, str]  # "good", "bad" or "note", and a sentence or two
GOOD, BAD, NOTE = "good", "bad", "note"
FEW_STEPS = 800  # of pre-training: 500 taught nothing on 1,562 photographs, 800 and 900 gained points in docs/sample.md
PAYING_STEPS = 1_500  # for equal minutes: 1,027 were behind training from scratch, 1,507 ahead (docs/results.md)
FEW_UPDATES = 500  # with labels: fewer than finetune takes by itself
COLLAPSED = 0.05  # spread of the features, which is 1 where they are even
FEW_WORDS = 0.05  # of the vocabulary
WAITED = 0.25  # of the time
DIVERGED = 1.2  # times the first loss
STILL, LEVEL = 0.08, 0.03  # fraction of the whole change that the last quarter of a run brought
GAP = 0.2  # between the accuracy on the training images and on others
VALIDATED = ("val_accuracy", "test_accuracy")


def judge(
    lines: Sequence[dict], flags: Mapping[str, str] | None = None, result: Mapping[str, Any] | None = None
) -> list[Judgement]:
    """Judge a run. Rules go by `latest`, but name the numbers that the log and the curves end with.

    Args:
        lines: list of dictionaries, see `read_metrics`.
        flags: dictionary of the run's flags, as strings.
        result: dictionary of the run's result.json.

    Returns:
        List of pairs: "good", "bad" or "note", and a sentence or two. What is bad comes first.
    """
    judged = [rule(lines, flags or {}, result or {}) for rule in RULES]
    found = [pair for pair in judged if pair]
    order = (BAD, GOOD, NOTE)
    return sorted(found, key=lambda pair: order.index(pair[0])) or [(NOTE, "There are too few measurements to judge.")]


def not_at_its_end(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """The run has steps left."""
    where = unfinished(lines, flags)
    return (NOTE, f"Unfinished: {where}. The command that began it resumes it.") if where else None


def diverged(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """The loss rose above where it began."""
    _, _, losses = series(lines, "loss")
    end = latest(lines, "loss")
    # `> 0`: 1.2 times a negative loss would be less than the loss.
    if len(losses) > 1 and end is not None and end > DIVERGED * losses[0] > 0:
        return BAD, (
            f"Diverged: the loss rose from {losses[0]:.3g} to {losses[-1]:.3g}. Lower the learning rate or lengthen the"
            " warm-up."
        )
    return None


def skipped(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """Steps had no finite loss or gradient."""
    count = lines[-1].get("skipped_steps", 0) if lines else 0
    if count:
        return BAD, f"{count} of {lines[-1]['step']} steps were skipped, since their loss or gradient was not finite."
    return None


def collapsed(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """The features hardly differ between images."""
    spread = latest(lines, "feature_std")
    if spread is not None and spread < COLLAPSED:
        end = newest(lines, "feature_std")
        return BAD, (
            f"Collapsed: the features hardly differ between images (spread {end:.3f}, where 1 is even). Lower the"
            " learning rate, or raise the batch size."
        )
    return None


def few_words(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """Few visual words are in use."""
    words, vocabulary = latest(lines, "word_perplexity"), flags.get("vocabulary", "")
    if words is None or not vocabulary.isdigit() or words >= max(3.0, FEW_WORDS * int(vocabulary)):
        return None
    end = newest(lines, "word_perplexity")
    return BAD if words < 3 else NOTE, (
        f"Few words are in use: as many as {end:.0f} equally common ones of {int(vocabulary):,}. Another tokenizer,"
        " or a smaller vocabulary, describes these images better."
    )


def waited(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """Training waited for the data."""
    seconds, _, fractions = series(lines, "data_wait_fraction", "seconds")
    if len(seconds) < 2:
        return None
    # Weighted by their seconds: the first intervals, with the compilation, are longer than the others.
    lengths = [max(0.0, now - before) for before, now in zip([0.0, *seconds], seconds, strict=False)]
    share = sum(f * n for f, n in zip(fractions, lengths, strict=True)) / (sum(lengths) or 1)
    if share > WAITED:
        return BAD, (
            f"Data-bound: {share:.0%} of the time went into waiting for images. Read them with more workers, or pack"
            " them once."
        )
    return None


def few_steps(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """Pre-training was too short to teach much."""
    steps = max(lines[-1]["step"], planned_steps(lines, flags) or 0) if lines else 0
    if 0 < steps < FEW_STEPS and any("feature_std" in line for line in lines):
        return BAD, f"Too few steps: {steps:,}. Fewer than {FEW_STEPS:,} often teach little. More steps would pay."
    return None


def neighbours(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """Nearest neighbours classify better or no better than before training."""
    steps, _, values = series(lines, "knn_accuracy")
    # Without a measurement before the first step there is nothing to compare with.
    if len(values) < 2 or steps[0]:
        return None
    first, last = values[0], values[-1]
    if last > first + 0.01:
        return GOOD, f"The features have learnt: nearest neighbours classify {last:.1%}, {first:.1%} before training."
    return BAD, (
        f"The features tell classes apart no better than before training: nearest neighbours classify {last:.1%},"
        f" {first:.1%} before."
    )


def trend(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """The run was still improving at its end, or had levelled off."""
    names = (*VALIDATED, "mean_iou", "ap", "loss")
    name = next((name for name in names if len(series(lines, name)[0]) >= 8), None)
    if name is None:
        return None
    # The middles of the last two parts lie a quarter of the run apart.
    first, before, last = (mean_between(lines, name, *part) for part in ((0, 0.15), (0.6, 0.75), (0.85, 1)))
    if first is None or before is None or last is None:
        return None
    gain, late = (first - last, before - last) if name == "loss" else (last - first, last - before)
    word = "loss" if name == "loss" else name.replace("_", " ")
    if gain <= 0:
        return None if name == "loss" and last > DIVERGED * first else (BAD, f"The {word} did not improve.")
    if few_steps(lines, flags, result):
        return None  # it says enough, and advises more steps
    if late > STILL * gain:
        return GOOD, (
            f"Still improving: {late / gain:.0%} of what the {word} gained came in the last quarter. More steps would"
            " pay."
        )
    if late < LEVEL * gain:
        if lines[-1]["step"] < FEW_UPDATES:
            return None  # the learning rate falls to its end in every run, so a flat end of a short one says nothing
        return NOTE, (
            f"Levelled off: the {word} hardly changed in the last quarter. More steps alone would bring little."
        )
    return NOTE, f"Improving slowly: {late / gain:.0%} of what the {word} gained came in the last quarter."


def overfit(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """A classifier knows its training images far better than others."""
    trained = latest(lines, "train_accuracy")
    others = next((latest(lines, name) for name in VALIDATED if latest(lines, name) is not None), None)
    if trained is not None and others is not None and trained > others + GAP:
        end = newest(lines, "train_accuracy")
        return NOTE, (
            f"Overfit: {end:.1%} of the training images are classified correctly, {others:.1%} of others. More"
            " images, more augmentation or fewer steps help."
        )
    return None


def worth(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """A classifier is better or no better than always naming the commonest class."""
    # The trained model's: best_ is of another model, commonest_ of none.
    split, top1 = next(
        (
            (key.removesuffix("_top1"), value)
            for key, value in result.items()
            if key.endswith("_top1") and not key.startswith(("best_", "commonest_"))
        ),
        (None, None),
    )
    # The commonest class of the evaluated images, which gives most, or else that of the training images.
    own = f"commonest_{split}_class" if f"commonest_{split}_class_top1" in result else "commonest_class"
    trivial = result.get(f"{own}_top1")
    if top1 is None or trivial is None:
        return None
    other = f"Always naming {result.get(own, 'the commonest class')} would give {trivial:.1%}."
    if top1 <= trivial + 0.01:
        return BAD, f"{top1:.1%} of the {split} images are classified correctly, which is nothing learnt. {other}"
    return GOOD, f"{top1:.1%} of the {split} images are classified correctly. {other}"


def never_found(lines: Sequence[dict], flags: Mapping[str, str], result: Mapping[str, Any]) -> Judgement | None:
    """A classifier never recognises some classes."""
    recall = result.get("recall")
    if not isinstance(recall, dict):
        return None
    missed = [name for name, value in recall.items() if value == 0]
    if missed:
        more = " and others" if len(missed) > 5 else ""
        return NOTE, f"{len(missed)} of {len(recall)} classes are never recognised: {', '.join(missed[:5])}{more}."
    return None


# Of verdicts of one kind, the page has this order.
RULES = (
    not_at_its_end,
    diverged,
    skipped,
    collapsed,
    few_words,
    waited,
    few_steps,
    neighbours,
    worth,
    trend,
    overfit,
    never_found,
)
