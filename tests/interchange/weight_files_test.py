import argparse
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from keras_splitmask.interchange.torch_files import LEGACY_MAGIC, LEGACY_PROTOCOL
from keras_splitmask.interchange.weight_files import open_model, open_weights
from tests.interchange.pickled import pickled


def small_module():
    return torch.nn.Sequential(
        OrderedDict(first=torch.nn.Conv2d(3, 4, 3), then=torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(4, 2)))
    )


def read(path, **kwargs):
    return {name: stored.read() for name, stored in open_weights(path, **kwargs).items()}


def refusal(path, **kwargs):
    """The one line that reading ends in, which names the file."""
    with pytest.raises(ValueError) as caught:
        read(path, **kwargs)
    line = str(caught.value)
    assert (
        line.startswith("Expected a torch file, .safetensors or .npz of weights, received ")
        and str(path) in line
        and "\n" not in line
    )
    return line


SAFETENSORS = {"float32": "F32", "float16": "F16", "float64": "F64"}  # the names of types there


def save_safetensors(path, arrays, names=SAFETENSORS, **changes):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        header[name].update(changes)
        data += np.ascontiguousarray(array).tobytes()
    header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def save_zip(path, members, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def put_into(kind, path, program):
    """A pickle where each kind of file has its own."""
    if kind == "zip":
        save_zip(path, {"archive/data.pkl": program, "archive/data/0": b"\0" * 16})
    elif kind == "legacy":
        start = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True})]
        path.write_bytes(b"".join([*start, program, pickle.dumps(["0"], 2), struct.pack("<q", 4), b"\0" * 16]))
    else:
        path.write_bytes(program)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("whole", [True, False], ids=["module", "state_dict"])
def test_what_torch_saves(tmp_path, zipped, whole):
    module = small_module()
    torch.save(module if whole else module.state_dict(), tmp_path / "any.name", _use_new_zipfile_serialization=zipped)
    found, expected = read(tmp_path / "any.name"), module.state_dict()
    assert set(found) == set(expected) == {"first.weight", "first.bias", "then.1.weight", "then.1.bias"}
    for name, array in found.items():
        assert array.dtype == "float32"
        np.testing.assert_array_equal(array, expected[name].numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_the_weights_in_a_checkpoint_of_training(tmp_path, zipped):
    """Averaged weights come first; the optimizer, counters and arguments beside and among them are left out."""
    module = small_module()
    weights, zeros = module.state_dict(), {name: 0 * value for name, value in small_module().state_dict().items()}
    optimizer = torch.optim.AdamW(module.parameters())
    sum(value.sum() for value in module.parameters()).backward()
    optimizer.step()
    arguments = argparse.Namespace(lr=0.1, betas=(0.9, 0.95), output=pathlib.Path("runs"))
    measured = {"best": np.float64(3.5), "curve": np.arange(4.0), "rng": torch.get_rng_state()}  # of bytes
    beside = {"optimizer": optimizer.state_dict(), "epoch": 3, "args": arguments, **measured}
    for checkpoint in (
        {"model": weights, **beside},
        {"state_dict": zeros, "state_dict_ema": weights, **beside},
        {"student": zeros, "teacher": weights, **beside},
        {"state_dict": {"model": weights}},
        {"teacher": {}, "model": weights},
        {"model": {"name": "vit"}, "state_dict": weights},
        {**weights, "num_batches_tracked": torch.tensor(5), "index": torch.arange(3, dtype=torch.int32)},
        {**weights, "seen": torch.ones(5, dtype=torch.bool), "levels": torch.zeros(3, dtype=torch.uint8)},
        {"model": {name: value.double() for name, value in weights.items()}},
    ):
        torch.save(checkpoint, tmp_path / "saved.pth", _use_new_zipfile_serialization=zipped)
        found = read(tmp_path / "saved.pth")
        assert set(found) == set(weights), list(checkpoint)
        assert all(np.array_equal(found[name], value.numpy()) for name, value in weights.items())
    halves = {name: value.bfloat16() for name, value in weights.items()}
    torch.save(halves, tmp_path / "saved.pth", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "saved.pth")
    assert all(np.array_equal(found[name], value.float().numpy()) for name, value in halves.items())


def test_an_index_of_several_files(tmp_path):
    weights = {name: value.numpy() for name, value in small_module().state_dict().items()}
    parts = {f"part-{i}.safetensors": dict([pair]) for i, pair in enumerate(weights.items())}
    for name, arrays in parts.items():
        save_safetensors(tmp_path / name, arrays)
    places = {name: part for part, arrays in parts.items() for name in arrays}
    index = tmp_path / "model.safetensors.index.json"

    def write(places):
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))

    write(places)
    found = open_model(index)
    assert set(found) == set(weights)
    assert all(np.array_equal(found[name].read(), value) for name, value in weights.items())
    first, *_ = places
    for wrong, reason in (
        ({**places, first: "../part-0.safetensors"}, "index of weights, received .*which is no file beside it"),
        ({**places, first: "part-1.safetensors"}, f"the weight {first} in .*part-1.safetensors, as .*.json says"),
        ({**places, first: "part-9.safetensors"}, "received .*part-9.safetensors: .*No such file"),
        ({**places, "\x1b[2J": "part-1.safetensors"}, 'index of weights, received .*it has no "weight_map"'),
        ([], 'index of weights, received .*it has no "weight_map"'),
    ):
        write(wrong)
        with pytest.raises(ValueError, match=f"^Expected .*{reason}") as caught:
            open_model(index)
        assert str(caught.value).count("Expected") == 1
    index.write_text(" " * 2**21)
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        open_model(index)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_views_of_one_storage_in_any_order(tmp_path, zipped):
    line = torch.arange(100, dtype=torch.float32)
    expected = {
        "turned": line[:12].view(3, 4).T,
        "channels last": line[20:44].view(1, 2, 3, 4).permute(0, 3, 1, 2),
        "each second": line[50:90:2],
        "half": torch.arange(6, dtype=torch.float16).view(2, 3),
        "scalar": line[99],
    }
    torch.save(expected, tmp_path / "views.pt", _use_new_zipfile_serialization=zipped)
    for name, array in read(tmp_path / "views.pt").items():
        np.testing.assert_array_equal(array, expected.pop(name).numpy())
    assert not expected


def test_torch_is_not_needed(tmp_path, python):
    torch.save(small_module(), tmp_path / "module.pt")
    code = (
        "import sys; sys.modules.update(torch=None); from keras_splitmask.interchange.weight_files import"
        " open_weights; "
    )
    assert python(
        "-c",
        code + "print([w.read().shape for w in open_weights(sys.argv[1]).values()][0])",
        tmp_path / "module.pt",
        backend="jax",
    )


def test_npz_and_safetensors(tmp_path, rng):
    arrays = {
        "a.w": rng.random((2, 3, 4), "float32"),
        "a.b": rng.random(5).astype("float16"),
        "turned": np.asfortranarray(rng.random((2, 3), "float32")),
    }
    np.savez(tmp_path / "w.npz", **arrays)
    save_safetensors(tmp_path / "w.safetensors", arrays)
    for path in (tmp_path / "w.npz", tmp_path / "w.safetensors"):
        found = read(path)
        assert set(found) == set(arrays)
        for name, array in found.items():
            assert array.dtype == "float32"
            np.testing.assert_array_equal(array, arrays[name])


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    save_safetensors(
        tmp_path / "w.safetensors", {"w": np.array([[0x3F80, 0xC049], [0, 0x4000]], "uint16")}, names={"uint16": "BF16"}
    )
    np.testing.assert_array_equal(read(tmp_path / "w.safetensors")["w"], [[1.0, -3.140625], [0.0, 2.0]])


def test_the_checksum_is_compared(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.ones(3, "float32"))
    right = subprocess.run(
        ["sha256sum", tmp_path / "w.npz"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert read(tmp_path / "w.npz", sha256=right.upper())
    assert f"its sha256 is {right}, expected {'0' * 64}" in refusal(tmp_path / "w.npz", sha256="0" * 64)


class Call:
    """Pickled, a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def in_a_state(call):
    module = small_module()
    module.then.secret = call
    return pickled(module)


def in_a_dict_of_tensors(call):
    tensors = OrderedDict(w=torch.nn.Parameter(torch.zeros(4)))
    tensors._metadata = call
    return pickled(tensors)


HOSTILE = {
    "REDUCE": (lambda c: pickle.dumps(Call(os.system, c), 2), "system"),
    "REDUCE, protocol 0": (lambda c: pickle.dumps(Call(os.system, c), 0), "system"),
    "INST": (lambda c: f"(S'{c}'\nios\nsystem\n.".encode(), "os.system"),
    "OBJ": (lambda c: f"(cos\nsystem\nS'{c}'\no.".encode(), "os.system"),
    "NEWOBJ": (
        lambda c: b"\x80\x02csubprocess\nPopen\n" + f"(](S'sh'\nS'-c'\nS'{c}'\net\x81.".encode("latin1"),
        "subprocess.Popen",
    ),
    "NEWOBJ_EX": (
        lambda c: b"\x80\x04csubprocess\nPopen\n" + f"(S'{c}'\nt}}S'shell'\n\x88s\x92.".encode("latin1"),
        "subprocess.Popen",
    ),
    "STACK_GLOBAL": (lambda c: pickle.dumps(Call(eval, f"__import__('os').system('{c}')"), 4), "builtins.eval"),
    "exec": (lambda c: pickle.dumps(Call(exec, f"import os; os.system('{c}')"), 2), "__builtin__.exec"),
    "a name with points": (
        lambda c: b"\x80\x04\x8c\x0bcollections\x8c\x17OrderedDict.__class__.x\x93.",
        "collections.OrderedDict.__class__.x",
    ),
    "EXT1": (lambda c: b"\x80\x02\x82\x4d" + f"(S'{c}'\ntR.".encode(), "the instruction EXT1"),
    "in the state of a module": (lambda c: in_a_state(Call(os.system, c)), "system"),
    "in the attributes of a dict": (lambda c: in_a_dict_of_tensors(Call(os.system, c)), "system"),
    "in a set": (lambda c: pickle.dumps({"w": {Call(os.system, c)}}, 2), "system"),
    "in a persistent name": (
        lambda c: f"(S'storage'\n(S'{c}'\nios\nsystem\nS'0'\nS'cpu'\nK\x04tQ.".encode(),
        "os.system",
    ),
    "a function of torch": (lambda c: pickle.dumps(Call(torch.hub.load, "x", "y"), 2), "torch.hub.load"),
    "a function behind an allowed module": (
        lambda c: f"(S'{c}'\nitorch.nn.modules.container\nos.system\n.".encode(),
        "it is damaged",
    ),
    "a function of the model's package": (lambda c: f"(S'{c}'\nidall_e.utils\nos.system\n.".encode(), "it is damaged"),
}


@pytest.mark.parametrize("kind", ["plain", "zip", "legacy"])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_code_runs_and_what_asked_for_it_is_named(tmp_path, hostile, kind):
    make, named = HOSTILE[hostile]
    put_into(kind, tmp_path / "weights.pkl", make(f"touch {tmp_path / 'ran'}"))
    line = refusal(tmp_path / "weights.pkl")
    assert named in line or (kind == "plain" and "torch did not write it" in line), line
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pkl"]


def test_the_hostile_pickles_would_run_elsewhere(tmp_path):
    """Otherwise the test above says nothing."""
    for name in ("REDUCE", "REDUCE, protocol 0", "INST", "OBJ", "STACK_GLOBAL", "exec", "in a set"):
        program = HOSTILE[name][0](f"touch {tmp_path / 'ran'}")
        subprocess.run(
            [sys.executable, "-c", "import sys, pickle; pickle.loads(sys.stdin.buffer.read())"],
            input=program,
            check=True,
        )
        (tmp_path / "ran").unlink()


def test_a_pickle_changes_nothing_for_those_after_it(tmp_path):
    # The state of a class is a dict and one of attributes: the second would be set on whatever the name stands for.
    changes = b"\x80\x02ctorch._utils\n_rebuild_parameter\nN}X\x0c\x00\x00\x00__setstate__Ns\x86b."
    put_into("zip", tmp_path / "hostile.pkl", changes)
    refusal(tmp_path / "hostile.pkl")
    torch.save(small_module(), tmp_path / "good.pt")
    assert len(read(tmp_path / "good.pt")) == 4


def tensor(key="0", numel=4, offset=0, shape=(4,), strides=(1,)):
    """The pickle {"w": a tensor}, as torch writes it."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, key, "cpu", numel) if isinstance(value, Storage) else None

    file = io.BytesIO()
    Pickler(file, 2).dump(
        {"w": Call(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, strides, False, OrderedDict())}
    )
    return file.getvalue()


def test_a_tensor_by_hand(tmp_path):
    for kind in ("zip", "legacy"):
        put_into(kind, tmp_path / kind, tensor())
        np.testing.assert_array_equal(read(tmp_path / kind)["w"], np.zeros(4))


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"numel": 2**50}, "no storage of numbers"),
        ({"numel": 2**30}, "of 1073741824 numbers"),
        ({"numel": -4}, "no storage of numbers"),
        ({"shape": (2**20, 2**20), "strides": (0, 0)}, "w of shape (1048576, 1048576) is larger than its 4 numbers"),
        ({"shape": (5,)}, "is larger than its 4 numbers"),
        ({"offset": 2, "shape": (3,)}, "is larger than its 4 numbers"),
        ({"shape": (2, 2), "strides": (4, 1)}, "is larger than its 4 numbers"),
        ({"offset": -1}, "does not say where"),
        ({"strides": (-1,)}, "does not say where"),
        ({"strides": (1, 1)}, "does not say where"),
        ({"shape": (2**5000,)}, "a shape that no weight has"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "a shape that no weight has"),
        ({"shape": (-4,)}, "a shape that no weight has"),
        ({"shape": (0,)}, "a shape that no weight has"),
        ({"shape": "four"}, "a shape that no weight has"),
        ({"key": "../../../etc/hostname"}, ""),
        ({"key": "/etc/hostname"}, ""),
    ],
)
def test_tensors_that_are_not_there(tmp_path, kind, changes, named):
    put_into(kind, tmp_path / "w.pt", tensor(**changes))
    assert named in refusal(tmp_path / "w.pt")


def test_zip_bombs(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, w=np.zeros(10_000_000, "float32"))
    assert "w.npy in it is compressed" in refusal(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**35,)})
    save_zip(path, {"w.npy": header.getvalue() + b"\0" * 16})
    assert "w.npy promises 137438953472 bytes and has 144" in refusal(path)
    save_zip(path, {"archive/data.pkl": b"N0" * 2**20 + b"N."})
    assert "its pickle has 2097154 bytes" in refusal(path)
    # Two names for the same bytes, as the bombs are made that need no packing.
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + b"\0" * 9000)
        for name in "bcdef":
            archive.filelist.append(again := zipfile.ZipInfo(f"{name}.npy"))
            first = archive.filelist[0]
            again.header_offset, again.CRC, again.file_size, again.compress_size = (
                first.header_offset,
                first.CRC,
                first.file_size,
                first.compress_size,
            )
    assert "its members overlap" in refusal(path)


def test_npz_of_objects_or_of_other_numbers(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.array([Call(os.system, f"touch {tmp_path / 'ran'}")], object))
    assert "w.npy holds object, expected float32" in refusal(tmp_path / "w.npz")
    np.savez(tmp_path / "w.npz", w=np.zeros(3))
    assert "w.npy holds float64, expected float32 or float16" in refusal(tmp_path / "w.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"shape": [5]}, "w of shape (5,) cannot be its bytes 0 to 16"),
        ({"data_offsets": [8, 24]}, "cannot be its bytes 8 to 24"),
        ({"data_offsets": [-8, 8]}, "cannot be its bytes -8 to 8"),
        ({"data_offsets": [0.0, 16.0]}, "cannot be its bytes 0.0 to 16.0"),
        ({"data_offsets": [float("nan"), 16]}, "NaN is no finite number"),
        ({"data_offsets": [10**400, 10**400 + 16]}, "cannot be its bytes 1000"),
        ({"data_offsets": [0, 16, 32]}, "too many values"),
        ({"dtype": ["F32"]}, "it is damaged"),
        ({"shape": [2**39, 2**39]}, "cannot be its bytes"),
        ({"shape": [9] * 100_000}, "a shape that no weight has"),
        ({"shape": [-2, -2]}, "a shape that no weight has"),
        ({"dtype": "F8_E4M3"}, "w holds 'F8_E4M3', expected F64, F32, F16 or BF16"),
        ({"shape": None}, "it is damaged"),
    ],
)
def test_safetensors_that_promise_what_is_not_there(tmp_path, changes, named):
    save_safetensors(tmp_path / "w.safetensors", {"w": np.zeros(4, "float32")}, **changes)
    assert named in refusal(tmp_path / "w.safetensors")


def test_names_that_could_control_a_terminal(tmp_path):
    for name in ("\x1b[2J", "w" * 201, "\u202e"):
        save_safetensors(tmp_path / "w.safetensors", {name: np.zeros(4, "float32")})
        torch.save({name: torch.zeros(4)}, tmp_path / "w.pth")
        np.savez(tmp_path / "w.npz", **{name: np.zeros(4, "float32")})
        for file in tmp_path.iterdir():
            message = refusal(file)
            assert "cannot be printed" in message and message.isprintable()


def test_safetensors_that_overlap_or_repeat_themselves(tmp_path):
    half, path = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, tmp_path / "w.safetensors"
    for header, named in (
        (json.dumps({"a": half, "b": half}), "a and b overlap"),
        (f'{{"a": {json.dumps(half)}, "a": {json.dumps(half)}}}', "'a' is there twice"),
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
        assert named in refusal(path)


def test_a_safetensors_header_of_any_length(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b'{"w": 0}')
    assert "its header promises 4611686018427387904 bytes" in refusal(tmp_path / "w.safetensors")
    nested = b'{"w":' * 100_000
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(nested)) + nested)
    assert "the JSON is nested too deeply" in refusal(tmp_path / "w.safetensors")


def saved_in_every_way(folder):
    module = small_module()
    arrays = {name: value.numpy() for name, value in module.state_dict().items()}
    torch.save(module, folder / "zip.pkl")
    torch.save(module, folder / "legacy.pkl", _use_new_zipfile_serialization=False)
    np.savez(folder / "w.npz", **arrays)
    save_safetensors(folder / "w.safetensors", arrays)
    return sorted(folder.iterdir())


def test_truncated_files_are_refused(tmp_path):
    for path in saved_in_every_way(tmp_path):
        content = path.read_bytes()
        for count in [0, 1, 8, 9, *np.linspace(10, len(content) - 1, 25).astype(int)]:
            path.write_bytes(content[:count])
            refusal(path)


def test_damaged_files_are_refused_or_read_as_numbers(tmp_path, rng):
    """Nothing but the one line comes of flipped bytes; where the format has a checksum of the numbers, each is
    found."""
    for path in saved_in_every_way(tmp_path):
        content = bytearray(path.read_bytes())
        for place in rng.integers(0, len(content), 60):
            content[place] ^= 0x41
            path.write_bytes(content)
            try:
                assert all(array.dtype == "float32" for array in read(path).values())
            except ValueError:
                refusal(path)
            content[place] ^= 0x41
    weights = np.arange(1000, dtype="float32")
    torch.save({"w": torch.tensor(weights)}, tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    place = content.index(weights.tobytes())
    for flipped in (place, place + 1999, place + 3999):
        (tmp_path / "w.pt").write_bytes(content[:flipped] + bytes([content[flipped] ^ 1]) + content[flipped + 1 :])
        assert "Bad CRC-32" in refusal(tmp_path / "w.pt")


def test_values_that_are_no_numbers(tmp_path):
    for value in (np.nan, np.inf):
        np.savez(tmp_path / "w.npz", w=np.array([0, value], "float32"))
        assert "w.npy has values that are not finite" in refusal(tmp_path / "w.npz")


def test_other_files(tmp_path):
    (tmp_path / "text.pkl").write_text("No weights here, only a few words.")
    refusal(tmp_path / "text.pkl")
    save_zip(tmp_path / "other.zip", {"../outside.txt": "text", "/etc/absolute": "text"})
    refusal(tmp_path / "other.zip")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        assert "it is not a file" in refusal(path)
    (tmp_path / "pipe").unlink()
    torch.save({"w": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "complex.pt")
    assert "it asks for torch.ComplexFloatStorage" in refusal(tmp_path / "complex.pt")
    torch.save({"w": {"deeper": 3}}, tmp_path / "no_tensor.pt")
    assert "w is no tensor" in refusal(tmp_path / "no_tensor.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["complex.pt", "no_tensor.pt", "other.zip", "text.pkl"]
