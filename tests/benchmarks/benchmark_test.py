import functools
import importlib.util
import json
import re
from unittest import mock

import keras
import pytest

import keras_splitmask as ks

SMALL = ("--image_size=8x12", "--channels=3", "--vocabulary=16", "--batch_size=4", "--steps=1", "--repeats=2")


@pytest.fixture
def compiled_soon(monkeypatch):
    """torch.compile without the minute that its C++ compiler takes."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.backend
def test_the_step_written_by_hand_is_the_same_and_every_contender_is_timed(here, tmp_path):
    end = here("benchmark", *SMALL, f"--json={tmp_path / 'table.json'}")
    assert end.status == 0 and not end.err, end.err
    ((name, difference),) = re.findall(r"^equal .* in (\w+), relative difference (\S+)$", end.out, re.MULTILINE)
    assert name == "by_hand" and float(difference) < 1e-4

    result = json.loads((tmp_path / "table.json").read_text())
    rows = {row["step"]: row for row in result["rows"]}
    assert set(rows) == {"keras_splitmask", "by_hand", "inpaint_weight=0", "match_weight=0"}
    for name, row in rows.items():
        assert re.search(rf"^{name} .*%$", end.out, re.MULTILINE)
        assert row["images_per_second"] == pytest.approx(4 / row["ms"] * 1e3) and 0 < row["share_of_peak"] < 1
    assert rows["by_hand"]["ratio"] == rows["by_hand"]["ratio_min"] == rows["by_hand"]["ratio_max"] == 1
    assert (
        result["backend"] == keras.backend.backend()
        and result["memory_bytes"]["process"] > 2**26
        and result["peak_gflops"] > 0.1
    )


@pytest.mark.parametrize("method", ["beit", "mae"])
def test_another_method_is_timed_in_its_place(here, tmp_path, method):
    end = here("benchmark", *SMALL, f"--beside={method}", f"--json={tmp_path / 'table.json'}")
    assert end.status == 0 and not end.err and "equal" not in end.out
    rows = {row["step"]: row for row in json.loads((tmp_path / "table.json").read_text())["rows"]}
    assert set(rows) == {"keras_splitmask", method, "inpaint_weight=0", "match_weight=0"}
    assert rows[method]["ratio"] == 1 and all(
        0.1 < row["ratio"] < 100 and 0 < row["share_of_peak"] < 1 for row in rows.values()
    )
    assert f"to {method} (min..max)" in end.out


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="Hugging Face's steps are in torch, so they are timed there once."
)
@pytest.mark.backend
@pytest.mark.parametrize("flags", [["--precision=float32"], ["--precision=bfloat16", "--compile"]])
def test_what_one_would_use_instead(here, tmp_path, compiled_soon, flags):
    pytest.importorskip("transformers")
    end = here(
        "benchmark",
        "--image_size=8x8",
        *SMALL[1:],
        *flags,
        "--beside=hf_mae,hf_beit",
        f"--json={tmp_path / 'table.json'}",
    )
    assert end.status == 0 and not end.err, end.err
    rows = {row["step"]: row for row in json.loads((tmp_path / "table.json").read_text())["rows"]}
    assert (
        set(rows) == {"keras_splitmask", "hf_mae", "hf_beit", "inpaint_weight=0", "match_weight=0"}
        and rows["hf_mae"]["ratio"] == 1
    )


@pytest.mark.backend
@pytest.mark.long
def test_in_half_precision_beside_a_compiled_step_and_with_parts(here, tmp_path, compiled_soon):
    """What docs/speed.md says to run on a GPU, but for its size and for what Hugging Face has."""
    parts = (
        ["--parts"] if keras.backend.backend() != "tensorflow" else []
    )  # whose six steps TensorFlow takes long to trace
    flags = ("--precision=bfloat16", "--beside=torch_by_hand,by_hand", "--compile", f"--json={tmp_path / 'table.json'}")
    end = here("benchmark", *SMALL, *flags, *parts)
    assert end.status == 0 and not end.err, end.err
    differences = dict(re.findall(r"^equal .* in (\w+), relative difference (\S+)$", end.out, re.MULTILINE))
    assert set(differences) == {"by_hand", "torch_by_hand"} and all(
        float(difference) < 1e-2 for difference in differences.values()
    )
    result = json.loads((tmp_path / "table.json").read_text())
    rows = {row["step"]: row for row in result["rows"]}
    assert set(rows) == {"keras_splitmask", "torch_by_hand", "by_hand", "inpaint_weight=0", "match_weight=0"}
    if not parts:
        return
    assert list(result["parts"]) == ["optimizer", "encoder", "decoder", "tokenizer", "head and losses", "input"]
    assert all(share >= 0 for share in result["parts"].values()) and 0.9 < sum(result["parts"].values()) < 5
    assert re.search(r"^head and losses +\d", end.out, re.MULTILINE)


def test_a_rival_that_is_unknown_or_not_there_is_refused(refused, monkeypatch):
    assert "by_hand, torch_by_hand, beit, mae, hf_mae, hf_beit" in refused("benchmark", *SMALL, "--beside=simclr")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("transformers", "torch") else found(name)
    )
    if keras.backend.backend() != "torch":
        assert "Expected torch for a step by hand in it" in refused("benchmark", *SMALL, "--beside=torch_by_hand")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name))
    assert "Expected transformers for --beside=hf_beit" in refused("benchmark", *SMALL, "--beside=hf_beit")


COUNT = """
import sys
sys.path.insert(0, "benchmarks")
import types, work
size = types.SimpleNamespace
encoder = size(width=8, depth=3)
beit = size(name="beit", encoder=encoder, split=size(count=10), masked_count=4, words=size(units=16))
decoder = size(width=4, depth=2)
mae = size(name="mae", encoder=encoder, split=size(count=10), masked_count=8, pixels=size(units=4), decoder=decoder)
print(work.forward_flops(beit, 2), work.forward_flops(mae, 2))
"""


def test_work_is_counted_by_hand(python):
    def block(
        tokens, asking, width
    ):  # queries of those that ask, keys and values of all; attention; projection and MLP of those that ask
        return (
            2 * width**2 * (asking + 2 * tokens) + 2 * 2 * asking * tokens * width + 2 * width**2 * asking * (1 + 4 + 4)
        )

    beit = 2 * (3 * block(11, 11, 8) + 2 * 4 * 8 * 16)
    mae = 2 * (3 * block(3, 3, 8) + 2 * 3 * 8 * 4 + block(11, 11, 4) + block(11, 8, 4) + 2 * 8 * 4 * 4)
    assert [int(count) for count in python("-c", COUNT).split()] == [beit, mae]


@pytest.mark.backend
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--patch_size=2", "--keep=0.25"], marks=pytest.mark.long),
        ["--image_size=16x24", "--patch_size=8", "--keep=0.3"],
    ],
)
def test_it_is_the_same_at_other_settings(here, flags):
    with mock.patch.object(ks.SplitMask, "fit", side_effect=InterruptedError("equal")):
        with pytest.raises(InterruptedError, match="equal"):  # which comes after the comparison
            here("benchmark", *SMALL, *flags)


@pytest.mark.backend
@pytest.mark.parametrize(
    "name", ["cls_token", "block_2/norm_mlp/beta", "decoder/positions", "decoder/words/bias", "vectors"]
)
def test_a_weight_that_differs_is_noticed(refused, rng, name):
    named_weights = ks.interchange.named_weights

    def changed(layer):
        weights = named_weights(layer)
        noise = 0.3 * rng.standard_normal(weights[name].shape).astype("float32")
        return {**weights, name: keras.ops.convert_to_numpy(weights[name]) + noise}

    with mock.patch.object(ks.interchange, "named_weights", changed):
        assert "in by_hand; no use in timing them" in refused("benchmark", *SMALL)


TEN_STEPS = """
import sys
sys.path.insert(0, "benchmarks")
import benchmark, itertools, keras, numpy as np
from keras_splitmask import encoder
from keras_splitmask.split import Split
encoder.SIZES["vit_micro"] = (16, 1, 2)
benchmark.FLAGS(["benchmark.py", *sys.argv[2:]])
benchmark.RUN.peak, benchmark.RUN.warmup, benchmark.RUN.clip_norm, benchmark.RUN.weight_decay = 3e-3, 4, 0.5, 0.3
rng = np.random.default_rng(0)
order = rng.random((4, 6)).argsort(axis=1).astype("int32")
Split.call = lambda self, images: keras.ops.convert_to_tensor(order)
model = benchmark.build_model()
benchmark.add_noise(model, rng)
images = rng.integers(0, 256, (4, 8, 12, 3), "uint8")
plain = benchmark.by_hand(sys.argv[1], model)
before, _ = benchmark.losses(model, plain, images)
model.fit(((images,) for _ in itertools.count()), steps_per_epoch=10, verbose=0, shuffle=False)
plain.steps(images, 10, order)
print(before, *benchmark.losses(model, plain, images))
"""


@pytest.mark.backend
@pytest.mark.long
def test_ten_steps_by_hand_end_where_ten_of_ours_end(python):
    backend = keras.backend.backend()
    before, ours, by_hand = map(float, python("-c", TEN_STEPS, backend, *SMALL, backend=backend).split())
    assert ours < 0.9 * before and by_hand == pytest.approx(ours, rel=1e-3, abs=1e-3)
