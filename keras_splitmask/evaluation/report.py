"""Write a run on one page: its curves, pictures and flags, in one HTML file without other files."""

import base64
import html
import json
import pathlib

# Curves that share a chart, and what it is called.
CHARTS = (
    (
        "Loss",
        (
            "loss",
            "inpaint_loss",
            "match_loss",
            "box_loss",
            "class_loss",
            "proposal_loss",
            "mask_loss",
            "auxiliary_loss",
        ),
    ),
    (
        "Accuracy",
        (
            "inpaint_accuracy",
            "match_accuracy",
            "knn_accuracy",
            "accuracy",
            "train_accuracy",
            "val_accuracy",
            "test_accuracy",
        ),
    ),
    ("Average precision", ("ap", "ap50", "mask_ap")),
    ("Label maps", ("mean_iou", "pixel_accuracy")),
    ("Perplexity of the words", ("word_perplexity",)),
    ("Spread of the features (1 is even, 0 collapsed)", ("feature_std",)),
    ("Gradient norm", ("gradient_norm",)),
    ("Learning rate", ("learning_rate",)),
    ("Images per second", ("images_per_second",)),
)
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7a4988", "#b07d0e", "#1f8a8a", "#8c5a3c", "#5f6b7a")
WIDTH, HEIGHT = 420, 170

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:1320px;margin:2em auto;padding:0 1em;color:#222}}
.charts{{display:flex;flex-wrap:wrap;gap:1.5em}}figure{{margin:0}}figcaption{{font-weight:600}}svg{{background:#f7f7f5}}
pre{{background:#f7f7f5;padding:1em;overflow-x:auto}}img{{max-width:100%}}</style>
<h1>{title}</h1><p>{summary}</p><div class="charts">{charts}</div>{result}{pictures}
<h2>Flags</h2><pre>{flags}</pre></html>
"""


def read_metrics(path):
    """Read the lines of a metrics.jsonl as dictionaries; skip broken lines and those without a step."""
    lines = []
    for text in pathlib.Path(path).read_text(errors="replace").splitlines():
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and "step" in values:
            lines.append(values)
    return lines


def write_report(workdir):
    """Write report.html into a run folder, from its metrics.jsonl, run.flags, pictures and optional result.json."""
    workdir = pathlib.Path(workdir)
    lines = read_metrics(workdir / "metrics.jsonl") if (workdir / "metrics.jsonl").is_file() else []
    last = lines[-1] if lines else {}
    shown = ("step", "epoch", "loss", "inpaint_accuracy", "match_accuracy", "knn_accuracy", "accuracy", "seconds")
    pictures = "".join(
        f'<h2>{html.escape(path.stem)}</h2><img alt="{html.escape(path.stem)}"'
        f' src="data:image/png;base64,{_base64(path)}">'
        for path in sorted((workdir / "pictures").glob("*.png"))
    )
    page = PAGE.format(
        title=html.escape(workdir.resolve().name),
        summary=", ".join(f"{name} {last[name]:g}" for name in shown if name in last),
        charts="".join(_chart(title, names, lines) for title, names in CHARTS),
        result=_result(workdir / "result.json"),
        pictures=pictures,
        flags=html.escape((workdir / "run.flags").read_text(encoding="utf-8", errors="replace")),
    )
    aside = workdir / "report.html.part"
    try:
        aside.write_text(page, encoding="utf-8", errors="replace")
        aside.replace(workdir / "report.html")
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _result(path):
    """The numbers of a result.json, a line each; nothing if there is no such file."""
    if not path.exists():
        return ""
    try:
        numbers = {
            name: value for name, value in json.loads(path.read_text()).items() if isinstance(value, (int, float))
        }
    except (ValueError, AttributeError):  # another program's file of that name
        return ""
    lines = "\n".join(f"{name:<24}{value:.4g}" for name, value in numbers.items())
    return f"<h2>Result</h2><pre>{html.escape(lines)}</pre>"


def _base64(path):
    return base64.b64encode(path.read_bytes()).decode()


def _chart(title, names, lines):
    """Curves over steps as an SVG figure; nothing if no line has any of them."""
    curves = {name: [(line["step"], line[name]) for line in lines if name in line] for name in names}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    values = [value for points in curves.values() for _, value in points]
    low, high = min(values), max(values)
    last_step = max(step for points in curves.values() for step, _ in points) or 1

    def point(step, value):
        fraction = (value - low) / (high - low) if high > low else 0.5
        return f"{8 + step / last_step * (WIDTH - 16):.1f},{HEIGHT - 10 - fraction * (HEIGHT - 20):.1f}"

    drawn, legend = "", []
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        drawn += (
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"'
            f' points="{" ".join(point(*p) for p in points)}"/>'
        )
        legend.append(f'<span style="color:{colour}">{name} {points[-1][1]:.4g}</span>')
    axis = f"{low:.4g} to {high:.4g} over {last_step} steps"
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{title},'
        f' {axis}">{drawn}</svg><br>{", ".join(legend)}<br>'
        f"<small>{axis}</small></figure>"
    )
