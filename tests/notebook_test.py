"""The notebook of the guides holds the results of a run, and its cells run."""

import json
import re

import pytest

from tests import pages
from tests.running import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
LARGEST = 500_000  # bytes


@pytest.fixture(scope="module")
def cells():
    return [
        {**cell, "source": "".join(cell["source"])}
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    ]


def test_every_cell_was_run_once_in_order_without_an_error(cells):
    ran = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in ran] == [*range(1, len(ran) + 1)] and len(ran) >= 6
    outputs = [output for cell in ran for output in cell["outputs"]]
    kinds = {output["output_type"] for output in outputs}
    assert kinds <= {"stream", "execute_result"} and {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 3


def test_it_is_small_and_names_no_path_of_a_machine(cells):
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    texts = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.findall(r"(?<![\w.:/])/(?:\w+/)+\w+|\\u001b|[A-Za-z]:\\\\", texts)


@pytest.mark.endurance
def test_its_cells_run(cells, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, programs = {}, []
    for cell in cells:
        text = cell["source"]
        if cell["cell_type"] != "code":
            continue
        if not text.startswith("%%bash\nsplitmask "):
            exec(compile(text, NOTEBOOK, "exec"), names)
            continue
        program, *arguments = text.split()[2:]
        end = here(program, *pages.tiny(program, arguments))
        assert end.status == 0 and not end.err, end.err
        programs.append(program)
    assert programs == ["pretrain", "finetune"]
    assert names["vectors"].shape == (2000, 16) and names["result"]["class_name"] in names["classes"]
