"""`python -m tests`: tests/style.py, then every test on torch, which starts fastest, and on TensorFlow and JAX those
that depend on the backend. Arguments go to pytest; with any, the style is not checked."""

import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[1]
PASSED, NOTHING_SELECTED = 0, 5
# All backends are tested at a time on few cores. One thread for each library saves a sixth of the processor's time.
SELECTED = {"tensorflow": "backend or tensorflow", "jax": "backend", "torch": "not tensorflow"}
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")


def run(backend):
    """Run the tests of a backend, print what they print once all is there, and return the exit status."""
    selection = ["-m", f"({SELECTED[backend]}) and not endurance"]
    command = [sys.executable, "-m", "pytest", "-q", "--durations=5", *selection, *sys.argv[1:]]
    environment = {**THREADS, **os.environ, "KERAS_BACKEND": backend}
    end = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    print(f"\n{backend}: {' '.join(command[1:])}\n{end.stdout}", flush=True)
    return end.returncode


def main():
    if not sys.argv[1:] and subprocess.run([sys.executable, "-m", "tests.style"], cwd=ROOT).returncode:
        return True  # in seconds, before tests that take minutes
    print("What the tests of a backend print follows when they are done.", flush=True)
    backends = ("tensorflow", "jax", "torch")
    with ThreadPoolExecutor(3) as pool:  # torch's tests take a third of the time of the others', and leave no core idle
        ends = dict(zip(backends, pool.map(run, backends), strict=True))
    failed = [name for name, end in ends.items() if end not in (PASSED, NOTHING_SELECTED)]
    nothing_ran = set(ends.values()) == {NOTHING_SELECTED}
    print(
        f"\nFailed on: {', '.join(failed)}."
        if failed
        else "\nNo test ran."
        if nothing_ran
        else "\nPassed on all three backends."
    )
    return bool(failed or nothing_ran)


if __name__ == "__main__":
    sys.exit(main())
