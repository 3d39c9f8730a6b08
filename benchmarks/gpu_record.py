"""Record the result of one part of gpu.sh in its JSON file, beside the device and the versions.

    python benchmarks/gpu_record.py --output=out/gpu.json --part=time_alone_jax --status=0 --seconds=41 \
        --result=time.json --log=log

{"device": ..., "versions": ..., "dry_run": ..., "seconds": {part: s}, "failures": {part: reason}, "results": {part:
the part's JSON}}
"""

import json
import os
import pathlib
import shutil
import subprocess

from absl import flags

from recipes import splitmask
from recipes.shared import commandline, writing

flags.DEFINE_string("output", None, "File to add the result to.")
flags.DEFINE_string("part", None, "Name of the part.")
flags.DEFINE_integer("status", 0, "Exit status of its command; 124 and 137 if its time was up.")
flags.DEFINE_integer("seconds", None, "Seconds that it took.", lower_bound=0)
flags.DEFINE_string("result", None, "JSON file that its command wrote.")
flags.DEFINE_string("log", None, "File of what its command printed; its last line is the reason of a failure.")
flags.DEFINE_bool("dry_run", False, "Say in the file that it is a dry run.")
FLAGS = flags.FLAGS
OUT_OF_TIME = (124, 137)  # of `timeout`


def device():
    """Describe the GPU by nvidia-smi, and the processor."""
    found = {"gpu": None, "cpu_cores": os.cpu_count()}
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        if lines and lines[0].count(",") == 2:
            found |= zip(("gpu", "gpu_memory", "driver"), map(str.strip, lines[0].split(",")), strict=True)
    return found


def reason():
    """Say why the part failed: that its time was up, or the last line that its command printed."""
    lines = pathlib.Path(FLAGS.log).read_text(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was printed")
    if FLAGS.status in OUT_OF_TIME:
        return f"not finished after {FLAGS.seconds} s: {last}"
    return f"status {FLAGS.status}: {last}"


def read_result():
    """Read the part's JSON; None if there is none."""
    try:
        return json.loads(pathlib.Path(FLAGS.result).read_text())
    except (OSError, ValueError):
        return None


def main():
    path = pathlib.Path(FLAGS.output)
    found = json.loads(path.read_text()) if path.exists() else {"seconds": {}, "failures": {}, "results": {}}
    head = {"device": device(), "versions": splitmask.text_of_versions(), "dry_run": FLAGS.dry_run}
    found["seconds"][FLAGS.part] = FLAGS.seconds
    for kind in ("failures", "results"):
        found[kind].pop(FLAGS.part, None)  # of an earlier call
    if (result := read_result()) is not None:
        found["results"][FLAGS.part] = result
    if FLAGS.status or result is None:
        found["failures"][FLAGS.part] = reason()
    writing.write_json(path, {**head, **found})
    print(f"recorded  {FLAGS.part}: {found['failures'].get(FLAGS.part, f'{FLAGS.seconds} s')}", flush=True)


if __name__ == "__main__":
    commandline.run(main, computes=False, required=("output", "part", "seconds", "result", "log"))
