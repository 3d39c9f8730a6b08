"""Compare runs on one page: their curves over steps and over minutes, their results and the flags that differ.

    python recipes/report.py --runs=runs/first,runs/second --output=compared.html
    python recipes/report.py --runs=runs/first

The second command writes the report of one run again, such as after matplotlib was installed or while the run goes on.

A run is named by its folder. The colour of a run is the same in all charts. A curve is a mean over steps, in which each
interval of the log counts by its number of steps; the pale curve behind it has the values of the log themselves.
"""

import os
import pathlib

from absl import flags

from recipes.shared import commandline

# These change the result.
flags.DEFINE_list("runs", None, "Folders of the runs, separated by commas.")

# These do not.
flags.DEFINE_string(
    "output", None, "HTML file to write, with several runs; an existing one is replaced. Default: report.html."
)
FLAGS = flags.FLAGS


def main():
    FLAGS.runs = FLAGS.runs if any(FLAGS.runs or ()) else None  # as in --runs=$UNSET
    commandline.require("runs")
    from keras_splitmask import evaluation

    folders = list(dict.fromkeys(pathlib.Path(name) for name in FLAGS.runs))  # one that is named twice counts once
    for folder in folders:
        if not folder.is_dir():
            raise commandline.BadInput(f"Folder not found: {folder}. Check --runs.")
        if not (folder / "metrics.jsonl").is_file():
            raise commandline.BadInput(
                f"Expected --runs to be folders of runs, received {folder}, without metrics.jsonl."
            )
    output = pathlib.Path(FLAGS.output or (folders[0] / "report.html" if len(folders) == 1 else "report.html"))
    if output.is_dir() or (output.exists() and output.suffix != ".html"):
        raise commandline.BadInput(f"Expected --output to be an HTML file, received {output}.")
    try:
        if len(folders) == 1:
            evaluation.write_report(folders[0], output=output)
        else:
            evaluation.write_comparison(output, folders)
    except OSError as error:
        raise commandline.BadInput(
            f"Expected an --output that can be written, received {output} ({error.strerror or error})."
        ) from error
    print(f"report    {os.fspath(output)}")


if __name__ == "__main__":
    commandline.run(main)
