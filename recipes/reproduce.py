"""Compare methods on your own images, or reproduce the paper's tables, and print the results.

    python recipes/reproduce.py --dataset=folder:photos --time=30min --seeds=0,1,2 --workdir=runs/compared
    python recipes/reproduce.py --table=ablation --scale=small --seeds=0,1,2

--dataset gives each method of --methods equal minutes (--time) or equal steps of pre-training (--steps). pretrain
chooses encoder, image size, patch size and batch size once, for all methods. Each result is that of fine-tuning, on
images that no run learns from. The table is printed, drawn and written to --workdir as comparison.md, .csv, .json and
.png.

--table runs a table of the paper, and prints the paper's numbers beside the results.

A cell is a pre-training run and its evaluation, each in its own folder in --workdir. Tables share the runs that they
have in common. Run the same command again to resume; finished runs are not repeated.
"""

import functools
import os
import pathlib
import re
import shlex
import statistics

from absl import flags

from recipes.shared import (
    cells,
    commandline,
    method_results,
    own_images,
    own_images_flags,
    paths,
    screen,
    table_parts,
    tables,
    time_limit,
    workdir,
)

flags.DEFINE_enum(
    "table",
    None,
    sorted({name for scale in tables.TABLES.values() for name in scale}),
    "Which table of the paper to reproduce; or imagenette, stable-pretraining's table of methods.",
)
flags.DEFINE_enum(
    "scale",
    "small",
    sorted(tables.TABLES),
    "small: minutes per cell on two cores, with the sample and other small sets. paper: the published scale, up to days"
    " on many GPUs.",
)
flags.DEFINE_list("seeds", ["0"], "Each cell is run once with each of these seeds. Three or more show the spread.")
flags.DEFINE_list("rows", None, "Names of the rows to run. Default: all.")
flags.DEFINE_list("columns", None, "Names of the columns to run. Default: all.")
flags.DEFINE_bool("list", False, "Show the commands of the cells and the results so far, and run nothing.")
for name, (place, what) in table_parts.PLACES.items():
    flags.DEFINE_string(name, place, f"{what}, named as --dataset.")
flags.DEFINE_string("data_dir", None, "Folder where tfds stores its data.")
flags.adopt_module_key_flags(own_images_flags)
FLAGS = flags.FLAGS
OF_TABLES = ("table", "scale", "rows", "columns", *table_parts.PLACES)
FLAGS.set_default("workdir", "runs/reproduce")


def commands(row, column, seed):
    """List the commands of a cell in order, as (folder, recipe, arguments)."""
    texts = (*row.pretrain, *column.source), (*column.judge, *row.judge)
    # Folders are named alike wherever the data sets are.
    (pretrain, judge), (given, judge_given) = (
        [table_parts.filled(text, column, where) for text in texts] for where in (places("default"), places("value"))
    )
    run = pathlib.Path(FLAGS.workdir) / slug("pretrain", pretrain, seed)
    made = [(run, "pretrain", [*given, f"--seed={seed}"])]
    if column.recipe != "pretrain":
        arguments = [*judge_given, f"--init_from={run}", f"--seed={seed}"]
        made.append((run / slug(column.recipe, judge, seed), column.recipe, arguments))
    return made


def places(which):
    """Return the place of each data set: the "default" or the "value" of its flag."""
    return {name: getattr(FLAGS[name], which) for name in table_parts.PLACES}


def needed_places(combinations):
    """Return {flag: place} of each data set that the runs of `selected` combinations read."""
    texts = " ".join(text for row, column, _ in combinations for text in (*row.pretrain, *column.source, *column.judge))
    return {name: place for name, place in places("value").items() if re.search(rf"{{{name}(_images)?}}", texts)}


def not_found(name, place):
    """Say so if a data set lies nowhere, and which flag gives its place; "" of one that is there or is downloaded."""
    kind, _, path = place.partition(":")
    if kind not in paths.KINDS or os.path.exists(path):
        return ""
    return f"Data set not found: {path}. Give its place as --{name}={kind}:PATH."


def check_places(missing):
    """Stop if a data set of the `missing` cells lies nowhere."""
    for name, place in needed_places(missing).items():
        if line := not_found(name, place):
            raise commandline.BadInput(line)


def slug(recipe, arguments, seed):
    """Name a folder after its run."""
    words = [
        argument.removeprefix("--").removeprefix("flagfile=recipes/flags/").removesuffix(".flags")
        for argument in arguments
    ]
    return re.sub(r"[^\w=.+-]+", "-", "_".join([recipe, *words, f"seed={seed}"]))


def arguments_of(arguments):
    """Fill in where the flag files are."""
    return [text.replace("=recipes/flags/", f"={screen.RECIPES}/flags/") for text in arguments]


def measured(row, column, seed):
    """Read the result of a cell for one seed; None if it is missing."""
    folder, recipe, _ = commands(row, column, seed)[-1]
    try:
        return column.read(folder)
    except (FileNotFoundError, IndexError):
        return None


def chosen(given, parts, flag):
    """Select the rows or columns that a flag names, or all."""
    names = [part.name for part in parts]
    if wrong := sorted(set(given or ()) - set(names)):
        raise commandline.BadInput(f"Expected {flag} among {', '.join(names)}, received {', '.join(wrong)}.")
    return [part for part in parts if not given or part.name in given]


def selected(table, seeds):
    """List row, column and seed of each selected cell. Seeds come one after the other, so that a table fills early."""
    rows, columns = chosen(FLAGS.rows, table.rows, "--rows"), chosen(FLAGS.columns, table.columns, "--columns")
    return [
        (row, column, seed) for seed in seeds for row, column, _ in table.cells() if row in rows and column in columns
    ]


def cell_of(row, column, seed):
    """Return the `cells.Cell` of a row and a column for a seed."""
    made = tuple(
        cells.Command(folder, recipe, functools.partial(arguments_of, arguments))
        for folder, recipe, arguments in commands(row, column, seed)
    )
    title = f"{row.name}, {column.name}, seed {seed}"
    return cells.Cell(title, made, lambda: measured(row, column, seed) is not None)


def text_of(table, seeds):
    """Format the table in Markdown: mean and standard deviation over seeds, and the published number in brackets."""
    lines = [f"| {table.corner} | " + " | ".join(column.name for column in table.columns) + " |"]
    lines.append("|---" * (1 + len(table.columns)) + "|")
    for row in table.rows:
        texts = []
        for column, number in zip(table.columns, table.numbers_of(row), strict=True):
            if number is None:
                texts.append("")
                continue
            values = [value for seed in seeds if (value := measured(row, column, seed)) is not None]
            own = f"{statistics.mean(values):.{column.digits}f}" if values else "missing"
            if len(values) > 1:
                own += f" ± {statistics.stdev(values):.{column.digits}f}"
            if values and len(values) < len(seeds):
                own += f" ({len(values)} of {len(seeds)} seeds)"
            texts.append(own if number == table_parts.NO_NUMBER else f"{own} [{number}]")
        lines.append(f"| {row.name} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def print_table(table, seeds):
    """Print the table and return its text."""
    text = text_of(table, seeds)
    brackets = f"; {table.numbers} numbers in brackets" if any(row.paper for row in table.rows) else ""
    print(f"\n{table.title}{brackets}\n\n{text}")
    return text


def show(table, seeds):
    """Print the commands of the cells and the results so far."""
    printed = set()  # cells share runs
    shown = selected(table, seeds)
    for row, column, seed in shown:
        value = measured(row, column, seed)
        result = "no result yet" if value is None else f"{value:.{column.digits}f}"
        print(f"{row.name}, {column.name}, seed {seed}: {result}")
        for folder, recipe, arguments in commands(row, column, seed):
            if folder in printed:
                continue
            printed.add(folder)
            words = [*arguments, *cells.shared(default=False), f"--workdir={folder}"]
            print(f"  {screen.program(recipe)} {shlex.join(words)}")
    print_table(table, seeds)
    for name, place in needed_places(shown).items():
        print(f"data      {not_found(name, place) or f'--{name}={place}'}")


def reproduce_table(seeds):
    """Run the cells of --table, or show them with --list."""
    table = tables.TABLES[FLAGS.scale][FLAGS.table]
    if FLAGS.list:
        show(table, seeds)
        return
    missing = [place for place in selected(table, seeds) if measured(*place) is None]
    check_places(missing)
    with workdir.held() as home:
        failed = cells.run([cell_of(*place) for place in missing])
        name = f"{FLAGS.scale}_{FLAGS.table}.md"
        home.write_text(name, print_table(table, seeds))
        print(f"table     {home.folder / name}")
    check_all_ran(failed)


def check_all_ran(failed):
    if failed:
        raise commandline.BadInput(
            f"{failed} {'run' if failed == 1 else 'runs'} failed, see above. Run the same command to try again."
        )


def results_of(seeds):
    """List the results of --methods on --dataset so far, method by method."""
    found = [own_images.result(method, seed) for method in FLAGS.methods for seed in seeds]
    return [result for result in found if result]


def title(dataset):
    """Say what was compared, in one line."""
    budget = f"{FLAGS.time} planned for each method" if FLAGS.time else f"{FLAGS.steps} steps of pre-training"
    labelled = f", {FLAGS.labelled} labelled images" if FLAGS.labelled else ""
    return f"{dataset}: {budget}{labelled}"


def compare(seeds):
    """Run the methods on --dataset, or show their runs with --list."""
    own_images.check_settings()
    made = [own_images.cell(method, seed) for seed in seeds for method in FLAGS.methods]
    if FLAGS.list:
        for cell in made:
            print(f"{cell.title}: {'finished' if cell.done() else 'no result yet'}")
            for command in cell.commands:
                print("".join(f"  {line}\n" for line in (command.title, command.text()) if line), end="")
        print(f"\n{title(FLAGS.dataset)}\n\n{method_results.text_of(FLAGS.methods, results_of(seeds))}")
        return
    with workdir.held() as home:
        if own_images.settings_before() is None:
            own_images.divide(home)
            home.write_json(f"{own_images.RESULTS}.json", {"settings": own_images.settings()})
        missing = sum(not all(run.finished() for run in cell.commands if run.recipe != "probe") for cell in made)
        if FLAGS.time and missing:
            total = screen.in_words(missing * time_limit.seconds_of(FLAGS.time))
            print(f"{missing} times {FLAGS.time} is {total}. Starting the runs takes some time more.", flush=True)
        if missing:
            own_images.warn_of_little()
        failed = cells.run(made)
        report(home, results_of(seeds))
    check_all_ran(failed)


def report(home, results):
    """Print, write and draw the results, and say what to do next."""
    from keras_splitmask.evaluation.verdict import FEW_STEPS

    table = method_results.text_of(FLAGS.methods, results)
    print(f"\n{title(FLAGS.dataset)}\n\n{table}")
    uneven = method_results.uneven(results) if FLAGS.time else ""
    lines = list(filter(None, [*method_results.advice(results, FEW_STEPS), uneven]))
    text = method_results.page(title(FLAGS.dataset), table, lines)
    method_results.write(home, own_images.RESULTS, own_images.recorded(), text, results)
    if not results:
        return
    try:
        method_results.draw(home.file(f"{own_images.RESULTS}.png"), results, title(pathlib.Path(FLAGS.dataset).name))
        print(f"picture   {home.folder / own_images.RESULTS}.png")
    except ImportError as error:
        print(f"no picture: {error}")
    print(f"table     {home.folder / own_images.RESULTS}.md, .csv and .json")
    for line in lines:
        print(f"result    {line}")
    images = "sample" if FLAGS.dataset == "sample" else "NEW_IMAGES"
    runs = ",".join(one["folder"] for one in results if one["seed"] == results[0]["seed"])
    output = shlex.quote(f"{FLAGS.workdir}-predictions")
    curves = shlex.quote(str(home.folder / "curves.html"))
    print(f"next      {screen.program('report')} --runs={shlex.quote(runs)} --output={curves}")
    given = f"--init_from={shlex.quote(method_results.best_run(results))} --images={images}"
    print(f"          {screen.program('predict')} {given} --output={output}", flush=True)


def check_flags():
    """Stop if flags contradict each other."""
    if not FLAGS.table and not FLAGS.dataset:
        raise commandline.BadInput("Expected --dataset=folder:PATH for your own images, or --table, received neither.")
    if FLAGS.table and FLAGS.dataset:
        raise commandline.BadInput("Expected --dataset or --table, received both; leave one out.")
    other = [name for name in (own_images_flags.OWN if FLAGS.table else OF_TABLES) if FLAGS[name].present]
    if other:
        given = "table" if FLAGS.table else "dataset"
        raise commandline.BadInput(f"--{other[0]} does not go with --{given}; leave one out.")
    if FLAGS.table and FLAGS.table not in tables.TABLES[FLAGS.scale]:
        raise commandline.BadInput(
            f"Expected --table among {', '.join(tables.TABLES[FLAGS.scale])} at --scale={FLAGS.scale}, received"
            f" {FLAGS.table}."
        )
    if not FLAGS.seeds or not all(seed.isdigit() for seed in FLAGS.seeds):
        raise commandline.BadInput(
            f"Expected --seeds as numbers from 0 on, such as 0,1,2, received {','.join(FLAGS.seeds)!r}."
        )
    if FLAGS.dataset:
        own_images_flags.check_flags()


def main():
    check_flags()
    seeds = list(dict.fromkeys(map(int, FLAGS.seeds)))
    (reproduce_table if FLAGS.table else compare)(seeds)
    if FLAGS.list:
        screen.check_result()


if __name__ == "__main__":
    commandline.run(main, computes=False)
