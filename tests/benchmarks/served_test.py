import json

import numpy as np

from tests import class_folders, running


def test_a_program_is_measured(here, python, tmp_path):
    rng = np.random.default_rng(0)
    given = class_folders.noise(tmp_path / "set", rng, train__a=4, train__b=4, test__a=2, test__b=2)
    assert here("finetune", given, *class_folders.FOLDERS, f"--workdir={tmp_path / 'run'}").status == 0
    own = [f"--init_from={tmp_path / 'run'}", given, f"--workdir={tmp_path / 'served'}", "--layouts=saved_model"]
    out = python(running.ROOT / "benchmarks" / "served.py", *own, backend="torch", PYTHONPATH=str(running.ROOT))
    assert "| saved_model | none | " in out
    written = json.loads((tmp_path / "served" / "served.json").read_text())
    (row,) = written["programs"]
    assert written["images"] == 4 and row["same"] == 1 and row["accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    assert row["bytes"] > 10_000 and row["milliseconds"] > 0
