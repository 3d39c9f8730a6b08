import numpy as np
import pytest

from keras_splitmask.evaluation import verdict


def run(name, values, every=1000, **more):
    return [{"step": every * (i + 1), name: float(value), **more} for i, value in enumerate(values)]


FALLING = np.linspace(5, 3, 20)
LEVEL = [5, 4, 3.2, 3.05, *[3.0] * 16]
ACCURACY = {"test_top1": 0.5, "commonest_class_top1": 0.2, "commonest_class": "dog"}

COMMON = {"commonest_test_class_top1": 0.495, "commonest_test_class": "cat"}


@pytest.mark.parametrize(
    "rule, lines, flags, result, kind, words",
    [
        ("diverged", run("loss", [5, 4, 9]), {}, {}, "bad", "rose from 5 to 9"),
        ("diverged", run("loss", FALLING), {}, {}, None, ""),
        ("skipped", run("loss", [5, 4], skipped_steps=7), {}, {}, "bad", "7 of 2000 steps"),
        ("skipped", run("loss", [5, 4]), {}, {}, None, ""),
        ("collapsed", run("feature_std", [0.9, 0.01]), {}, {}, "bad", "spread 0.010"),
        ("collapsed", run("feature_std", [0.01, 0.9]), {}, {}, None, ""),
        ("few_words", run("word_perplexity", [200, 100]), {"vocabulary": "8192"}, {}, "note", "100 equally common"),
        ("few_words", run("word_perplexity", [200, 2]), {"vocabulary": "16"}, {}, "bad", "as many as 2"),
        ("few_words", run("word_perplexity", [200, 100]), {"vocabulary": "256"}, {}, None, ""),
        ("few_words", run("word_perplexity", [200, 100]), {}, {}, None, ""),
        ("few_steps", run("feature_std", [0.9], 60), {}, {}, "bad", "Too few steps: 60"),
        ("few_steps", run("feature_std", [0.9], 900), {}, {}, None, ""),  # as the quickstart
        ("few_steps", run("train_accuracy", [0.9], 60), {}, {}, None, ""),
        ("worth", [], {}, ACCURACY, "good", "50.0% of the test images are classified correctly. Always naming dog"),
        ("worth", [], {}, {**ACCURACY, "test_top1": 0.2}, "bad", "nothing learnt"),
        ("worth", [], {}, {"test_top1": 0.2}, None, ""),
        ("worth", [], {}, {**ACCURACY, **COMMON}, "bad", "nothing learnt. Always naming cat would give 49.5%."),
        ("trend", run("loss", FALLING), {}, {}, "good", "More steps would pay"),
        ("trend", run("loss", LEVEL), {}, {}, "note", "Levelled off"),
        ("trend", run("loss", LEVEL, 30, feature_std=0.9), {}, {}, None, ""),  # the rule `few_steps` says it
        ("trend", run("loss", FALLING, 30, feature_std=0.9), {}, {}, None, ""),
        ("few_steps", run("feature_std", [0.9], 60), {"steps": "900"}, {}, None, ""),  # it is not at its end
        ("few_steps", run("feature_std", [0.9], 60), {"steps": "445"}, {}, "bad", "Too few steps: 445"),
        ("not_at_its_end", run("loss", [5], 66), {"steps": "1445"}, {}, "note", "Unfinished: step 66 of 1,445."),
        ("not_at_its_end", run("loss", [5], 66), {"steps": "66"}, {}, None, ""),
        ("not_at_its_end", run("loss", [5], 66, epoch=2.2), {"epochs": "10.0"}, {}, "note", "step 66 of 300."),
        ("not_at_its_end", run("loss", [5], 66, epoch=2.199), {"epochs": "2.2"}, {}, None, ""),
        ("not_at_its_end", run("loss", [5], 66, epoch=0), {"epochs": "2.2"}, {}, None, ""),
        ("trend", run("loss", LEVEL[::-1]), {}, {}, None, ""),  # the rule `diverged` says it
        ("trend", run("val_accuracy", np.linspace(0.5, 0.2, 10)), {}, {}, "bad", "did not improve"),
        ("trend", run("loss", [5, 4]), {}, {}, None, ""),
        ("overfit", run("train_accuracy", [0.9], val_accuracy=0.5), {}, {}, "note", "90.0% of the training images"),
        ("overfit", run("train_accuracy", [0.6], val_accuracy=0.5), {}, {}, None, ""),
        ("never_found", [], {}, {"recall": {"a": 0.0, "b": 0.5}}, "note", "1 of 2 classes are never recognised: a."),
        ("never_found", [], {}, {"recall": {"b": 0.5}}, None, ""),
    ],
)
def test_a_rule_says_what_it_sees_and_nothing_else(rule, lines, flags, result, kind, words):
    found = getattr(verdict, rule)(lines, flags, result)
    assert (found and found[0]) == kind
    assert kind is None or words in found[1]
    assert all(getattr(verdict, other.__name__)([], {}, {}) is None for other in verdict.RULES)


def test_a_short_last_interval_does_not_decide_but_is_what_is_named():
    lines = [*run("train_accuracy", [0.9], 100, val_accuracy=0.5), {"step": 101, "train_accuracy": 0.6}]
    assert "Overfit: 60.0% of the training images" in verdict.overfit(lines, {}, {})[1]


def test_time_is_weighed_by_its_length():
    long = [{"step": 1, "seconds": 90, "data_wait_fraction": 0.6}, {"step": 2, "seconds": 100, "data_wait_fraction": 0}]
    assert verdict.waited(long, {}, {}) == ("bad", verdict.waited(long, {}, {})[1])
    assert "54% of the time" in verdict.waited(long, {}, {})[1]
    short = [{"step": 1, "seconds": 10, "data_wait_fraction": 0.9}, {"step": 2, "seconds": 99, "data_wait_fraction": 0}]
    assert verdict.waited(short, {}, {}) is None


def test_neighbours_are_compared_with_those_before_training():
    assert verdict.neighbours(run("knn_accuracy", [0.2, 0.5]), {}, {}) is None  # not measured before training
    lines = [{"step": 0, "knn_accuracy": 0.3}, {"step": 9, "knn_accuracy": 0.45}]
    assert verdict.neighbours(lines, {}, {}) == (
        "good",
        "The features have learnt: nearest neighbours classify 45.0%, 30.0% before training.",
    )
    lines[1]["knn_accuracy"] = 0.305
    assert verdict.neighbours(lines, {}, {})[0] == "bad"


def test_what_is_bad_comes_first():
    lines = [line | {"feature_std": 0.01} for line in run("loss", FALLING)]
    assert [kind for kind, _ in verdict.judge(lines)] == ["bad", "good"]
    assert verdict.judge([]) == [("note", "There are too few measurements to judge.")]


def test_too_few_steps_are_not_said_to_be_enough():
    for losses in (LEVEL, FALLING, np.geomspace(5, 3, 20)):
        ((kind, text),) = verdict.judge(run("loss", losses, 30, feature_std=0.9))
        assert kind == "bad" and text.startswith("Too few steps: 600.")
