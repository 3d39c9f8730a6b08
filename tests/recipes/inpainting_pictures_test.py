"""Pictures during pre-training: when they are drawn, and that they do not change the run."""

import re

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.training import checkpoints
from recipes.shared import inpainting_pictures


def small(arrays):
    return (f"--dataset=npz:{arrays}", "--size=vit_micro", "--vocabulary=8", "--batch_size=4", "--log_every=2")


def test_a_run_records_them_and_the_report_shows_them(pretrained):
    names = ["original", "seen", "step-0000000002", "step-0000000005", "true_words"]
    files = [f"pictures/over_time/{name}.png" for name in names]
    assert [path.relative_to(pretrained).as_posix() for path in sorted(pretrained.glob("*/over_time/*"))] == files
    assert {*files} < {*(pretrained / "run.files").read_text().splitlines()}
    captions = re.findall("<figcaption>(.*?)</figcaption></figure>", (pretrained / "report.html").read_text())
    assert captions == ["original", "seen", "step 2", "step 5", "true words"]
    heads = re.findall("<h2>(Inpainting.*?)</h2>", (pretrained / "report.html").read_text())
    assert "--views=2\n" in (pretrained / "run.flags").read_text()
    assert heads == [
        "Inpainting over time, from one part of the image",
        "Inpainting at the end, both parts of one view",
    ]
    for file in files:
        with Image.open(pretrained / file) as picture:
            assert picture.size == (112, 4 * 67 + 3 * 4)  # four images of 48x80, and gaps


def test_a_run_that_resumes_draws_what_it_would_have_drawn(here, arrays, tmp_path, monkeypatch, stop_at_step):
    given = (*small(arrays), "--steps=7")
    assert here("pretrain", *given, f"--workdir={tmp_path / 'whole'}").status == 0
    stop_at_step(3)
    assert here("pretrain", *given, f"--workdir={tmp_path / 'run'}").status == 75
    monkeypatch.undo()
    # Other pictures at the end do not change those before.
    assert here("pretrain", *given, f"--workdir={tmp_path / 'run'}", "--pictures=2").status == 0
    drawn = [
        {path.name: path.read_bytes() for path in (tmp_path / run / "pictures" / "over_time").iterdir()}
        for run in ("whole", "run")
    ]
    assert drawn[0] == drawn[1]
    assert [name for name in sorted(drawn[0]) if "step" in name] == [f"step-{step:010d}.png" for step in (2, 4, 7)]


def test_a_run_is_the_same_without_pictures_and_when_they_cannot_be_written(here, arrays, tmp_path, monkeypatch):
    save = Image.Image.save

    def full(picture, path, **options):
        if "step-0000000002" in str(path):
            raise OSError(28, "No space left on device")
        save(picture, path, **options)

    drawn, kept = [], []
    for name, more in (("with", []), ("without", ["--pictures=0"]), ("full", [])):
        if name == "full":
            monkeypatch.setattr(Image.Image, "save", full)
        end = here("pretrain", *small(arrays), "--steps=4", f"--workdir={tmp_path / name}", *more)
        assert end.status == 0 and not end.err
        said = "no picture of step 2: No space left on device; the run goes on without it\n"
        assert (said in end.out) == (name == "full")
        drawn.append(sorted(path.name for path in tmp_path.glob(f"{name}/pictures/over_time/step-*.png")))
        kept.append(checkpoints.load_newest(tmp_path / name / "checkpoints")[2])
    assert drawn == [["step-0000000002.png", "step-0000000004.png"], [], ["step-0000000004.png"]]
    for other in kept[1:]:
        assert all(np.array_equal(kept[0][name], other[name]) for name in kept[0])  # random numbers, too


@pytest.mark.parametrize(
    ("steps", "interval", "expected"),
    [
        (800, 50, [50, 100, 200, 400, 800]),
        (900, 100, [100, 200, 300, 500, 900]),  # at the end of the interval in which a part ends
        (5, 2, [2, 5]),
        (1, 100, [1]),
        (10**6, 1, [62500, 125000, 250000, 500000, 10**6]),
    ],
)
def test_pictures_are_drawn_five_times_and_at_the_end(steps, interval, expected):
    ends = [*range(0, steps, interval), steps] if interval > 1 else [0, *expected, 62499, 62501, 999_999]
    assert [end for end in ends if inpainting_pictures.is_due(end, steps, interval)] == expected
