"""The results of methods that were compared: a table, files, a picture, and what to do next."""

import math
import statistics

from recipes.shared import writing

COLUMNS = ("top1", "balanced_accuracy", "pretrain_steps", "finetune_steps", "pretrain_seconds", "finetune_seconds")
FROZEN = {"knn": "kNN %", "linear": "linear %"}  # of --frozen_features
UNEVEN = 0.15  # difference of minutes that is worth a line
OF_FROZEN = (
    "kNN and linear are of the encoder without fine-tuning: a vote of the 20 nearest neighbours, and a linear"
    " classifier on the block that is best on held-out training images. They have up to 5,000 labelled images, whatever"
    " --labelled. For scratch, the encoder is untrained."
)
FEW_SEEDS = 3  # fewer do not show whether a difference is chance


def summaries(results):
    """Summarise the results of each method over its seeds.

    Args:
        results: a list of what `own_images.result` returns.

    Returns:
        List of {"method": name, "seeds": [...], and for each of `COLUMNS`, and each of `FROZEN` that was measured,
        {"mean", "min", "max"}}, in the order in which the methods come first.
    """
    found = []
    for method in dict.fromkeys(one["method"] for one in results):
        own = [one for one in results if one["method"] == method]
        summary = {"method": method, "seeds": [one["seed"] for one in own]}
        for name in (*COLUMNS, *FROZEN):
            values = [one[name] for one in own if name in one]
            if not values:
                continue
            summary[name] = {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}
        found.append(summary)
    return found


def text_of(methods, results):
    """Format the table in Markdown: the means over the seeds, and the least and the greatest value.

    Args:
        methods: names of the methods; one without results is missing.
        results: see `summaries`.
    """
    by_name = {summary["method"]: summary for summary in summaries(results)}
    frozen = [name for name in FROZEN if any(name in summary for summary in by_name.values())]
    several = any(len(summary["seeds"]) > 1 for summary in by_name.values())
    titles = ("top-1 %", "balanced %", *(FROZEN[name] for name in frozen), "steps", "minutes")
    rows = [("method", *titles, *(("seeds",) if several else ()))]
    for method in methods:
        if method not in by_name:
            rows.append((method, "missing", *[""] * (len(rows[0]) - 2)))
            continue
        one = by_name[method]
        steps = " + ".join(f"{one[name]['mean']:.0f}" for name in ("pretrain_steps", "finetune_steps"))
        # Rounded first, so that the sum is that of the numbers shown.
        parts = [round(one[name]["mean"] / 60, 1) for name in ("pretrain_seconds", "finetune_seconds")]
        minutes = f"{parts[0]:.1f} + {parts[1]:.1f} = {sum(parts):.1f}"
        names = ("top1", "balanced_accuracy", *frozen)
        percents = [_percent(one[name]) if name in one else "" for name in names]
        if method == "scratch":
            percents[2:] = [f"{percent} untrained" for percent in percents[2:] if percent]
        rows.append((method, *percents, steps, minutes, *((str(len(one["seeds"])),) if several else ())))
    if results:
        name = chance(results)[1].replace("|", r"\|")
        rows.append((f"always {name!r}", f"{100 * chance(results)[0]:.1f}", *[""] * (len(rows[0]) - 2)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, *(("", OF_FROZEN) if frozen else ())]) + "\n"


def _percent(value):
    mean, least, most = (100 * value[name] for name in ("mean", "min", "max"))
    return f"{mean:.1f}" if least == most else f"{mean:.1f} ({least:.1f} to {most:.1f})"


def best_run(results):
    """Return the folder of the first seed of the method with the highest mean."""
    best = max(summaries(results), key=lambda one: one["top1"]["mean"])["method"]
    return next(one["folder"] for one in results if one["method"] == best)


def chance(results):
    """The accuracy of always naming one class, that which gives most on the images to evaluate on, and its name."""
    return results[0]["commonest_class_top1"], results[0]["commonest_class"]


def page(title, table, lines):
    """Write the Markdown of a comparison: its title, the table, and a list of what the results mean."""
    return "\n".join([f"# {title}\n", table, *(f"- {line}" for line in lines)]).rstrip() + "\n"


def write(run, name, settings, text, results):
    """Write the text as Markdown, the results as CSV with a row for each run, and both with the settings as JSON.

    Args:
        run: the `workdir.Run`.
        name: of the files, without their endings.
        settings: {name: value}.
        text: see `page`.
        results: see `summaries`.
    """
    run.write_text(f"{name}.md", text)
    columns = list(dict.fromkeys(column for one in results for column in one))
    with writing.csv_file(run.file(f"{name}.csv"), columns) as rows:
        rows.writerows([one.get(column, "") for column in columns] for one in results)
    run.write_json(f"{name}.json", {"settings": settings, "methods": summaries(results), "runs": results})


def draw(path, results, title):
    """Draw the accuracy of each method as a PNG: a dot for each seed, their mean, and a line at chance.

    Raises:
        ImportError: without matplotlib.
    """
    from keras_splitmask.backend.optional import optional
    from keras_splitmask.evaluation.sheets import save_figure

    optional("matplotlib", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = summaries(results)
    figure = Figure(figsize=(7, 1.6 + 0.45 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, one in enumerate(found):
        mean, least, most = (100 * one["top1"][name] for name in ("mean", "min", "max"))
        values = [100 * other["top1"] for other in results if other["method"] == one["method"]]
        axes.plot([least, most], [row, row], color="#2b83ba", linewidth=2, alpha=0.5)
        axes.scatter(values, [row] * len(values), s=28, facecolor="white", edgecolor="#2b83ba", zorder=2)
        axes.scatter([mean], [row], s=70, marker="|", linewidth=2.5, color="#d55e00", zorder=3)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # over the line at chance
        place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "fontsize": 8, "bbox": box}
        axes.annotate(f"{mean:.1f}", (mean, row), **place)
    value, name = chance(results)
    name = name.replace("$", r"\$")  # which would begin a formula
    axes.axvline(100 * value, color="#7f7f7f", linestyle="--", label=f"always one class, {name}")
    axes.set_yticks(range(len(found)), [one["method"] for one in found])
    axes.set_ylim(len(found) - 0.5, -0.7)
    axes.set_xlim(0, 1.1 * max(axes.get_xlim()[1], 1))
    axes.set_xlabel(f"top-1 accuracy on {results[0]['images']} {results[0]['split']} images (%)")
    axes.set_title(title.replace("$", r"\$"), fontsize=9, loc="left")
    axes.grid(axis="x", color="#808080", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower left", fontsize=8, frameon=False)
    save_figure(figure, path, format="png", dpi=120)


def advice(results, few_steps):
    """Say in a few sentences what the results mean, and what would make them clearer.

    Args:
        results: see `summaries`.
        few_steps: steps of pre-training below which little is learnt.
    """
    # Rounded: means of the same values in another order differ in the last bits.
    found = sorted(summaries(results), key=lambda one: -round(one["top1"]["mean"], 9))
    if not found:
        return []
    best, lines = found[0], []
    tied = [one["method"] for one in found if math.isclose(one["top1"]["mean"], best["top1"]["mean"], abs_tol=1e-9)]
    rivals = [one["method"] for one in found[1:] if one["top1"]["max"] >= best["top1"]["min"]]
    if best["top1"]["mean"] <= chance(results)[0]:
        lines.append(
            "After fine-tuning, no method is better than always naming one class: allow more time or more labels."
        )
    elif len(found) > 1:
        ahead = f"{best['method']} has the highest mean."
        if len(tied) > 1:
            ahead = f"{' and '.join(tied)} are equal, with the highest mean, {best['top1']['mean']:.2%}."
        if min(len(one["seeds"]) for one in found) < FEW_SEEDS:
            ahead += " Fewer than three seeds do not show whether that is chance: add --seeds=0,1,2."
        elif len(tied) > 1:
            ahead += " Add seeds or time."
        elif rivals:
            ahead += f" Its range overlaps with that of {' and '.join(rivals)}: that may be chance. Add seeds or time."
        else:
            ahead += " Its worst seed is better than the best of every other method."
        lines.append(ahead)
    short = [one["method"] for one in found if 0 < one["pretrain_steps"]["mean"] < few_steps]
    if short:
        lines.append(
            f"{' and '.join(short)}: fewer than {few_steps} steps of pre-training often teach little. Allow more."
        )
    elif "scratch" in tied and len(found) > 1:
        lines.append("No pre-training is ahead of none: allow more time, or use more images without labels.")
    return lines


def uneven(results):
    """Say so if the minutes of the methods differ much, as on a machine that others use too; "" if they do not."""
    minutes = [
        (one["pretrain_seconds"]["mean"] + one["finetune_seconds"]["mean"], one["method"]) for one in summaries(results)
    ]
    if not minutes or max(minutes)[0] <= (1 + UNEVEN) * min(minutes)[0]:
        return ""
    return (
        f"The minutes are not equal: {max(minutes)[1]} took {max(minutes)[0] / min(minutes)[0]:.1f} times as long as"
        f" {min(minutes)[1]}. The machine was slower or faster than when steps were timed. Run again while nothing else"
        " runs on it, or with --steps."
    )
