"""`python -m tests`: every test on TensorFlow, then on JAX and torch those that depend on the backend. Arguments go to pytest."""

import os
import subprocess
import sys

PASSED, NOTHING_SELECTED = 0, 5


def main():
    ends = {}
    for backend in ("tensorflow", "jax", "torch"):
        selection = [] if backend == "tensorflow" else ["-m", "backend and not endurance"]
        command = [sys.executable, "-m", "pytest", "-q", "--durations=5", *selection, *sys.argv[1:]]
        print(f"\n{backend}: {' '.join(command[1:])}", flush=True)
        ends[backend] = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": backend}).returncode
    failed = [name for name, end in ends.items() if end not in (PASSED, NOTHING_SELECTED)]
    nothing_ran = set(ends.values()) == {NOTHING_SELECTED}
    print(f"\nFailed on: {', '.join(failed)}." if failed else "\nNo test ran." if nothing_ran else "\nPassed on all three backends.")
    return bool(failed or nothing_ran)


if __name__ == "__main__":
    sys.exit(main())
