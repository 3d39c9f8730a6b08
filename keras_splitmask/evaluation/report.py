"""Write a run on one page, or several beside each other: an HTML file that needs no other files."""

from __future__ import annotations

import base64
import html
import json
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from keras_splitmask.evaluation import curves
from keras_splitmask.evaluation.metric_names import label_of, text_of
from keras_splitmask.evaluation.metrics import kind_of, newest, read_metrics, unfinished
from keras_splitmask.evaluation.verdict import judge

TITLES = {
    "confusion": "Confusion matrix",
    "mistakes": "Mistakes",
    "feature_map": "Map of the features",
    "neighbours": "Nearest neighbours",
    "detections": "Detections",
    "inpainting": "Inpainting at the end",
}
TILES = ("step", "epoch", "loss", *(f"{of}_accuracy" for of in "inpaint match knn train val test".split()), "seconds")
LISTED = 50  # files that are named with the reason why they were left out
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head>
<body><main><h1>{title}</h1>
{body}
</main></body></html>
"""
STYLE = """
:root{color-scheme:light dark;--text:#1d2125;--page:#fff;--card:#f4f5f6;--line:#d5d9dd;--good:#0a7a4b;--bad:#c0392b}
@media(prefers-color-scheme:dark){:root{--text:#e4e7ea;--page:#16181b;--card:#212429;--line:#3a3f45;--good:#4cc38a;
--bad:#ff8573}}
*{box-sizing:border-box}body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page)}
main{max-width:1360px;margin:auto;padding:1em;overflow-wrap:break-word}h1{overflow-wrap:anywhere}
h1{font-size:1.6em;margin:.3em 0}h2{font-size:1.2em;margin:1.6em 0 .5em}
.tiles,.charts,.columns{display:grid;gap:.8em;grid-template-columns:repeat(auto-fill,minmax(min(8.5em,100%),1fr))}
.charts,.columns{grid-template-columns:repeat(auto-fill,minmax(min(24em,100%),1fr));gap:1.2em}
.tiles div{background:var(--card);border-radius:.4em;padding:.4em .7em;font-size:.85em}
.tiles b{display:block;font-size:1.35em;font-weight:600}
ul.verdict{list-style:none;padding:0}.verdict li{margin:.4em 0;padding:.3em .8em;border-left:.3em solid var(--line)}
.verdict .good{border-color:var(--good)}.verdict .bad{border-color:var(--bad)}
figure{margin:0}figcaption{font-weight:600}svg{width:100%;height:auto;display:block}
img{max-width:max(100%,44em);height:auto;background:#fff;border-radius:.3em}.picture{overflow-x:auto}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.15em .5em;border-bottom:1px solid var(--line)}
td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.strips{display:grid;gap:.6em;grid-template-columns:repeat(auto-fill,minmax(min(6.5em,29%),1fr))}
.strips figcaption{font-weight:400;font-size:.85em;text-align:center}.strips img{width:100%;max-width:9em;margin:auto;
display:block}
.scroll{max-height:26em;overflow:auto}meter{width:100%;min-width:6em}
pre{background:var(--card);padding:.8em;border-radius:.4em;white-space:pre-wrap;font-size:.85em}
"""


def write_report(
    workdir: str | os.PathLike, report: Callable[[str], Any] = print, output: str | os.PathLike | None = None
) -> None:
    """Write report.html into a run folder, from its metrics.jsonl, data.json, result.json, pictures and run.flags.

    Files that are missing or unreadable are omitted. Without matplotlib there are no curves, and `report` is called
    with a line that says what to install. `output` is another path to write to.
    """
    workdir = pathlib.Path(workdir)
    _write(pathlib.Path(output or workdir / "report.html"), workdir.resolve().name, _sections(workdir, report))


def write_comparison(
    path: str | os.PathLike, workdirs: Iterable[str | os.PathLike], report: Callable[[str], Any] = print
) -> None:
    """Write a page with the curves of several runs over steps and over minutes, their results and their flags.

    Args:
        path: the HTML file.
        workdirs: folders of the runs.
        report: called with a line if matplotlib is missing.
    """
    workdirs = [pathlib.Path(folder) for folder in workdirs]
    runs = {name: _lines(folder) for name, folder in zip(_names(workdirs), workdirs, strict=True)}
    numbers = [_numbers(folder, lines) for folder, lines in zip(workdirs, runs.values(), strict=True)]
    body = [_side_by_side("Results", runs, numbers)]
    flags = [_flags(folder) for folder in workdirs]
    kinds = dict(zip(runs, map(kind_of, flags), strict=True))
    for axis, title in (("step", "Over steps"), ("seconds", "Over minutes")):
        for kind in dict.fromkeys(kinds.values()):
            # A run of another kind keeps its place, and so its colour.
            drawn = {name: lines if kinds[name] == kind else [] for name, lines in runs.items()}
            head = title if len(set(kinds.values())) == 1 else f"{kind}: {title.lower()}"
            body.append(_curves(drawn, axis, head, report if axis == "step" else lambda line: None))
    differing = {name for some in flags for name in some if len({one.get(name) for one in flags}) > 1}
    differing -= {"workdir"}  # it differs in all runs
    flags = [{name: some[name] for name in some if name in differing} for some in flags]
    body.append(_side_by_side("Flags that differ", runs, flags))
    _write(pathlib.Path(path), f"{len(runs)} runs compared", "\n".join(body))


def _write(path, title, body):
    """Write a page completely or not at all."""
    aside = path.with_name(f"{path.name}.part")
    try:
        page = PAGE.format(title=html.escape(title), style=STYLE, body=body)
        aside.write_text(page, encoding="utf-8", errors="replace")  # file names may have characters that UTF-8 lacks
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _sections(workdir, report):
    lines, flags, result = _lines(workdir), _flags(workdir), _json(workdir / "result.json")
    shown = _last_values(lines, flags)
    tiles = "".join(f"<div>{html.escape(label_of(name))}<b>{text}</b></div>" for name, text in shown.items())
    judged = "".join(f'<li class="{kind}">{html.escape(text)}</li>' for kind, text in judge(lines, flags, result))
    two_views = flags.get("views") == "2"  # in training, unlike in the pictures
    path = workdir / "run.flags"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(
        [
            f'<div class="tiles">{tiles}</div>',
            f'<h2>Verdict</h2><ul class="verdict">{judged}</ul>',
            _curves({workdir.name: lines}, "step", "Curves", report),
            _results(result),
            _over_time(workdir / "pictures" / "over_time", ", from one part of the image" * two_views),
            _pictures(workdir / "pictures", ", both parts of one view" * two_views),
            _data(_json(workdir / "data.json")),
            f"<h2>Flags</h2><pre>{html.escape(text)}</pre>",
        ]
    )


def _curves(runs, axis, title, report):
    try:
        drawn = curves.charts(runs, axis)
    except ImportError as error:
        line = f"There are no curves: {error}"
        report(line)
        return f"<h2>{title}</h2><p>{html.escape(line)}</p>"
    figures = "".join(f"<figure><figcaption>{html.escape(head)}</figcaption>{svg}</figure>" for head, svg in drawn)
    return f'<h2>{title}</h2><div class="charts">{figures}</div>' if drawn else ""


def _results(result):
    """The numbers of a result.json as tables: those of the whole, and those of each class."""
    numbers = {name: value for name, value in result.items() if _is_number(value) and "/" not in name}
    classes = {"recall": result["recall"]} if isinstance(result.get("recall"), dict) else {}
    for name, value in result.items():
        metric, _, label = name.partition("/")  # as in ap/dog
        if label:
            classes.setdefault(metric, {})[label] = value
    tables = [_table(("", ""), [(label_of(name), None, text_of(name, value)) for name, value in numbers.items()])]
    for metric, values in classes.items():
        rows = sorted((item for item in values.items() if _is_number(item[1])), key=lambda item: item[1])
        rows = [(name, value, f"{value:.1%}") for name, value in rows]
        tables.append(_table((f"class, by {label_of(metric)}", label_of(metric)), rows))
    tables = [table for table in tables if table]
    return f'<h2>Results</h2><div class="columns">{"".join(tables)}</div>' if tables else ""


def _table(heads, rows):
    """A table of rows (name, fraction for a bar or None, text)."""
    cells = "".join(
        f"<tr><td>{html.escape(str(name))}</td>"
        + (f'<td><meter min="0" max="1" value="{bar:.4f}"></meter></td>' if bar is not None else "")
        + f'<td class="number">{text}</td></tr>'
        for name, bar, text in rows
    )
    bars = "<th></th>" if any(bar is not None for _, bar, _ in rows) else ""
    head = f"<tr><th>{html.escape(heads[0])}</th>{bars}<th>{html.escape(heads[1])}</th></tr>" if any(heads) else ""
    return f'<div class="scroll"><table>{head}{cells}</table></div>' if rows else ""


def _side_by_side(title, runs, columns):
    """A table with a column of each run; `columns` are dictionaries of texts by the names of rows."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return ""
    head = "".join(f"<th>{html.escape(run)}</th>" for run in runs)
    rows = "".join(
        f"<tr><td>{html.escape(label_of(name))}</td>"
        + "".join(f"<td>{html.escape(column.get(name, ''))}</td>" for column in columns)
        + "</tr>"
        for name in names
    )
    return f'<h2>{title}</h2><div class="scroll"><table><tr><th></th>{head}</tr>{rows}</table></div>'


def _over_time(folder, parts):
    """What a run inpainted of the same images as it learnt: a strip of each step."""
    if not (steps := sorted(folder.glob("step-*.png"))):
        return ""
    known = [folder / f"{name}.png" for name in ("original", "seen", "true_words")]
    first, second, last = ([path] if path.is_file() else [] for path in known)
    figures = "".join(
        f"<figure>{_image(path, label)}<figcaption>{label}</figcaption></figure>"
        for path in (*first, *second, *steps, *last)
        for label in [_label(path.stem)]
    )
    return f'<h2>Inpainting over time{parts}</h2><div class="strips">{figures}</div>'


def _label(name):
    """Write the name of a strip in words, such as "step 1,000"."""
    word, _, number = name.partition("-")
    return html.escape(f"{word} {int(number):,}" if number.isdigit() else word.replace("_", " "))


def _pictures(folder, parts):
    found = []
    for path in sorted(folder.glob("*.png")):
        kind = "inpainting" if path.stem.startswith("inpainting") else path.stem
        title = html.escape(TITLES.get(kind, kind.replace("_", " ").capitalize()) + parts * (kind == "inpainting"))
        found.append(f'<h2>{title}</h2><div class="picture">{_image(path, title)}</div>')
    return "\n".join(found)


def _image(path, title):
    """A PNG file inside the page."""
    return f'<img alt="{title}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _data(record):
    """What the images of each split contain, and which were left out or broke, and why."""
    splits = record.get("splits")
    if not isinstance(splits, dict):
        return ""
    parts, skipped = [], {}
    for name, facts in splits.items():
        if isinstance(facts, dict):
            parts.append((name, None, html.escape(str(facts.get("summary", "")))))
            for kind in ("left_out", "broken"):
                skipped |= facts[kind] if isinstance(facts.get(kind), dict) else {}
    lines = [f"{name}: {reason}" for name, reason in skipped.items()]
    more = [f"and {len(lines) - LISTED:,} more, see data.json"] if len(lines) > LISTED else []
    listed = html.escape("\n".join([*lines[:LISTED], *more]))
    left_out = f"<p>{len(lines):,} files were left out:</p><pre>{listed}</pre>" if lines else "<p>Nothing left out.</p>"
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{text}</td></tr>" for name, _, text in parts)
    return f'<h2>Data</h2><div class="scroll"><table>{rows}</table></div>{left_out}'


def _numbers(workdir, lines):
    """The last metrics and the results of a run, as texts by name."""
    items = _json(workdir / "result.json").items()
    values = {name: text_of(name, value) for name, value in items if _is_number(value) and "/" not in name}
    return _last_values(lines, _flags(workdir)) | values


def _names(workdirs):
    """Names of runs: of their folders, or the paths where two folders have the same name."""
    names = [folder.resolve().name for folder in workdirs]
    return names if len(set(names)) == len(names) else [str(folder) for folder in workdirs]


def _lines(workdir):
    path = workdir / "metrics.jsonl"
    return read_metrics(path) if path.is_file() else []


def _flags(workdir):
    """The flags of run.flags, as texts by name; a boolean one is "true" or "false"."""
    path, found = workdir / "run.flags", {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        name, given, value = line.strip().removeprefix("--").partition("=")
        if line.startswith("--"):
            negated = not given and name.startswith("no")  # absl writes a false flag as --noNAME
            found[name[2:] if negated else name] = value if given else "false" if negated else "true"
    return found


def _json(path):
    """A file's dictionary; an empty one if there is none, or if another program wrote the file."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _last_values(lines, flags):
    """The last value of each of `TILES` that a run has, as texts by name."""
    found = {name: newest(lines, name) for name in TILES} | ({"step": lines[-1]["step"]} if lines else {})
    texts = {name: text_of(name, value) for name, value in found.items() if value is not None}
    where = unfinished(lines, flags)
    return texts | ({"step": f"{where.removeprefix('step ')}, unfinished"} if where else {})


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
