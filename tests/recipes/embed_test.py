"""embed.py on a small encoder: its files hold the encoder's features, and its comparisons find what was planted."""

import csv
import json
import os
import shutil
import signal
import sys

import keras
import numpy as np
import pytest

import keras_splitmask as ks

pytest.importorskip("PIL.Image")

from PIL import Image  # noqa: E402

from recipes.shared import earlier  # noqa: E402

COUNT = 30


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The file of an untrained encoder: its features tell images apart, too."""
    path = tmp_path_factory.mktemp("models") / "encoder.keras"
    keras.utils.set_random_seed(0)
    ks.Encoder((16, 24, 3), 8, 24, 2, 2).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 30 smooth pictures, two folders deep, none like another."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for i in range(COUNT):
        path = root / "ab"[i % 2] / "deep" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(rng).save(path)
    return root


def picture(rng):
    return Image.fromarray(rng.integers(0, 256, (3, 4, 3), "uint8")).resize((40, 30), Image.Resampling.BICUBIC)


def names_of(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.backend
def test_an_npz_file_holds_the_features_of_the_encoder(here, encoder, photos, tmp_path):
    output = tmp_path / "features.npz"
    given = (f"--init_from={encoder}", f"--images={photos}", f"--output={output}", "--batch_size=8")
    end = here("embed", *given, "--features=pooled,cls,patches")
    assert end.status == 0 and not end.err and "30 images, pooled 30x24, cls 30x24, patches 30x2x3x24" in end.out
    images, _ = ks.data.read_all(ks.data.open_images(photos, 3), (16, 24, 3))
    expected = ks.interchange.load_encoder(encoder).predict(images, verbose=0)
    with np.load(output) as content:
        assert content["names"].tolist() == names_of(photos)
        for name, of_encoder in (("pooled", "pooled"), ("cls", "cls"), ("patches", "feature_map")):
            assert content[name].dtype == np.float32
            np.testing.assert_allclose(content[name], expected[of_encoder], atol=1e-4)
    assert sorted(os.listdir(tmp_path)) == ["features.npz", "features.npz.json"]
    names, features = ks.embed_images(ks.interchange.load_encoder(encoder), photos, ("cls",), batch_size=7)
    assert names == names_of(photos)
    np.testing.assert_allclose(features["cls"], expected["cls"], atol=1e-4)


def test_npy_and_parquet_hold_the_same(here, encoder, photos, tmp_path, monkeypatch):
    given = (f"--init_from={encoder}", f"--images={photos}")
    for name in ("all.npz", "some.npy", "table.parquet"):
        if name == "table.parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
        kinds = "cls" if name == "some.npy" else "cls,patches"
        assert here("embed", *given, f"--output={tmp_path / name}", f"--features={kinds}").status == 0
    with np.load(tmp_path / "all.npz") as content:
        names, cls, patches = content["names"].tolist(), content["cls"], content["patches"]
    np.testing.assert_array_equal(np.load(tmp_path / "some.npy"), cls)
    assert json.loads((tmp_path / "some.npy.json").read_text())["names"] == names
    table = parquet.read_table(tmp_path / "table.parquet")
    assert table["file"].to_pylist() == names
    np.testing.assert_array_equal(np.array(table["cls"].to_pylist(), "float32"), cls)
    np.testing.assert_array_equal(np.array(table["patches"].to_pylist(), "float32"), patches.reshape(COUNT, -1))
    assert table.schema.field("patches").metadata == {b"shape": b"2,3,24"}
    assert (
        here("embed", *given, f"--output={tmp_path / 'table.parquet'}", "--features=cls,patches", "--outliers").status
        == 0
    )
    assert len(rows_of(tmp_path / "table.outliers.csv")) == COUNT
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    end = here("embed", *given, f"--output={tmp_path / 'other.parquet'}")
    assert end.status == 2 and end.err.endswith("Run: pip install pyarrow\n") and end.err.count("\n") == 1


def test_a_stopped_run_resumes_to_equal_features(here, encoder, photos, tmp_path, monkeypatch):
    mixed = tmp_path / "mixed"
    shutil.copytree(photos, mixed)
    whole = (mixed / "a/deep/04.png").read_bytes()
    (mixed / "a/deep/04.png").write_bytes(whole[:60] + bytes(b ^ 255 for b in whole[60:90]) + whole[90:])
    (mixed / "text.jpg").write_text("no image")
    given = (f"--init_from={encoder}", f"--images={mixed}", "--batch_size=4", "--features=pooled,patches")
    end = here("embed", *given, f"--output={tmp_path / 'whole.npz'}")
    assert end.status == 0 and "29 images, pooled 29x24" in end.out and "2 images left out" in end.out
    assert set(json.loads((tmp_path / "whole.npz.json").read_text())["left_out"]) == {"a/deep/04.png", "text.jpg"}
    run_model, calls = ks.prediction.run_model, []

    def stop(*arguments):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return run_model(*arguments)

    monkeypatch.setattr(ks.prediction.embedding, "run_model", stop)
    assert here("embed", *given, f"--output={tmp_path / 'parts.npz'}").status == 75
    assert not (tmp_path / "parts.npz").exists()
    with open(tmp_path / "parts.npz.part" / "pooled", "ab") as file:
        file.write(b"half a row")  # as a killed process leaves it
    monkeypatch.setattr(ks.prediction.embedding, "run_model", run_model)
    end = here("embed", *given, f"--output={tmp_path / 'parts.npz'}")
    assert end.status == 0 and "resumed at image 12 of 30" in end.out
    with np.load(tmp_path / "whole.npz") as expected, np.load(tmp_path / "parts.npz") as found:
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name])
    assert not (tmp_path / "parts.npz.part").exists()


def test_planted_duplicates_outliers_and_neighbours_are_found(here, encoder, photos, tmp_path):
    folder = tmp_path / "planted"
    shutil.copytree(photos, folder)
    image = Image.open(photos / "a/deep/00.png")
    image.save(folder / "copy.png")
    image.save(folder / "copy.jpg", quality=90)
    image.resize((60, 45), Image.Resampling.BICUBIC).save(folder / "larger.png")
    shutil.copy(photos / "b/deep/07.png", folder / "seven.png")
    checks = np.indices((30, 40)).sum(axis=0) % 2 * 255
    Image.fromarray(checks.astype("uint8")).save(folder / "odd.png")
    output = tmp_path / "features.npz"
    given = (f"--init_from={encoder}", f"--images={folder}", f"--output={output}")
    end = here("embed", *given, "--duplicates", "--outliers", "--near=5", f"--neighbours={folder / 'copy.png'}")
    assert end.status == 0 and not end.err
    groups = {}
    for row in rows_of(tmp_path / "features.duplicates.csv"):
        groups.setdefault(row["group"], set()).add(row["file"])
        assert float(row["similarity"]) >= 0.98
    assert list(groups.values()) == [
        {"a/deep/00.png", "copy.png", "copy.jpg", "larger.png"},
        {"b/deep/07.png", "seven.png"},
    ]
    assert "duplicates: 6 images in 2 groups" in end.out and "without 4 of them, one of each is left" in end.out
    options = f"--groups={tmp_path / 'features.duplicates.csv'} --dataset=folder:{folder} --init_from={encoder}"
    assert f"finetune.py {options} --workdir={tmp_path / 'features'}-tuned\n" in end.out
    outliers = rows_of(tmp_path / "features.outliers.csv")
    assert outliers[0]["file"] == "odd.png" and len(outliers) == COUNT + 5
    near = rows_of(tmp_path / "features.neighbours.csv")
    assert len(near) == 5 and {row["file"] for row in near[:3]} == {"a/deep/00.png", "copy.jpg", "larger.png"}
    assert near[0] == {"rank": "1", "file": "a/deep/00.png", "similarity": "1.0000"}
    for name in ("duplicates", "outliers", "neighbours"):
        with Image.open(tmp_path / f"features.{name}.png") as drawn:
            assert drawn.width > 300
    end = here("embed", *given, "--duplicates", "--threshold=0.9999999")
    assert (
        end.status == 0 and "already holds these features" in end.out and "duplicates: 4 images in 2 groups" in end.out
    )
    shutil.copytree(encoder.parent, tmp_path / "short")
    (tmp_path / "short" / "metrics.jsonl").write_text('{"step": 55, "feature_std": 0.9}\n')
    model = tmp_path / "short" / encoder.name
    end = here("embed", f"--init_from={model}", given[1], f"--output={tmp_path / 'b.npz'}", "--duplicates")
    assert end.status == 0 and "--groups" not in end.out
    starts = [line.split()[0] for line in end.out.splitlines()]
    assert "warning   Too few steps: 55." in end.out and starts.index("warning") < starts.index("duplicates:"), end.out
    end = here("embed", f"--init_from={model}", given[1], f"--output={tmp_path / 'b.npz'}")
    assert end.status == 0 and "warning   Too few" in end.out and "--duplicates" not in end.out


def test_other_settings_are_refused_and_replaced_only_if_asked(here, refused, encoder, photos, tmp_path):
    output = tmp_path / "features.npz"
    given = (f"--init_from={encoder}", f"--images={photos}", f"--output={output}")
    assert here("embed", *given).status == 0
    assert "holds features with other values of crop_ratio" in refused("embed", *given, "--crop_ratio=0.5")
    before = np.load(output)["pooled"]
    assert here("embed", *given, "--crop_ratio=0.5", "--overwrite").status == 0
    assert np.abs(np.load(output)["pooled"] - before).max() > 1e-3


def test_nothing_is_left_if_no_image_can_be_read(here, refused, encoder, photos, tmp_path):
    """So the same command works once the file is repaired."""
    whole, path = (photos / "a/deep/00.png").read_bytes(), tmp_path / "one.png"
    path.write_bytes(whole[:60] + bytes(b ^ 255 for b in whole[60:90]) + whole[90:])  # a good header
    given = (f"--init_from={encoder}", f"--images={path}", f"--output={tmp_path / 'out' / 'f.npz'}")
    assert "Expected readable images, received none of 1, such as" in refused("embed", *given)
    assert os.listdir(tmp_path) == ["one.png"]
    path.write_bytes(whole)
    assert here("embed", *given).status == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["f.npz", "f.npz.json"]


def test_a_model_that_gives_nan_leaves_nothing(refused, photos, tmp_path):
    model = ks.Encoder((16, 24, 3), 8, 24, 2, 2)
    weight = model.trainable_weights[0]
    weight.assign(keras.ops.full_like(weight, np.nan))
    model.save(tmp_path / "nan.keras")
    given = (f"--init_from={tmp_path / 'nan.keras'}", f"--images={photos}", f"--output={tmp_path / 'f.npz'}")
    assert "received NaN or infinity for a/deep/00.png; its weights are damaged" in refused("embed", *given)
    assert os.listdir(tmp_path) == ["nan.keras"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images={photos}", "--output={tmp}/f.npz"], "Expected --init_from: Run folder"),
        (["--init_from={run}", "--output={tmp}/f.npz"], "Expected --images: Folder of images"),
        (["--init_from={run}", "--images={photos}"], "Expected --output: File of the features"),
        (["--init_from={run}", "--images={photos}", "--output={tmp}/f.txt"], "to end in .npz, .npy, .parquet"),
        (["--init_from={run}", "--images={photos}", "--output={tmp}/f.npy", "--features=cls,pooled"], "one kind of"),
        (["--init_from={run}", "--images={photos}", "--output={tmp}/f.npz", "--features=deep"], "received deep."),
        (["--init_from={run}", "--images={photos}", "--output={photos}/f.npz"], "Expected --output outside of the"),
        (["--init_from={run}", "--images={photos}", "--output={tmp}/mine.npz"], "that does not exist yet"),
        (["--init_from={run}", "--images={tmp}/five.npy", "--output={tmp}/f.npz"], "3 channels, received 5"),
        (["--init_from={run}", "--images={photos}", "--output={tmp}/mine.npz/f.npz"], "(Not a directory); choose"),
        (["--init_from={run}", "--images={photos}", f"--output={{tmp}}/{'x' * 300}.npz"], "200 bytes, received 304"),
        (["--init_from={run}", "--images={photos}", f"--output={{tmp}}/a/{'x' * 300}/f.npz"], "(File name too long)"),
        (
            ["--init_from={run}", "--images={photos}", "--output=/proc/x/f.npz"],
            "that can be written to, received /proc",
        ),
        (["--init_from={tmp}/none", "--images={photos}", "--output={tmp}/f.npz"], "Model not found"),
        (
            ["--init_from={run}", "--images={photos}", "--output={tmp}/f.npz", "--features=patches", "--outliers"],
            "Expected pooled or cls",
        ),
    ],
)
def test_bad_input_ends_in_one_line(refused, encoder, photos, tmp_path, flags, message):
    np.save(tmp_path / "five.npy", np.zeros((4, 20, 24, 5), "uint8"))
    np.savez(tmp_path / "mine.npz", 1)
    places = {"run": encoder, "photos": photos, "tmp": tmp_path}
    assert message in refused("embed", *(flag.format(**places) for flag in flags))


def test_by_the_command(command, encoder, photos, tmp_path):
    given = (f"--init_from={encoder}", f"--images={photos}", f"--output={tmp_path / 'f.npz'}", "--duplicates")
    end = command("embed", *given, f"--neighbours={photos / 'a/deep/02.png'}")
    assert end.status == 0 and not end.err and "neighbours of " in end.out
    assert "no near-duplicates" in end.out and "--groups" not in end.out


@pytest.mark.parametrize(
    ("steps", "spread", "word"), [(55, 0.9, "Too few steps: 55."), (900, 0.01, "Collapsed"), (900, 0.9, "")]
)
def test_features_that_may_mean_little_are_not_compared_in_silence(tmp_path, steps, spread, word):
    line = {"step": steps, "interval": 50, "feature_std": spread, "loss": 1.0}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(line)}\n")
    found = earlier.doubts(tmp_path)
    assert len(found) == bool(word) and all(text.startswith(word) for text in found)
    assert earlier.doubts(tmp_path / "model.keras") == found and not earlier.doubts(tmp_path / "none" / "model.keras")
