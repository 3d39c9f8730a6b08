"""Draw the curves of one run or of several as SVG, for a page with a light or a dark background."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence

from keras_splitmask.backend.optional import optional
from keras_splitmask.evaluation import metrics
from keras_splitmask.evaluation.metric_names import label_of
from keras_splitmask.evaluation.sheets import save_figure

# Title, unit and metrics of each chart. The unit "%" is for fractions.
CHARTS = (
    (
        "Loss",
        "loss",
        "loss inpaint_loss match_loss box_loss class_loss proposal_loss mask_loss auxiliary_loss",
    ),
    (
        "Accuracy",
        "%",
        "inpaint_accuracy match_accuracy knn_accuracy accuracy train_accuracy val_accuracy test_accuracy",
    ),
    ("Average precision", "%", "ap ap50 mask_ap"),
    ("Label maps", "%", "mean_iou pixel_accuracy"),
    ("Visual words in use", "perplexity", "word_perplexity"),
    ("Spread of the features", "1 is even, 0 collapsed", "feature_std"),
    ("Gradient norm", "norm", "gradient_norm"),
    ("Learning rate", "rate", "learning_rate"),
    ("Speed", "images per second", "images_per_second"),
    ("Time spent waiting for data", "%", "data_wait_fraction"),
)
AXES = {"step": ("step", 1.0), "seconds": ("minutes", 1 / 60)}
# Each has a contrast of at least 3 with both backgrounds of the page.
COLOURS = ("#2b83ba", "#d55e00", "#009e73", "#b35c9e", "#9a7d0a", "#7f7f7f", "#8c6bd0", "#b0563a")
TEXT = "#010203"  # becomes the colour of the page's text
WIDTH, HEIGHT = 4.4, 2.2  # inches of the axes with their labels
SMALL = 8.5  # points; the page's font may be wider than the one the layout is made for
ROW = 0.19  # inches of a row of the legend
MEMORY = 0.03  # of the run, over which a curve is smoothed


def charts(runs: Mapping[str, Sequence[dict]], axis: str = "step") -> list[tuple[str, str]]:
    """Draw the curves of runs.

    Args:
        runs: dictionary, from the name of a run to its lines, see `read_metrics`. With one run, a chart has a curve of
            each of its metrics. With several, each metric has a chart, with a curve of each run.
        axis: "step" or "seconds", which is shown in minutes.

    Returns:
        List of (title, SVG) pairs of strings. Metrics that no run has are omitted.

    Raises:
        ImportError: without matplotlib.
    """
    drawn = []
    for title, unit, listed in CHARTS:
        names = listed.split()
        if len(runs) == 1:
            ((_, lines),) = runs.items()
            groups = {title: [(label_of(name), name, lines) for name in names]}
        else:
            groups = {}
            for name in names:
                head = title if len(names) == 1 else label_of(name)
                groups[head.capitalize() if head.islower() else head] = [
                    (run, name, lines) for run, lines in runs.items()
                ]
        for head, curves in groups.items():
            # Numbered before empty curves are left out, so that a run has one colour in all charts.
            placed = [(place, *curve) for place, curve in enumerate(curves)]
            measured = [curve for curve in placed if len(metrics.series(curve[3], curve[2], axis)[0])]
            if measured:
                drawn.append((head, _chart(head, unit, measured, axis)))
    return drawn


def _chart(title, unit, curves, axis):
    """Draw one chart of (place, label, metric, lines) each; `place` decides the colour."""
    label, factor = AXES[axis]
    percent = 100 if unit == "%" else 1
    shown = [_short(text) for _, text, _, _ in curves]
    columns = 2 if max(map(len, shown)) < 18 else 1
    rows = -(-len(curves) // columns)
    height = HEIGHT + 0.1 + ROW * rows
    figure = _figure(WIDTH, height)
    bottom = (height - HEIGHT + 0.42) / height
    axes = figure.add_axes((0.195, bottom, 0.785, 1 - bottom - 0.06 / height))
    for (place, _, name, lines), text in zip(curves, shown, strict=True):
        positions, weights, values = metrics.series(lines, name, axis)
        newest = metrics.newest(lines, name) * percent
        # With more curves than colours, the second round is dashed.
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": "-" if place < len(COLOURS) else "--"}
        style["label"] = f"{text} {newest:.1f} %" if percent == 100 else f"{text} {newest:.4g}"
        marker = "o" if len(values) < 12 else None
        # A measurement at a step is no noisy mean of steps, so it is not smoothed.
        if name in metrics.AT_A_STEP or len(values) < 12:
            axes.plot(positions * factor, values * percent, marker=marker, markersize=3, linewidth=1.6, **style)
        else:
            axes.plot(positions * factor, values * percent, color=style["color"], linewidth=0.8, alpha=0.35)
            mean = metrics.smoothed(weights, values, max(1.0, MEMORY * lines[-1]["step"]))
            axes.plot(positions * factor, mean * percent, linewidth=1.6, **style)
    _dress(axes, label, unit)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="lower left",
        ncol=columns,
        frameon=False,
        bbox_to_anchor=(0.06, 0),
        labelcolor=TEXT,
        borderpad=0,
        handlelength=1.4,
        labelspacing=0.25,
        fontsize=SMALL,
    )
    return _svg(figure, title)


def _dress(axes, label, unit):
    ticker = optional("matplotlib.ticker", "report")
    axes.set_xlabel(label, color=TEXT, labelpad=2)
    axes.set_ylabel(unit, color=TEXT, labelpad=3)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=(1, 2, 2.5, 5, 10), integer=label == "step"))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    axes.grid(color="#808080", alpha=0.25, linewidth=0.6)
    axes.tick_params(colors=TEXT, length=3, labelsize=SMALL)
    # The background is the page's, light or dark.
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(TEXT)
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:.6g}")  # no factor above the axis


def _figure(width, height):
    """Create a figure that no window and no other figure shares."""
    optional("matplotlib", "report")
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    return figure


def _svg(figure, title):
    """Write a figure as an `<svg>` element that fits the width of its parent and has the colour of its text."""
    import matplotlib

    file = io.StringIO()
    # Text stays text, in the font of the page. By the salt and without a date, equal runs give equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        save_figure(figure, file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue()
    # Without the head of an XML file, which may not stand within a page.
    text = text[text.index("<svg") :].replace(TEXT, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<g) id="[^"]*"', r"\1", text)  # another figure of the page has the same
    box = re.search(r'viewBox="[^"]*"', text)[0]
    return re.sub(r"<svg[^>]*>", f'<svg {box} role="img" aria-label="{html.escape(title)}">', text, count=1)


def _short(name, longest=34):
    """Shorten a name for a legend. A dollar sign would begin a formula, and an underscore hide the curve."""
    name = name if len(name) <= longest else f"…{name[1 - longest :]}"
    return name.replace("$", r"\$").lstrip("_")
