"""Write results.md, and the table of README.md, from the logs in logs/results.

    python docs/results.py
    python docs/results.py --add=runs/compared/comparison.json --name=cifar10_500_30min --machine='two cores of ...'

Each log holds the runs of `reproduce.py --dataset=...` with the same settings, made at different times: --add joins
the runs of a comparison to those of a log, or begins one. tests/docs_test.py compares results.md with the logs.
"""

import argparse
import json
import pathlib
import re
import shlex
import statistics

DOCS = pathlib.Path(__file__).parent
LOGS = DOCS / "logs" / "results"
NAMES = {"scratch": "from scratch", "splitmask-small": "SplitMask, `--preset=small`"}
NAMES |= {"splitmask-paper": "SplitMask, `--preset=paper`", "mae": "MAE", "beit": "BEiT", "dino": "DINO"}
TITLES = {"cifar10": "CIFAR-10", "grocery": "Groceries", "fashion_mnist": "Fashion-MNIST"}
FACTORS = DOCS / "logs" / "factors.json"
KEPT = ("method", "seed", "top1", "knn", "linear", "split", "images", "labelled_images")
KEPT += ("pretrain_steps", "finetune_steps", "pretrain_seconds", "finetune_seconds")
OF_PROBES = ("knn", "linear")  # which not all runs have


def logs():
    """Read all logs: [{"name", "settings", "runs"}], in the order of their names."""
    return [{"name": path.stem, **json.loads(path.read_text())} for path in sorted(LOGS.glob("*.json"))]


def refuse(expected, received, advice):
    raise SystemExit(f"results.py: Expected {expected}, received {received}; {advice}.")


def joined(path, name, machine):
    """Return a log with the runs of a comparison.json. A run of the same method and seed takes the place of the older.

    Args:
        path: of the comparison.json.
        name: of the log, which may be new.
        machine: what the runs were made on.

    Raises:
        SystemExit: in one line, if the page could not show the log.
    """
    made = comparison(path)
    log = next((log for log in logs() if log["name"] == name), {"settings": {}, "runs": []})
    settings = {key: value for key, value in made["settings"].items() if key != "seeds"}
    check_same(log["settings"], settings, name)
    runs = {(one["method"], one["seed"]): one for one in log["runs"]}
    for one in made["runs"]:
        runs[one["method"], one["seed"]] = {key: one[key] for key in KEPT if key in one} | {"machine": machine}
    kept = sorted(runs.values(), key=lambda one: (list(NAMES).index(one["method"]), one["seed"]))
    return {"name": name, "settings": settings, "runs": kept}


def comparison(path):
    """Read a comparison.json that the page can show."""
    try:
        made = json.loads(path.read_text())
        settings, runs = made["settings"], made.get("runs") or []
        missing = sorted({key for one in runs for key in KEPT if key not in one} - set(OF_PROBES))
        unknown = sorted({one["method"] for one in runs if "method" in one} - set(NAMES))
        title = dataset(made)
    except OSError as error:
        refuse("the comparison.json of a comparison", f"{path} ({error.strerror})", "correct --add")
    except (ValueError, KeyError, TypeError, AttributeError):
        refuse("the comparison.json of a comparison", f"{path}, which is none", "run the comparison again")
    if not runs:
        refuse("a comparison with runs", f"{path} without any", "run the comparison to its end")
    if missing:
        refuse(f"runs with {', '.join(missing)}", f"some of {path} without", "run the comparison again")
    if unknown:
        refuse(f"methods among {', '.join(NAMES)}", ", ".join(unknown), "compare others, or add a name to NAMES")
    if title not in TITLES:
        refuse(f"a data set among {', '.join(TITLES)}", title, "rename it, or add a title to TITLES")
    if "time" not in settings:
        refuse("a comparison at equal minutes, by --time", f"--steps={settings.get('steps')}", "compare with --time")
    return made


def check_same(before, now, name):
    """Refuse settings that differ from those of the log."""
    if before and (other := [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]):
        expected, received = (
            ", ".join(f"--{key}={values[key]}" if key in values else f"no --{key}" for key in other)
            for values in (before, now)
        )
        refuse(f"{expected}, as in the log {name}", received, "compare with equal settings, or choose another --name")


def by_method(log):
    """The runs of a log by method, best mean first."""
    methods = dict.fromkeys(one["method"] for one in log["runs"])
    found = {method: [one for one in log["runs"] if one["method"] == method] for method in methods}
    return dict(sorted(found.items(), key=lambda item: -mean(item[1], "top1")))


def mean(runs, name):
    return statistics.fmean(one[name] for one in runs)


def percent(runs, name):
    """The mean over the seeds in percent, and the range."""
    values = [100 * one[name] for one in runs if name in one]
    if not values:
        return ""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def dataset(log):
    return log["settings"]["dataset"].partition(":")[2] or log["settings"]["dataset"]


def table(log):
    """The table of a log in Markdown."""
    lines = ["| | top-1 % | kNN % | linear % | steps | minutes | seeds |", "|---|---:|---:|---:|---:|---:|---:|"]
    for method, runs in by_method(log).items():
        steps = " + ".join(f"{mean(runs, name):.0f}" for name in ("pretrain_steps", "finetune_steps"))
        minutes = " + ".join(f"{mean(runs, name) / 60:.1f}" for name in ("pretrain_seconds", "finetune_seconds"))
        frozen = [percent(runs, name) for name in ("knn", "linear")]
        if method == "scratch":
            frozen = [f"{text} untrained" for text in frozen if text] or ["", ""]
        cells = (percent(runs, "top1"), *frozen, steps, minutes, str(len(runs)))
        lines.append(f"| {NAMES[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def command(log):
    """The command that makes the runs of a log."""
    methods = ",".join(name for name in NAMES if name in by_method(log))
    given = {name: value for name, value in log["settings"].items() if (name, value) != ("precision", "float32")}
    flags = " ".join(
        f"--{name}" if value is True else f"--{name}={shlex.quote(str(value))}" for name, value in given.items()
    )
    seeds = ",".join(str(seed) for seed in sorted({one["seed"] for one in log["runs"]}))
    return f"splitmask reproduce {flags} --methods={methods} --seeds={seeds} --backend=torch"


def section(log):
    """The section of results.md on a log."""
    settings, first = log["settings"], log["runs"][0]
    labels = f"{settings['labelled']} labels" if "labelled" in settings else "all labels"
    machines = "; ".join(dict.fromkeys(one["machine"] for one in log["runs"]))
    return (
        f"## {TITLES[dataset(log)]}, {labels}, {settings['time'].replace('min', ' minutes')} in all\n\n"
        f"    {command(log)}\n\n{table(log)}\n\n"
        f"Top-1 is that on the {first['images']:,} {first['split']} images. {machines}."
        f" Log: [logs/results/{log['name']}.json](logs/results/{log['name']}.json).\n"
    )


def summary(found):
    """The table of README.md: from scratch beside SplitMask, at equal minutes."""
    lines = ["| | from scratch | pre-trained with SplitMask |", "|---|---:|---:|"]
    for log in found:
        methods = by_method(log)
        if not {"scratch", "splitmask-small"} <= set(methods):
            continue
        labels = f"{log['settings']['labelled']} labels" if "labelled" in log["settings"] else "all labels"
        best = next(iter(methods))
        names = ("scratch", "splitmask-small")
        cells = []
        for name in names:
            accuracy = f"{percent(methods[name], 'top1')}%"
            minutes = sum(mean(methods[name], f"{part}_seconds") for part in ("pretrain", "finetune")) / 60
            cells.append(f"{f'**{accuracy}**' if name == best else accuracy} in {minutes:.0f} min")
        lines.append(f"| {TITLES[dataset(log)]}, {labels}, top-1 | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def factors(name):
    """The table of what was tried for the small preset on the data set of this name."""
    lines = ["| | steps | kNN % | linear % | linear, 500 labels % |", "|---|---:|---:|---:|---:|"]
    for one in json.loads(FACTORS.read_text())[name]:
        accuracies = (f"{100 * one[name]:.1f}" for name in ("knn", "linear", "linear_500"))
        lines.append(f"| {one['what']} | {one['steps']} | " + " | ".join(accuracies) + " |")
    return "\n".join(lines) + "\n"


def between(text, name, part):
    """Return a text with `part` between the two marks of this name."""
    begin, end = (f"<!-- {name}: {place} -->\n" for place in ("begin", "end"))
    before, _, rest = text.partition(begin)
    return before + begin + part + end + rest.partition(end)[2]


def pages(found=None):
    """The files that follow from logs, by default from all: {path: text}."""
    found = logs() if found is None else found
    results, readme = DOCS / "results.md", DOCS.parent / "README.md"
    text = between(results.read_text(), "results", "\n" + "\n".join(section(log) for log in found))
    for name in ("cifar10", "grocery"):
        text = between(text, f"factors of {name}", factors(name))
    return {
        results: text,
        readme: between(readme.read_text(), "results", summary(found)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", type=pathlib.Path, help="comparison.json to join to a log")
    parser.add_argument("--name", help="name of the log")
    parser.add_argument("--machine", help="what the runs were made on")
    arguments = parser.parse_args()
    found = logs()
    if arguments.add:
        for flag in ("name", "machine"):
            if not getattr(arguments, flag):
                refuse(f"--{flag} with --add", "none", f"add --{flag}=...")
        if not re.fullmatch(r"\w+", arguments.name):
            refuse("--name as letters, digits and underscores", arguments.name, "choose another")
        added = joined(arguments.add, arguments.name, arguments.machine)
        found = sorted([added, *(log for log in found if log["name"] != added["name"])], key=lambda log: log["name"])
    elif arguments.name or arguments.machine:
        refuse("--add with --name and --machine", "none", "add --add=.../comparison.json")
    written = pages(found)  # all of it before anything is written
    if arguments.add:
        content = {key: value for key, value in added.items() if key != "name"}
        written[LOGS / f"{added['name']}.json"] = json.dumps(content, indent=1) + "\n"
    for path, text in written.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
