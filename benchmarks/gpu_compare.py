"""Compare two training steps that gpu_step.py saved: the same step on two devices or backends.

    python benchmarks/gpu_compare.py --step=torch_gpu.npz --beside=torch_cpu.npz --json=check.json

Differences are relative: of the loss and the gradient norm to the other's, of each weight to the norm of the other's
(the largest counts), and of the update of all weights together to the norm of the other's update.
Exit status 1 if one of them is too large.
"""

import pathlib

import numpy as np
from absl import flags

from recipes.shared import commandline, writing

flags.DEFINE_string("step", None, "File of the step to check.")
flags.DEFINE_string("beside", None, "File of the step to compare it with.")
flags.DEFINE_string("json", None, "File to write the differences to.")
FLAGS = flags.FLAGS
TOLERANCES = {
    "float32": {"loss": 1e-5, "gradient_norm": 1e-4, "weights": 1e-4, "update": 1e-2},
    "bfloat16": {"loss": 1e-2, "gradient_norm": 5e-2, "weights": 5e-2, "update": 0.5},
}


def load(path):
    """Read a step's file: {name: array}.

    Raises:
        BadInput: if there is none, with the last line of its log.
    """
    if not path.exists():
        log = path.with_suffix(".log")
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "nothing was printed")
        raise commandline.BadInput(f"There is no step {path.stem}: {last}")
    with np.load(path) as file:
        return dict(file)


def of_precision(arrays, prefix):
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def relative(one, other):
    """The norm of the difference to the norm of `other`."""
    return float(np.linalg.norm(np.subtract(one, other, dtype="float64")) / np.linalg.norm(other.astype("float64")))


def differences(step, other):
    """Compare two steps in the same precision.

    Returns:
        {name: relative difference}, the largest for "weights", and the name of the weight that has it.

    Raises:
        BadInput: if they do not start from the same weights.
    """
    before, after, other_before, other_after = (
        of_precision(arrays, prefix) for arrays in (step, other) for prefix in ("before/", "after/")
    )
    if before.keys() != other_before.keys() or any(np.any(before[name] != other_before[name]) for name in before):
        raise commandline.BadInput("The two steps start from different weights.")
    of_weights = {name: relative(after[name], other_after[name]) for name in after}
    worst = max(of_weights, key=lambda name: np.nan_to_num(of_weights[name], nan=np.inf))
    moved, other_moved = (
        np.concatenate([(new[name].astype("float64") - before[name]).ravel() for name in before])
        for new in (after, other_after)
    )
    found = {name: relative(step[name], other[name]) for name in ("loss", "gradient_norm")}
    return {**found, "weights": of_weights[worst], "update": relative(moved, other_moved)}, worst


def main():
    step, other = (load(pathlib.Path(FLAGS[name].value)) for name in ("step", "beside"))
    result, wrong = {}, []
    for precision, tolerances in TOLERANCES.items():
        one, two = (of_precision(arrays, f"{precision}/") for arrays in (step, other))
        found, worst = differences(one, two)
        values = {name: [float(one[name]), float(two[name])] for name in ("loss", "gradient_norm")}
        values["device"] = [str(one["device"]), str(two["device"])]
        result[precision] = {**values, "differences": found, "tolerances": tolerances, "worst_weight": worst}
        text = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
        print(f"{precision:<10}{' and '.join(values['device'])}, relative differences: {text} ({worst})")
        # "not <=", so that NaN is wrong.
        wrong += [f"{precision} {name}" for name, value in found.items() if not value <= tolerances[name]]
    writing.write_json(pathlib.Path(FLAGS.json), result)
    if wrong:
        print(f"too large: {', '.join(wrong)}")
        raise SystemExit(1)


if __name__ == "__main__":
    commandline.run(main, computes=False, required=("step", "beside", "json"))
