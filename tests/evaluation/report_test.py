import base64
import json
import re
import sys

import pytest

from keras_splitmask.evaluation import write_comparison, write_report


def write_run(folder, lines, **files):
    folder.mkdir(exist_ok=True)
    (folder / "run.flags").write_text("--dataset=folder:<b>\n--vocabulary=64\n--nojit\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))


def page_of(folder):
    write_report(folder)
    return (folder / "report.html").read_text()


def test_a_page_has_curves_a_verdict_and_flags(tmp_path):
    write_run(
        tmp_path,
        [
            {"step": 0, "knn_accuracy": 0.25},
            {"step": 5, "loss": 4.0, "seconds": 60},
            {"step": 10, "loss": 2.0, "knn_accuracy": 0.75, "feature_std": 0.9, "seconds": 120},
        ],
    )
    page = page_of(tmp_path)
    assert ">loss 2<" in page and ">kNN accuracy 75.0 %<" in page and page.count("<svg") == 3
    assert "Gradient norm" not in page  # not measured, so not drawn
    assert '<li class="good">The features have learnt: nearest neighbours classify 75.0%, 25.0%' in page
    assert '<li class="bad">Too few steps: 10.' in page
    assert "<div>time<b>2.0 min</b></div>" in page and "<div>kNN accuracy<b>75.0%</b></div>" in page
    assert "folder:&lt;b&gt;" in page and "folder:<b>" not in page


def test_tile_and_caption_show_the_last_line_of_the_log(tmp_path):
    # The last interval is shorter: its mean with the one before would be 3.026.
    write_run(tmp_path, [{"step": 50, "loss": 3.062}, {"step": 60, "loss": 2.79}])
    page = page_of(tmp_path)
    assert "<div>loss<b>2.79</b></div>" in page and ">loss 2.79<" in page


def test_an_unfinished_run_is_called_so(tmp_path):
    for name, step in (("one", 66), ("two", 445)):
        write_run(tmp_path / name, [{"step": step, "loss": 3.0}])
        with open(tmp_path / name / "run.flags", "a") as file:
            file.write("--steps=445\n")
    page = page_of(tmp_path / "one")
    assert "<div>step<b>66 of 445, unfinished</b></div>" in page
    assert '<li class="note">Unfinished: step 66 of 445.' in page
    assert "nfinished" not in page_of(tmp_path / "two")
    write_comparison(tmp_path / "both.html", [tmp_path / "one", tmp_path / "two"])
    assert "<td>step</td><td>66 of 445, unfinished</td><td>445</td>" in (tmp_path / "both.html").read_text()


def test_a_run_without_metrics_has_a_page(tmp_path):
    write_run(tmp_path, [])
    (tmp_path / "metrics.jsonl").unlink()
    page = page_of(tmp_path)
    assert "<h2>Flags</h2>" in page and "too few measurements" in page and "<h2>Results" not in page


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}])
    before = page_of(tmp_path)

    def full(path, text, **options):
        with open(path, "w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    files = sorted(tmp_path.iterdir())
    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path)
    assert sorted(tmp_path.iterdir()) == files and (tmp_path / "report.html").read_text() == before


def test_pictures_are_inside_the_page(tmp_path):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}])
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "confusion.png").write_bytes(b"abc")
    assert '<img alt="Confusion matrix" src="data:image/png;base64,YWJj">' in page_of(tmp_path)


def test_strips_are_shown_in_the_order_of_the_steps(tmp_path):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}])
    assert "over time" not in page_of(tmp_path)
    folder = tmp_path / "pictures" / "over_time"
    folder.mkdir(parents=True)
    for name in ("step-0000010000", "step-0000000250", "true_words", "original", "other"):
        (folder / f"{name}.png").write_bytes(name.encode())
    page = page_of(tmp_path)
    found = re.findall(
        '<figure><img alt="(.*?)" src="data:image/png;base64,(.*?)"><figcaption>(.*?)</figcaption>', page
    )
    assert [label for label, _, _ in found] == ["original", "step 250", "step 10,000", "true words"]
    assert [caption for _, _, caption in found] == [label for label, _, _ in found]
    assert base64.b64decode(found[1][1]) == b"step-0000000250"
    assert page.count("Inpainting over time") == 1


def test_results_of_the_whole_and_of_each_class(tmp_path):
    result = {"test_top1": 0.5, "steps": 10, "recall": {"cat": 1.0, "<d>": 0.25}, "ap/dog": 0.125, "classes": ["cat"]}
    write_run(tmp_path, [{"step": 1, "loss": 3.0}], result=result)
    page = page_of(tmp_path)
    assert '<td>top-1 accuracy on test</td><td class="number">50.0%</td>' in page
    cells = re.findall(r'<td>([^<]*)</td><td><meter min="0" max="1" value="([\d.]+)">', page)
    assert cells == [("&lt;d&gt;", "0.2500"), ("cat", "1.0000"), ("dog", "0.1250")]  # the worst class first


def test_a_foreign_result_is_left_out(tmp_path):
    write_run(tmp_path, [{"step": 1, "loss": 3.0}], result=[1], data={"splits": {"train": 3}})
    assert "<h2>Results" not in page_of(tmp_path)
    (tmp_path / "result.json").write_text("{")
    assert "<h2>Results" not in page_of(tmp_path)


def test_data_and_what_was_left_out(tmp_path):
    broken = {f"{i}.jpg": "cut off" for i in range(60)}
    splits = {
        "train": {"summary": "9 images of 8x8", "left_out": {"a&b.txt": "no image"}, "broken": {}},
        "test": {"summary": "3 images", "left_out": {}, "broken": broken},
    }
    write_run(tmp_path, [{"step": 1, "loss": 3.0}], data={"splits": splits})
    page = page_of(tmp_path)
    assert "<td>train</td><td>9 images of 8x8</td>" in page and "<td>test</td><td>3 images</td>" in page
    assert "61 files were left out" in page and "a&amp;b.txt: no image" in page
    assert "48.jpg: cut off" in page and "49.jpg" not in page and "and 11 more, see data.json" in page
    write_run(tmp_path, [], data={"splits": {"train": {"summary": "9 images", "left_out": {}, "broken": {}}}})
    assert "Nothing left out." in page_of(tmp_path)


def test_without_matplotlib_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_run(tmp_path, [{"step": 1, "loss": 3.0}], result={"test_top1": 0.5})
    said = []
    write_report(tmp_path, said.append)
    page = (tmp_path / "report.html").read_text()
    assert len(said) == 1 and said[0].endswith("Run: pip install matplotlib") and "pip install matplotlib" in page
    assert "<svg" not in page and "50.0%" in page and "<h2>Verdict" in page


def test_a_comparison_has_the_curves_results_and_differing_flags_of_each_run(tmp_path):
    for name, rate, loss in (("first", 0.1, 2.0), ("second", 0.2, 1.5)):
        lines = [{"step": 5, "loss": 4.0, "seconds": 60}, {"step": 10, "loss": loss, "seconds": 120}]
        write_run(tmp_path / name, lines, result={"test_top1": rate})
        with open(tmp_path / name / "run.flags", "a") as file:
            file.write(f"--learning_rate={rate}\n--workdir={name}\n")
    write_comparison(tmp_path / "both.html", [tmp_path / "first", tmp_path / "second"])
    page = (tmp_path / "both.html").read_text()
    assert "<h2>Over steps</h2>" in page and "<h2>Over minutes</h2>" in page and page.count("<svg") == 2
    assert page.count(">first 2<") == page.count(">second 1.5<") == 2
    assert "<td>top-1 accuracy on test</td><td>10.0%</td><td>20.0%</td>" in page
    assert "<td>learning rate</td><td>0.1</td><td>0.2</td>" in page and "<td>vocabulary" not in page
    assert "workdir" not in page


def test_runs_of_different_kinds_are_drawn_apart(tmp_path):
    for name, flag in (("before", "--method=mae"), ("after", "--mixup=0.0")):
        write_run(tmp_path / name, [{"step": 5, "loss": 4.0, "seconds": 60}])
        with open(tmp_path / name / "run.flags", "a") as file:
            file.write(f"{flag}\n")
    write_comparison(tmp_path / "both.html", [tmp_path / "before", tmp_path / "after"])
    page = (tmp_path / "both.html").read_text()
    heads = ["Pre-training: over steps", "Fine-tuning: over steps", "Pre-training: over minutes"]
    assert re.findall("<h2>(.*?)</h2>", page)[1:5] == [*heads, "Fine-tuning: over minutes"]
    charts = re.findall("<svg.*?</svg>", page, re.DOTALL)
    assert [(">before 4<" in chart, ">after 4<" in chart) for chart in charts] == [(True, False), (False, True)] * 2
    colours = [re.search(r"stroke: (#2b83ba|#d55e00)", chart)[1] for chart in charts]
    assert colours == ["#2b83ba", "#d55e00"] * 2  # a run's colour is the same in all charts


def test_runs_of_the_same_name_are_listed_by_their_paths(tmp_path):
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for folder in folders:
        folder.parent.mkdir()
        write_run(folder, [{"step": 5, "loss": 4.0}])
    write_comparison(tmp_path / "both.html", folders)
    assert all(f"<th>{folder}</th>" in (tmp_path / "both.html").read_text() for folder in folders)
