import json
import sys

import pytest


@pytest.fixture
def runs(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders, 1):
        folder.mkdir()
        lines = [{"step": step, "loss": number + 1 / step, "seconds": 60.0 * step} for step in (1, 2, 4)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "run.flags").write_text(f"--seed={number}\n--size=vit_micro\n")
    return folders


def test_runs_are_compared_on_one_page(here, runs, tmp_path):
    output = tmp_path / "both.html"
    end = here("report", f"--runs={runs[0]},{runs[1]}", f"--output={output}")
    assert (end.status, end.err, end.out) == (0, "", f"report    {output}\n")
    page = output.read_text()
    assert page.count(">one 1.") == page.count(">two 2.") == 2 and ">minutes<" in page and ">step<" in page
    assert "<td>seed</td><td>1</td><td>2</td>" in page and "<td>size</td>" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.html", "one", "two"]


def test_the_report_of_a_run_is_written_again(here, runs):
    end = here("report", f"--runs={runs[0]}")
    assert (end.status, end.err, end.out) == (0, "", f"report    {runs[0] / 'report.html'}\n")
    assert "<h2>Verdict</h2>" in (runs[0] / "report.html").read_text()


def test_without_matplotlib_one_line_says_what_to_install(here, runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    end = here("report", f"--runs={runs[0]},{runs[1]}", f"--output={tmp_path / 'both.html'}")
    assert end.status == 0 and end.out.count("pip install matplotlib") == 1
    assert "<td>seed</td>" in (tmp_path / "both.html").read_text()


def test_what_is_no_run_is_refused(refused, runs, tmp_path):
    missing = "report.py: Expected --runs: Folders of the runs, separated by commas; received none.\n"
    assert refused("report", "--runs=") == refused("report") == missing
    assert refused("report", f"--runs={tmp_path / 'three'}").startswith("report.py: Folder not found: ")
    assert "without metrics.jsonl" in refused("report", f"--runs={runs[0]},{tmp_path}")
    given = f"--runs={runs[0]},{runs[1]}"
    assert "to be an HTML file" in refused("report", given, f"--output={runs[0] / 'run.flags'}")
    assert "can be written" in refused("report", given, f"--output={tmp_path / 'none' / 'both.html'}")
