"""The machine that reads pickles: right values of what weights need, and a line for programs that would take all time
or memory."""

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import pytest
import torch

from keras_splitmask.interchange.pickles import Machine, Name, Placeholder
from keras_splitmask.interchange.torch_files import LEGACY_MAGIC, LEGACY_PROTOCOL
from keras_splitmask.interchange.weight_files import open_weights
from tests.interchange.pickled import pickled


def read(program):
    return Machine(lambda name: name.startswith("torch."), lambda reference: ("refers to", reference)).read(
        io.BytesIO(program)
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_python_writes(protocol):
    shared = (1, "two", None)
    value = {
        "a": [1, -2.5, shared, (), (True, False)],
        "b": OrderedDict(z=shared, y={}),
        "long": [2**70, 300, 70_000, -1],
        3: {"s", "t"},
        "": [[]] * 2,
    }
    found = read(pickle.dumps(value, protocol))
    assert found == value and type(found["b"]) is OrderedDict and list(found["b"]) == ["z", "y"]
    assert found["a"][2] is found["b"]["z"]


def test_the_next_pickle_begins_where_one_ends():
    file = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("two", 4) + b"rest")
    assert [Machine(None, None).read(file) for _ in range(2)] == [[1], "two"] and file.read() == b"rest"


def test_objects_become_placeholders():
    found = read(pickle.dumps(torch.device("cpu"), 2))
    assert isinstance(found, Placeholder) and (found.stands_for, found.arguments, found.state) == (
        "torch.device",
        ("cpu",),
        {},
    )
    found = read(b"\x80\x02ctorch.nn.modules.x\nX\n)\x81}X\x01\x00\x00\x00aK\x07sb.")
    assert (found.stands_for, found.arguments, found.state) == ("torch.nn.modules.x.X", (), {"a": 7})
    assert read(b"(itorch.x\nX\n.").stands_for == read(b"(ctorch.x\nX\no.").stands_for == "torch.x.X"
    assert type(read(b"\x80\x02ctorch.x\nX\n.")) is Name and read(b"\x80\x02K\x05Q.") == ("refers to", 5)
    with pytest.raises(ValueError, match="it asks for os.system, which weights have no need of"):
        read(b"cos\nsystem\n.")


def nested_modules():
    """A module whose two children are one module, whose two children are one module ..."""
    module = torch.nn.Sequential(torch.nn.ReLU())
    for _ in range(40):
        module = torch.nn.Sequential(module, module)
    return pickled(module)


def with_itself():
    module = torch.nn.Sequential()
    module._modules["again"] = module
    return pickled(module)


# A tuple of two references to a tuple of two references ... 60 deep: its hash and its text take 2**60 steps.
TWICE = b")\x94" + b"".join(b"0h" + bytes([i, 104, i]) + b"\x86\x94" for i in range(60))
ORDERED, CLASS = b"ccollections\nOrderedDict\n", b"ctorch.nn.modules.x\nX\n"
BOMBS = {
    "index of the memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", ""),
    "index of the memo, as text": (b"Np999999999\n.", ""),
    "length of a string": (b"\x80\x02X\xff\xff\xff\x7fabc.", ""),
    "length of bytes": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fabc.", ""),
    "tuples in tuples, as a key": (b"\x80\x02}N" + b"\x85" * 500_000 + b"Ns.", "steps, which is too many"),
    "tuples in tuples, almost too many": (
        b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns.",
        "neither a short text nor a number",
    ),
    "a long pickle": (b"\x80\x02" + b"N0" * 2**20 + b"N.", "pickle "),
    "many sets": (b"\x80\x04(" + b"\x8f" * 2**19 + b"l.", "steps, which is too many"),
    "copies of a long list": (
        b"\x80\x02("
        + ORDERED[:-1]
        + b"\n0"
        + b"("
        + b"N" * 50_000
        + b"lq\x00"
        + b"0c__builtin__\nset\n(h\x00tR" * 9000
        + b".",
        "steps",
    ),
    "twice of twice": (b"\x80\x02]" + b"2\x86" * 60 + b".", "the instruction DUP"),
    "twice of twice, as a key": (b"\x80\x04}" + TWICE + b"Ns.", "neither a short text nor a number"),
    "in a set": (b"\x80\x04\x8f(" + TWICE + b"\x90.", "neither a short text nor a number"),
    "in a set that is made": (b"\x80\x04c__builtin__\nset\n(](" + TWICE + b"etR.", "neither a short text nor a number"),
    "in a dict that is made": (
        b"\x80\x04" + ORDERED + b"(](" + TWICE + b"N\x86etR.",
        "neither a short text nor a number",
    ),
    "as a reference": (b"\x80\x04" + TWICE + b"Q.", ""),
    "as the name of a storage": (
        b"\x80\x04(\x8c\x07storage" + b"ctorch\nFloatStorage\n" + TWICE + b"NK\x01tQ.",
        "no storage of numbers",
    ),
    "as the class of a storage": (b"\x80\x04(\x8c\x07storage" + TWICE + b"\x8c\x010NK\x01tQ.", "no storage of numbers"),
    "as a number of numbers": (
        b"\x80\x04(\x8c\x07storagectorch\nFloatStorage\n\x8c\x010N" + TWICE + b"tQ.",
        "no storage of numbers",
    ),
    "as a tensor": (b"\x80\x04}\x8c\x01w" + TWICE + b"s.", "w is no tensor"),
    "as a module": (b"\x80\x04" + TWICE + b".", "it is damaged"),
    "as a state": (b"\x80\x04" + CLASS + b")\x81" + TWICE + b"b.", "it is damaged"),
    "a long number as a key": (
        b"\x80\x02}\x8b" + struct.pack("<i", 10**5) + b"\x7f" * 10**5 + b"Ns.",
        "neither a short text nor a number",
    ),
    "a long name": (b"\x80\x02ctorch.nn.modules." + b"x" * 10**5 + b"\nX\n.", "which weights have no need of"),
    "modules of modules": (nested_modules(), "one is inside another twice"),
    "a module in itself": (with_itself(), "one is inside another twice"),
}


def refusal(path):
    """The one line that reading ends in, within 5 seconds."""
    started = time.process_time()
    with pytest.raises(ValueError) as caught:
        open_weights(path)
    line = str(caught.value)
    assert (
        line.startswith("Expected a torch file")
        and "\n" not in line
        and len(line) < 700
        and time.process_time() - started < 5
    )
    return line


def legacy(program, order):
    start = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True})]
    return b"".join([*start, program, order, struct.pack("<q", 4), b"\0" * 16])


@pytest.mark.parametrize("bomb", BOMBS)
def test_pickles_that_would_take_all_time_or_memory(tmp_path, bomb):
    program, named = BOMBS[bomb]
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    (tmp_path / "bomb.pkl").write_bytes(legacy(program, pickle.dumps(["0"], 2)))
    lines = [refusal(path) for path in tmp_path.iterdir()]
    tracemalloc.start()  # after that, since it takes several times as long
    with pytest.raises(ValueError):
        open_weights(tmp_path / "bomb.zip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 and all(named in line for line in lines), (peak, lines)


def test_an_order_of_storages_that_would_be_hashed_for_ever(tmp_path):
    for order in (b"\x80\x04](" + TWICE + b"e.", b"\x80\x04](" + TWICE + b"\x8c\x010e."):
        (tmp_path / "bomb.pkl").write_bytes(legacy(pickle.dumps({}, 2), order))
        assert "its storages are not those of its tensors" in refusal(tmp_path / "bomb.pkl")
