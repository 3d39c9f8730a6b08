"""What a run says about itself is checked before it is used."""

import json
import types

import pytest

from recipes.shared import commandline, earlier

MODEL = types.SimpleNamespace(crop_ratio=0.7)


@pytest.mark.parametrize(("line", "expected"), [("--crop_ratio=0.5", 0.5), ("--crop_ratio=1", 1.0), ("--seed=0", 0.7)])
def test_the_crop_ratio_of_a_run(tmp_path, line, expected):
    (tmp_path / "run.flags").write_text(f"{line}\n")
    assert earlier.crop_ratio(tmp_path, MODEL) == earlier.crop_ratio(tmp_path / "model.keras", MODEL) == expected


@pytest.mark.parametrize("text", ["0", "1.5", "-1", "nan", "half"])
def test_a_wrong_crop_ratio_of_a_run_is_refused(tmp_path, text):
    (tmp_path / "run.flags").write_text(f"--crop_ratio={text}\n")
    with pytest.raises(commandline.BadInput, match=rf"above 0 and at most 1 in .*run.flags, received {text}; "):
        earlier.crop_ratio(tmp_path, MODEL)


@pytest.mark.parametrize(
    ("value", "expected"),
    [([3, 7], [3, 7]), ([1, 2, 3], None), (None, None), ([0, 65535], [0, 65535])],
)
def test_the_class_numbers_of_a_run(tmp_path, value, expected):
    (tmp_path / "result.json").write_text(json.dumps({"class_numbers": value}))
    assert earlier.class_numbers(tmp_path, "class_numbers", 2) == expected


@pytest.mark.parametrize("value", [["a", "b"], [1, 1], [0, 65536], [-1, 0], [0.5, 1], "ab", 7, {"a": 1}, [True, 0]])
def test_wrong_class_numbers_of_a_run_are_refused(tmp_path, value):
    (tmp_path / "result.json").write_text(json.dumps({"class_numbers": value}))
    with pytest.raises(commandline.BadInput, match="different whole numbers from 0 to 65535, received "):
        earlier.class_numbers(tmp_path, "class_numbers", 2)


def test_ids_of_categories_may_be_large(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"category_ids": [70_000, 1]}))
    assert earlier.class_numbers(tmp_path, "category_ids", 2) == [70_000, 1]


def test_flags_of_a_run(tmp_path):
    (tmp_path / "run.flags").write_text("# Relative paths begin in /\n--frozen\n--nomasks\n--seed=0\n--workdir=a=b\n")
    names = ("frozen", "masks", "seed", "workdir", "work", "missing")
    assert [earlier.flag_of_run(tmp_path, name) for name in names] == ["true", "", "0", "a=b", "", ""]
    assert earlier.flag_of_run(tmp_path / "model.keras", "seed") == "0"
