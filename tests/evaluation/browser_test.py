"""The report in a browser, at the width of a telephone and of a screen, light and dark."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.evaluation import save_feature_map, write_comparison, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (400, 1400)
# The page in frames of both widths, and what they measure.
HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const page = %s, measured = [];
for (const width of %s) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.srcdoc = page;
  frame.onload = () => {
    const view = frame.contentWindow, root = frame.contentDocument.documentElement;
    const style = view.getComputedStyle(frame.contentDocument.body);
    const letters = [...frame.contentDocument.querySelectorAll("svg text")].map(text => text.getBoundingClientRect());
    measured.push({width: view.innerWidth, wide: root.scrollWidth, charts: root.querySelectorAll("svg").length,
      strips: [...root.querySelectorAll(".strips figure")].map(strip => strip.getBoundingClientRect().toJSON()),
      colour: style.color, background: style.backgroundColor,
      right: Math.max(...letters.map(box => box.right)), smallest: Math.min(...letters.map(box => box.height))});
    document.body.dataset.measured = JSON.stringify(measured);
  };
  document.body.append(frame);
}
</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a run with everything in it, and a comparison of two runs with long names."""
    folder = tmp_path_factory.mktemp("browser")
    runs = [folder / name for name in ("one", "a_run_with_a_long_name_" * 5)]
    names = ("loss", "match_loss", "knn_accuracy", "feature_std", "learning_rate", "images_per_second")
    for run in runs:
        (run / "pictures").mkdir(parents=True)
        lines = [{"step": 50 * i, "seconds": 9.0 * i, **{n: 1 / (i + 1) for n in names}} for i in range(40)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (run / "run.flags").write_text(f"--dataset=folder:{'/a/long/path' * 20}\n--seed={len(run.name)}\n")
    result = {"test_top1": 0.5, "recall": {f"{'class' * 12}{i}": i / 30 for i in range(30)}}
    (runs[0] / "result.json").write_text(json.dumps(result))
    record = {"splits": {"train": {"summary": "9 images", "left_out": {"x" * 200: "cut off"}, "broken": {}}}}
    (runs[0] / "data.json").write_text(json.dumps(record))
    rng = np.random.default_rng(0)
    save_feature_map(runs[0] / "pictures" / "feature_map.png", rng.standard_normal((40, 5)), ["cat", "dog"] * 20)
    (runs[0] / "pictures" / "over_time").mkdir()
    for name in ("original", "seen", "true_words", *(f"step-{10**i:010d}" for i in range(3, 8))):
        picture = Image.fromarray(rng.integers(0, 256, (460, 112, 3), "uint8"))
        picture.save(runs[0] / "pictures" / "over_time" / f"{name}.png")
    write_report(runs[0])
    write_comparison(folder / "both.html", runs)
    return folder, [runs[0] / "report.html", folder / "both.html"]


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_pages_fit_and_are_readable(pages, dark, which, tmp_path):
    folder, paths = pages
    text = json.dumps(paths[which].read_text()).replace("</", "<\\/")
    (tmp_path / "harness.html").write_text(HARNESS % (text, list(WIDTHS)))
    end = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (tmp_path / "harness.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not [line for line in end.stderr.splitlines() if "CONSOLE" in line]
    measured = json.loads(html.unescape(re.search(r'data-measured="([^"]*)"', end.stdout)[1]))
    assert sorted(found["width"] for found in measured) == list(WIDTHS)
    for found in measured:
        assert found["wide"] <= found["width"], found  # nothing to scroll sideways
        assert found["right"] <= found["width"] and found["smallest"] >= 9, found  # letters of the charts
        assert found["charts"] >= 5, found
        assert len(found["strips"]) == (8 if which == 0 else 0)
        assert all(strip["width"] >= 80 and strip["right"] <= found["width"] for strip in found["strips"]), found
        tops = {strip["top"] for strip in found["strips"]}
        assert len(tops) <= (1 if found["width"] == 1400 else 3), tops  # beside each other on a screen
        lights = [sum(map(int, re.findall(r"\d+", found[name])[:3])) / 765 for name in ("background", "colour")]
        assert lights[0] < 0.15 < 0.8 < lights[1] if dark else lights[1] < 0.2 < 0.9 < lights[0], found
