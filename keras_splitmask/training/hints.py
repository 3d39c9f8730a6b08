"""Known failures, told from the numbers of a run, one line each: collapse, one word for all, waiting for data, divergence."""


def hints(past):
    """Lines for the screen about the newest interval.

    Args:
        past: list of dictionaries, the lines of metrics.jsonl from the first to the newest.

    Returns:
        List of strings, empty as long as all is well. A failure is told when it begins, and not again while it lasts.
    """
    return [line for name, line in KNOWN.items() if _met(name, past) and not _met(name, past[:-1])]


KNOWN = {
    "collapse": "collapse: the features hardly differ between images. Lower the learning rate or the temperature, or raise the batch size.",
    "words": "one word dominates: most patches have the same visual word. Try --tokenizer=kmeans, or random_patches.",
    "data": "waiting for data: most of the time goes into reading images. Raise --workers, or pack the images once with --cache.",
    "divergence": "diverging: the loss has risen above where it began. Lower the learning rate or lengthen the warm-up.",
}


def _met(name, past):
    if not past:
        return False
    now = past[-1]
    if name == "collapse":  # 1 where the features are spread evenly over the sphere
        return now.get("feature_std", 1.0) < 0.05
    if name == "words":
        return now.get("word_perplexity", 100.0) < 3
    if name == "data":
        return now.get("data_wait_fraction", 0.0) > 0.5
    losses = [values["loss"] for values in past if "loss" in values]
    return "loss" in now and len(losses) > 1 and losses[-1] > 1.2 * losses[0]
