"""Recognise known failures by the metrics of a run: collapse, one dominant word, waiting for data, divergence."""

from __future__ import annotations

KNOWN = {
    "collapse": "collapse: the features hardly differ between images.",
    "words": "one word dominates: most patches have the same visual word.",
    "data": "waiting for data: most of the time goes into reading images.",
    "divergence": "diverging: the loss has risen above where it began.",
}
REMEDIES = {
    "collapse": "Lower the learning rate, or raise the batch size.",
    "words": "Try another tokenizer.",
    "data": "Read them with more workers, or pack them once.",
    "divergence": "Lower the learning rate or lengthen the warm-up.",
}


def hints(past: list[dict], remedies: dict[str, str] | None = None) -> list[str]:
    """Lines for the screen about the newest interval.

    Args:
        past: list of dictionaries, the lines of metrics.jsonl from the first to the newest.
        remedies: sentences by the names in `KNOWN` that replace those of `REMEDIES`; a program names its flags in them.

    Returns:
        List of strings, empty as long as all is well. A failure is named when it begins, and not again while it lasts.
    """
    remedies = {**REMEDIES, **(remedies or {})}
    return [
        f"{line} {remedies[name]}" for name, line in KNOWN.items() if _met(name, past) and not _met(name, past[:-1])
    ]


def _met(name, past):
    if not past:
        return False
    now = past[-1]
    # What a method does not log is taken as healthy.
    if name == "collapse":  # 1 where the features are spread evenly over the sphere
        return now.get("feature_std", 1.0) < 0.05
    if name == "words":
        return now.get("word_perplexity", 100.0) < 3
    if name == "data":
        return now.get("data_wait_fraction", 0.0) > 0.5
    losses = [values["loss"] for values in past if "loss" in values]
    return "loss" in now and len(losses) > 1 and losses[-1] > 1.2 * losses[0]
