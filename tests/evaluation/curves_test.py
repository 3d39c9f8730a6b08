import re

import numpy as np
import pytest

from keras_splitmask.evaluation import curves, report
from keras_splitmask.evaluation.metric_names import label_of


def run(names, steps=30):
    return [{"step": 10 * (i + 1), "seconds": 6 * i, **{n: 1 / (i + 2) for n in names}} for i in range(steps)]


def contrast(one, other):
    """As in the Web Content Accessibility Guidelines 2, from 1 to 21."""
    lights = []
    for colour in (one, other):
        shares = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        lights.append(linear @ (0.2126, 0.7152, 0.0722))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_colours_are_seen_on_both_backgrounds():
    backgrounds = re.findall(r"--page:(#\w+)", report.STYLE)
    assert len(backgrounds) == 2
    for background in (colour if len(colour) == 7 else f"#{colour[1:] * 2}" for colour in backgrounds):
        for colour in curves.COLOURS:
            assert contrast(colour, background) >= 3, (colour, background)


def test_every_metric_is_drawn_in_one_chart_in_a_colour_of_its_own():
    names = [name for _, _, metrics in curves.CHARTS for name in metrics.split()]
    assert len(set(names)) == len(names)
    drawn = curves.charts({"one": run(names)})
    assert [title for title, _ in drawn] == [title for title, _, _ in curves.CHARTS]
    for (_, _, metrics), (_, svg) in zip(curves.CHARTS, drawn, strict=True):
        legend = [f"{label_of(name)} " for name in metrics.split()]
        assert all(f">{label}" in svg for label in legend), legend
        colours = set(re.findall(r"stroke: (#\w+)", svg)) & set(curves.COLOURS)
        assert len(colours) == len(legend)


def test_a_chart_has_axes_units_ticks_and_the_colour_of_the_page():
    ((title, svg),) = curves.charts({"one": run(["knn_accuracy"], 40)})
    assert title == "Accuracy" and ">%<" in svg and ">step<" in svg and "kNN accuracy 2.4 %" in svg
    assert {"100", "200", "300", "400"} <= set(re.findall(r">(\d+)</text>", svg))
    assert "currentColor" in svg and curves.TEXT not in svg and "white" not in svg and "#ffffff" not in svg
    assert svg.startswith("<svg viewBox=") and ' id="figure_1"' not in svg
    ((_, over_time),) = curves.charts({"one": run(["knn_accuracy"], 40)}, "seconds")
    assert ">minutes<" in over_time and ">3</text>" in over_time and ">400<" not in over_time


def test_runs_share_a_chart_for_each_metric():
    drawn = dict(curves.charts({"a": run(["loss", "match_loss"]), "_b$": run(["loss"])}))
    assert list(drawn) == ["Loss", "Match loss"]
    assert ">a 0.0" in drawn["Loss"] and ">b$ 0.0" in drawn["Loss"] and ">b$" not in drawn["Match loss"]
    colours = [re.search(r"stroke: (#2b83ba|#d55e00)", svg)[1] for svg in drawn.values()]
    assert colours == ["#2b83ba", "#2b83ba"]  # the first run has one colour in all charts


def test_long_runs_are_smoothed_and_the_raw_curve_stays_visible():
    ((_, svg),) = curves.charts({"one": run(["gradient_norm"], 200)})
    assert len(re.findall(r"stroke: #2b83ba", svg)) == 3  # raw, smoothed, and in the legend
    ((_, short),) = curves.charts({"one": run(["gradient_norm"], 5)})
    assert "stroke-opacity: 0.35" in svg and "stroke-opacity: 0.35" not in short


def test_no_measurements_are_no_charts():
    assert curves.charts({"one": []}) == curves.charts({"one": [{"step": 0}], "two": []}) == []


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match="Run: pip install matplotlib"):
        curves.charts({"one": run(["loss"])})
