import pytest

from keras_splitmask.training.hints import KNOWN, REMEDIES, hints

GOOD = {"step": 1, "loss": 2.0, "feature_std": 0.8, "word_perplexity": 200.0, "data_wait_fraction": 0.1}


def names(past):
    return [name for name, line in KNOWN.items() if f"{line} {REMEDIES[name]}" in hints(past)]


def test_no_hint_while_all_is_well():
    assert hints([]) == [] and hints([{"step": 0, "epoch": 0.0}]) == [] and hints([GOOD] * 3) == []


@pytest.mark.parametrize(
    ("name", "well", "bad"),
    [
        ("collapse", {"feature_std": 0.051}, {"feature_std": 0.049}),
        ("words", {"word_perplexity": 3.0}, {"word_perplexity": 2.9}),
        ("data", {"data_wait_fraction": 0.5}, {"data_wait_fraction": 0.51}),
        ("divergence", {"loss": 2.39}, {"loss": 2.41}),
    ],
)
def test_a_failure_is_reported_once_when_it_begins(name, well, bad):
    well, bad = {**GOOD, **well}, {**GOOD, **bad}
    assert names([GOOD, well]) == []
    assert names([GOOD, bad]) == [name]
    assert names([GOOD, bad, bad]) == []
    assert names([GOOD, bad, well, bad]) == [name]


def test_several_at_once_and_a_line_each():
    lines = hints([GOOD, {**GOOD, "feature_std": 0.0, "loss": 9.0}])
    assert [line.split(":")[0] for line in lines] == ["collapse", "diverging"] and not any(
        "\n" in line for line in lines
    )


def test_a_program_says_what_to_do_in_its_own_words():
    bad = [GOOD, {**GOOD, "data_wait_fraction": 1.0, "word_perplexity": 1.0}]
    assert [line.split(".", 1)[1] for line in hints(bad, {"data": "Raise --workers."})] == [
        " Try another tokenizer.",
        " Raise --workers.",
    ]
    assert not any("--" in line for line in (*KNOWN.values(), *REMEDIES.values()))


def test_an_interval_of_skipped_steps_has_no_loss_and_is_no_divergence():
    assert hints([GOOD, {"step": 2, "skipped_steps": 5}]) == []
    assert names([GOOD, {"step": 2}, {**GOOD, "loss": 9.0}]) == ["divergence"]
