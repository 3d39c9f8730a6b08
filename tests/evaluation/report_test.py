import json
import re

import pytest

from keras_splitmask.evaluation import read_metrics, write_report


def write_run(folder, lines):
    (folder / "run.flags").write_text("--dataset=folder:<b>\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_curves_end_at_their_values_and_lie_within_the_chart(tmp_path):
    write_run(
        tmp_path,
        [{"step": 0, "knn_accuracy": 0.25}, {"step": 5, "loss": 4.0}, {"step": 10, "loss": 2.0, "knn_accuracy": 0.75}],
    )
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "loss 2<" in page and "knn_accuracy 0.75<" in page
    points = re.search(r'points="([^"]*)"', page)[
        1
    ]  # the loss: first the highest, halfway; then the lowest, at the right edge
    assert points == "210.0,10.0 412.0,160.0"
    assert "Gradient norm" not in page  # not measured, so not drawn
    assert "folder:&lt;b&gt;" in page and "folder:<b>" not in page


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 3.0}]
    write_report(tmp_path)
    assert "loss 3<" in (tmp_path / "report.html").read_text()


def test_lines_that_are_not_metrics_are_left_out(tmp_path):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}, 5, {"loss": 7.0}, [1]])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b"\xff notes\n" + b"[" * 100_000 + b'\n{"step": 2, "loss": 4.0}\n')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 4.0}]
    (tmp_path / "metrics.jsonl").unlink()
    write_report(tmp_path)  # of a run that could write none
    assert "<h2>Flags</h2>" in (tmp_path / "report.html").read_text()


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}])
    write_report(tmp_path)
    before = sorted(tmp_path.iterdir())

    def full(path, text, **options):
        with open(path, "w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path)
    assert sorted(tmp_path.iterdir()) == before and "loss 3<" in (tmp_path / "report.html").read_text()


def test_pictures_are_inside_the_page(tmp_path):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "inpainting_kmeans.png").write_bytes(b"abc")
    write_report(tmp_path)
    assert "data:image/png;base64,YWJj" in (tmp_path / "report.html").read_text()


def test_every_curve_of_a_chart_is_drawn(tmp_path):
    names = (
        "loss",
        "box_loss",
        "class_loss",
        "proposal_loss",
        "mask_loss",
        "auxiliary_loss",
        "inpaint_loss",
        "match_loss",
    )
    names += ("ap", "ap50", "mask_ap", "mean_iou", "pixel_accuracy")
    write_run(tmp_path, [{"step": step, **{name: i + 0.5 for i, name in enumerate(names)}} for step in (1, 2)])
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<polyline") == len(names) and all(f">{name} {i + 0.5}<" in page for i, name in enumerate(names))
    for figure in re.findall("<figure>.*?</figure>", page):
        colours = re.findall(r'stroke="(#\w+)"', figure)
        assert len(set(colours)) == len(colours)
