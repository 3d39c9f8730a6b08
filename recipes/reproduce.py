"""Reproduce the paper's tables cell by cell, and print the results beside the paper's numbers.

    python recipes/reproduce.py --table=ablation --scale=small --list
    python recipes/reproduce.py --table=ablation --scale=small --seeds=0,1,2

A cell is a pre-training run and its evaluation, each in its own folder in --workdir. Tables share the runs that they
have in common. Run the same command again to resume; finished runs are not repeated.
"""

import pathlib
import re
import statistics
import time

from absl import flags

from recipes.shared import children, commandline, record, screen, tables, workdir

flags.DEFINE_enum(
    "table", None, sorted({name for scale in tables.TABLES.values() for name in scale}), "Which table to reproduce."
)
flags.DEFINE_enum(
    "scale",
    "small",
    sorted(tables.TABLES),
    "small: minutes per cell on two cores, with the sample and CIFAR-10. paper: the paper's scale, days on many GPUs.",
)
flags.DEFINE_list("seeds", ["0"], "Each cell is run once with each of these seeds.")
flags.DEFINE_list("rows", None, "Names of the rows to run. Default: all.")
flags.DEFINE_list("columns", None, "Names of the columns to run. Default: all.")
flags.DEFINE_bool("list", False, "Show the commands of the cells and the results so far, and run nothing.")
flags.DEFINE_string("cifar10", "tfds:cifar10", "CIFAR-10 for the small tables, named as --dataset.")
flags.DEFINE_string("data_dir", None, "Folder where tfds stores its data.")
FLAGS = flags.FLAGS
FLAGS.set_default("workdir", "runs/reproduce")


def commands(row, column, seed):
    """List the commands of a cell in order, as (folder, recipe, arguments)."""
    pretrain, judge = (
        [text.format(data=column.data) for text in texts] for texts in ((*row.pretrain, *column.source), column.judge)
    )
    run = pathlib.Path(FLAGS.workdir) / slug("pretrain", pretrain, seed)
    made = [(run, "pretrain", [*pretrain, f"--seed={seed}"])]
    if column.recipe != "pretrain":
        made.append(
            (run / slug(column.recipe, judge, seed), column.recipe, [*judge, f"--init_from={run}", f"--seed={seed}"])
        )
    return made


def slug(recipe, arguments, seed):
    """Name a folder after its run."""
    words = [
        argument.removeprefix("--").removeprefix("flagfile=recipes/flags/").removesuffix(".flags")
        for argument in arguments
    ]
    return re.sub(r"[^\w=.+-]+", "-", "_".join([recipe, *words, f"seed={seed}"]))


def command_of(folder, recipe, arguments):
    shared = [
        f"--{name}={FLAGS[name].value}"
        for name in ("backend", "precision", "data_dir")
        if FLAGS[name].value is not None
    ]
    arguments = [
        text.replace("=recipes/flags/", f"={screen.RECIPES}/flags/").replace("tfds:cifar10", FLAGS.cifar10)
        for text in arguments
    ]
    return [*screen.arguments_of(recipe), *arguments, *shared, f"--workdir={folder}"]


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


def cells(table, seeds):
    """List row, column and seed of each selected cell. Seeds come one after the other, so that a table fills early."""
    rows, columns = chosen(FLAGS.rows, table.rows, "--rows"), chosen(FLAGS.columns, table.columns, "--columns")
    return [
        (row, column, seed) for seed in seeds for row, column, _ in table.cells() if row in rows and column in columns
    ]


def run(table, seeds):
    """Run the missing cells, and return the number of commands that failed."""
    failed = []
    for row, column, seed in cells(table, seeds):
        if measured(row, column, seed) is not None:
            continue
        for made in commands(row, column, seed):
            if made[0] in failed:
                break
            if (made[0] / "model.keras").exists():  # a finished run
                continue
            print(f"\n{row.name}, {column.name}, seed {seed}: {made[1]} in {made[0]}", flush=True)
            _wait_for(made[0])
            status = children.run(command_of(*made))
            if status:
                print(f"ended with status {status}", flush=True)
                failed.append(made[0])
                break
    return len(failed)


def _wait_for(folder, seconds=60):
    """Wait until a run's folder is free: after a kill of reproduce.py, the run may still be saving its checkpoint."""
    until = time.monotonic() + seconds
    while record.is_held(folder) and time.monotonic() < until:
        time.sleep(0.1)


def text_of(table, seeds):
    """Format the table in Markdown: mean and standard deviation over the seeds, and the paper's number in brackets."""
    lines = [f"| {table.corner} | " + " | ".join(column.name for column in table.columns) + " |"]
    lines.append("|---" * (1 + len(table.columns)) + "|")
    for row in table.rows:
        texts = []
        for column, paper in zip(table.columns, row.paper, strict=True):
            if paper is None:
                texts.append("")
                continue
            values = [value for seed in seeds if (value := measured(row, column, seed)) is not None]
            own = f"{statistics.mean(values):.{column.digits}f}" if values else "missing"
            if len(values) > 1:
                own += f" ± {statistics.stdev(values):.{column.digits}f}"
            if values and len(values) < len(seeds):
                own += f" ({len(values)} of {len(seeds)} seeds)"
            texts.append(f"{own} [{paper}]")
        lines.append(f"| {row.name} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def print_table(table, seeds):
    """Print the table and return its text."""
    text = text_of(table, seeds)
    print(f"\n{table.title}; the paper's numbers in brackets\n\n{text}")
    return text


def show(table, seeds):
    """Print the commands of the cells and the results so far."""
    for row, column, seed in cells(table, seeds):
        value = measured(row, column, seed)
        print(f"{row.name}, {column.name}, seed {seed}: {'missing' if value is None else round(value, column.digits)}")
        for made in commands(row, column, seed):
            print(f"  {' '.join([screen.program(made[1]), *made[2], f'--workdir={made[0]}'])}")
    print_table(table, seeds)


def main():
    commandline.require("table")
    if FLAGS.table not in tables.TABLES[FLAGS.scale]:
        raise commandline.BadInput(
            f"Expected --table among {', '.join(tables.TABLES[FLAGS.scale])} at --scale={FLAGS.scale}, received"
            f" {FLAGS.table}."
        )
    if not FLAGS.seeds or not all(seed.isdigit() for seed in FLAGS.seeds):
        raise commandline.BadInput(
            f"Expected --seeds as numbers from 0 on, such as 0,1,2, received {','.join(FLAGS.seeds)!r}."
        )
    table, seeds = tables.TABLES[FLAGS.scale][FLAGS.table], [int(seed) for seed in FLAGS.seeds]
    if FLAGS.list:
        show(table, seeds)
        screen.check_result()
        return
    with workdir.held() as home:
        failed = run(table, seeds)
        name = f"{FLAGS.scale}_{FLAGS.table}.md"
        home.write_text(name, print_table(table, seeds))
        print(f"table     {home.folder / name}")
    if failed:
        raise commandline.BadInput(
            f"{failed} {'run' if failed == 1 else 'runs'} failed, see above. Run the same command to try again."
        )


if __name__ == "__main__":
    commandline.run(main)
