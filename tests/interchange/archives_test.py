"""Promise 9 of docs/reliability.md: hostile models, archives and records. No code runs, nothing is written, memory
stays small."""

import base64
import copy
import hashlib
import io
import json
import marshal
import os
import pickle
import re
import resource
import tarfile
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest

from keras_splitmask.data import open_source
from keras_splitmask.data.scan import scan
from keras_splitmask.interchange import load_encoder, load_model
from keras_splitmask.training import checkpoints

MEGABYTE = 1 << 20


class Payload:
    """Whoever unpickles it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def node(name, config, module="keras.layers", registered=None):
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


def code(escape):
    """A Python function as Keras keeps that of a Lambda; it makes a directory."""
    run = eval(f"lambda x: __import__('os').mkdir({str(escape)!r})")
    return node(
        "__lambda__",
        {"code": base64.b64encode(marshal.dumps(run.__code__)).decode(), "defaults": None, "closure": None},
        "builtins",
    )


def sequential(layer):
    return node("Sequential", {"name": "s", "layers": [node("InputLayer", {"batch_shape": [None, 2]}), layer]}, "keras")


# What a configuration may hide: in place of the whole model, or of a part of it.
WHOLE = {
    "lambda": lambda e: sequential(node("Lambda", {"name": "l", "function": code(e)})),
    "lambda in time distributed": lambda e: sequential(
        node("TimeDistributed", {"layer": node("Lambda", {"function": code(e)})})
    ),
    "functional": lambda e: node(
        "Functional",
        {"layers": [node("Lambda", {"function": code(e)})], "input_layers": [], "output_layers": []},
        "keras",
    ),
    "saved model": lambda e: sequential(node("TFSMLayer", {"filepath": str(e), "call_endpoint": "serve"})),
    "torch module": lambda e: sequential(
        node("TorchModuleWrapper", {"module": base64.b64encode(pickle.dumps(Payload(e))).decode()})
    ),
    "jax function": lambda e: sequential(node("JaxLayer", {"call_fn": code(e)})),
    "dense": lambda e: sequential(node("Dense", {"units": 1})),
    "many units": lambda e: sequential(node("Dense", {"units": 10**9})),
    "no class": lambda e: {"config": {}},
    "a list": lambda e: [1, 2],
    "a number": lambda e: 3,
}
PARTS = {
    "system": lambda e: node("function", "system", "os", "system"),
    "builtin eval": lambda e: node("function", "eval", "builtins", "eval"),
    "popen": lambda e: node("Popen", {"args": ["mkdir", str(e)]}, "subprocess"),
    "get_file": lambda e: node("function", "get_file", "keras.utils", "get_file"),
    "lambda": code,
    "lambda behind a name of ours": lambda e: node(
        "Lambda", {"function": code(e)}, registered="keras_splitmask>Lambda"
    ),
    "saved model": lambda e: node("TFSMLayer", {"filepath": str(e)}),
    "type spec": lambda e: {**node("__typespec__", [], "tensorflow", "x"), "spec_name": "TensorSpec"},
    "large array": lambda e: node("__numpy__", {"value": [0] * 1000, "dtype": "float64"}),
    "large tensor": lambda e: node("__tensor__", {"value": [0] * 1000, "dtype": "float32"}),
    "other package": lambda e: node("X", {}, "x", "keras_hub>Backbone"),
    "other policy": lambda e: node("QuantizedFloat8DTypePolicy", {"mode": "float8"}, "keras"),
}


def with_part(config, part, value):
    config = copy.deepcopy(config)
    config["config"][part] = value
    return config


def ours(kind, **config):
    return node(kind, config, "x", f"keras_splitmask>{kind}")


@pytest.fixture(scope="module")
def escape(tmp_path_factory):
    """What must not come to be."""
    return tmp_path_factory.mktemp("outside") / "escaped"


@pytest.fixture
def members(make_model, tmp_path):
    """What a good model's file holds."""
    make_model().save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def refused(tmp_path, escape):
    """Checks that a file is refused in one line, with no trace of it left anywhere and little memory taken."""

    def check(path, read=load_model, message=None):
        before = sorted(tmp_path.rglob("*")), sorted(os.listdir()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert "\n" not in str(error.value), error.value
        assert (sorted(tmp_path.rglob("*")), sorted(os.listdir())) == before[:2] and not escape.exists()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[2] < 300 * 1024  # KiB

    return check


def write(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_good_file_is_read(members, tmp_path):
    assert load_model(write(tmp_path / "again.keras", members)).encoder.width == 16


@pytest.mark.parametrize(
    "kind",
    [*(f"whole: {k}" for k in WHOLE), *(f"{p}: {k}" for k in PARTS for p in ("encoder", "tokenizer", "augmentation"))],
)
def test_a_configuration_that_is_not_of_this_library_is_not_built(
    members, refused, escape, tmp_path, monkeypatch, kind
):
    place, _, name = kind.partition(": ")
    config = (
        WHOLE[name](escape)
        if place == "whole"
        else with_part(json.loads(members["config.json"]), place, PARTS[name](escape))
    )
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("Keras was asked to read it."))
    refused(
        write(tmp_path / "hostile.keras", {**members, "config.json": json.dumps(config)}),
        load_encoder,
        "is not a model that keras_splitmask can read",
    )


def hostile_configurations(good):
    """Configurations that ask for more than the file has, by what is large in them."""

    def encoder(**changes):
        return {**good["encoder"], "config": {**good["encoder"]["config"], **changes}}

    def splitmask(part, **changes):
        return ours("SplitMask", **{**good, part: {**good[part], "config": {**good[part]["config"], **changes}}})

    large = encoder(image_shape=[64, 64, 3])
    # A file of 1 kB could have these weights, and what is calculated from the size of the images would take gigabytes.
    thin = encoder(image_shape=[16384, 16384, 1], patch_size=128, width=1, heads=1, depth=1)
    narrow = encoder(image_shape=[8192, 1, 1], patch_size=1, width=1, heads=1, depth=1)
    return {
        **{
            name: encoder(**{name: value})
            for name, value in {"width": 10**6, "depth": 10**9, "extra_tokens": 4_000_000, "patch_size": 10**6}.items()
        },
        "image_shape": encoder(image_shape=[10**6, 10**6, 3]),
        "one patch": encoder(image_shape=[2**20, 2**20, 3], patch_size=2**20),
        "fixed positions": encoder(image_shape=[2**20, 2**20, 3], positions="sine_cosine"),
        "decoder_depth": ours("SplitMask", **{**good, "decoder_depth": 10**9}),
        "projector": ours("SplitMask", **{**good, "projector": 10**9}),
        "depth below nothing": splitmask("encoder", depth=-(10**9)),
        "vocabulary": splitmask("tokenizer", vocabulary=10**9),
        "hidden of DALL-E": ours(
            "BEiT",
            encoder=good["encoder"],
            tokenizer=ours("Dalle", image_shape=[16, 16, 3], patch_size=8, hidden=2**16),
        ),
        "classes": ours("Classifier", encoder=good["encoder"], classes=10**9),
        "classes of DeiT": ours("DeiT", encoder=good["encoder"], classes=10**9),
        "prototypes": ours("DINO", encoder=good["encoder"], steps=1, prototypes=500_000, local_shape=None),
        "local_shape": ours("DINO", encoder=good["encoder"], steps=1, prototypes=2, local_shape=[2**30, 2**30]),
        "decoder_width": ours("MAE", encoder=good["encoder"], decoder_width=2**12, decoder_depth=1),
        "decoder of MAE": ours("MAE", encoder=good["encoder"], decoder_width=32, decoder_depth=10**9),
        **{
            f"{name} of Mask R-CNN": ours("MaskRCNN", encoder=large, classes=2, **{name: 12_000})
            for name in ("hidden", "width")
        },
        "outputs": ours("Segmenter", encoder=large, classes=2, width=2048),
        "anchors": ours("MaskRCNN", encoder=thin, classes=2, width=1, hidden=1),
        "resized words": ours(
            "BEiT",
            encoder=narrow,
            tokenizer=ours("Dalle", image_shape=[8192, 1, 1], patch_size=1, hidden=4, vocabulary=2),
        ),
        "layers without weights": ours("PredictionHead", outputs=1, width=1, depth=10**9),
        "levels without weights": ours("FeaturePyramid", width=1, levels=["P"] * 100_000),
        "objects within each other": augmentations(8),
        "a list for a number": ours("MaskRCNN", encoder=large, classes=2, masks=10**9),
    }


def augmentations(depth):
    inner = augmentations(depth - 1) if depth else None
    return ours("AugmentViews", first=inner, second=inner, local=inner)


def test_a_configuration_of_more_than_the_file_holds(members, refused, tmp_path):
    for name, config in hostile_configurations(json.loads(members["config.json"])["config"]).items():
        started = time.process_time()
        refused(write(tmp_path / "hostile.keras", {**members, "config.json": json.dumps(config)}))
        # Below 5 s when nothing else runs. A file that gets through takes minutes.
        assert time.process_time() - started < 30, name


VALUES = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "1e308",
    "-1",
    "0.5",
    "true",
    '"1000000000"',
    '"abc"',
    "[4]",
    "[[4]]",
    "{}",
    "1" + "0" * 400,
    "9" * 5000,
]


def test_values_that_no_argument_has(members, refused, tmp_path):
    config, path = members["config.json"].decode(), tmp_path / "hostile.keras"
    for name in ("width", "depth", "patch_size", "image_shape", "vocabulary", "decoder_depth"):
        pattern = rf'"{name}": (\d+|\[[^]]*\])'
        assert re.search(pattern, config)
        for value in VALUES:
            refused(
                write(path, {**members, "config.json": re.sub(pattern, f'"{name}": {value}', config)}),
                message="^.{20,600}$",
            )
    for name, value in {
        "accumulate": "NaN",
        "seed": "[]",
        "split": '"random' + "x" * 10**5 + '"',
        "inpaint_weight": "true",
        "augmentation": "5",
        "name": f'"{"x" * 10**5}"',
    }.items():
        changed = re.sub(f'"{name}": [^,}}]*', f'"{name}": {value}', config)
        assert changed != config
        refused(write(path, {**members, "config.json": changed}), message=f"{name}|NaN")
    refused(write(path, {**members, "config.json": config.replace('"name": "splitmask"', '"name": "../../x"')}))
    refused(
        write(path, {**members, "config.json": config.replace('"name": "float32"', '"name": "int8_from_float32"')}),
        message="precision",
    )
    refused(
        write(path, {**members, "config.json": config.replace('"heads": ', '"heads": 1, "heads": ')}), message="twice"
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"class_name": ' * 50_000, "\0" * 100, "9" * 10_000, "x" * 2 * MEGABYTE]
)
def test_a_configuration_that_is_none(members, refused, tmp_path, text):
    refused(write(tmp_path / "hostile.keras", {**members, "config.json": text}))


def test_what_controls_a_terminal_is_not_printed(members, tmp_path):
    with pytest.raises(ValueError, match="it holds .*hidden") as error:
        load_model(write(tmp_path / "hostile.keras", {**members, "\x1b[2J\x07hidden": b""}))
    assert str(error.value).isprintable()


def twice(path, members, escape):
    write(path, members)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("config.json", members["config.json"])


def link(path, members, escape):
    write(path, {name: content for name, content in members.items() if name != "config.json"})
    entry = zipfile.ZipInfo("config.json")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/hostname")


def tar(path, members, escape):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped"), io.BytesIO())


def legacy(path, members, escape):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(WHOLE["lambda"](escape))


def bomb(name):
    return lambda path, members, escape: write(path, {**members, name: bytes(200 * MEGABYTE)}, zipfile.ZIP_DEFLATED)


def more(name):
    return lambda path, members, escape: write(path, {**members, name.format(escape): b""})


ARCHIVES = {
    **{f"{name} bomb": bomb(name) for name in ("config.json", "metadata.json", "model.weights.h5")},
    **{f"a member {name}": more(name) for name in ("../../escaped", "{}", "assets/../../escaped", "assets/x")},
    "pickled weights": lambda p, m, e: write(
        p, {"config.json": m["config.json"], "model.weights.npz": pickle.dumps(Payload(e))}
    ),
    "a member missing": lambda p, m, e: write(p, {"config.json": m["config.json"]}),
    "nothing": lambda p, m, e: write(p, {}),
    "a pickle": lambda p, m, e: p.write_bytes(pickle.dumps(Payload(e))),
    "a torch file": lambda p, m, e: write(p, {"archive/data.pkl": pickle.dumps(Payload(e)), "archive/version": b"3"}),
    "cut off": lambda p, m, e: p.write_bytes(write(p, m).read_bytes()[:2000]),
    **{"a name twice": twice, "a symbolic link": link, "a tar file": tar, "an HDF5 model": legacy},
}


def test_an_archive_that_keras_did_not_write(members, refused, escape, tmp_path):
    for make in ARCHIVES.values():
        make(tmp_path / "hostile.keras", members, escape)
        refused(tmp_path / "hostile.keras")
        (tmp_path / "hostile.keras").unlink()


KINDS = ["external link", "external file", "virtual", "huge", "garbage", "missing", "misshaped"]


@pytest.mark.parametrize(
    "kind", [*KINDS, "soft link", "twice", "in itself", "compressed", "never written", "texts", "a type"]
)
def test_weights_that_are_none(members, refused, tmp_path, kind):
    secret, weights = tmp_path / "secret.h5", tmp_path / "weights.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones(16, "float32")
    weights.write_bytes(members["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        found = []
        file.visititems(
            lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) and item.shape == (16,) else None
        )
        name = found[0]
        del file[name]
        if kind == "external link":
            file[name] = h5py.ExternalLink(str(secret), "x")
        elif kind == "external file":
            file.create_dataset(name, (16,), "float32", external=[(str(secret), 0, 64)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((16,), "float32")
            layout[:] = h5py.VirtualSource(str(secret), "x", (16,))
            file.create_virtual_dataset(name, layout)
        elif kind in ("soft link", "twice", "in itself"):
            other = found[-1].rsplit("/", 1)[0]
            file[name] = (
                h5py.SoftLink(f"/{found[-1]}") if kind == "soft link" else file[found[-1] if kind == "twice" else other]
            )
        elif kind == "compressed":
            file.create_dataset(name, (2**28,), "float32", chunks=(2**20,), compression="gzip", fillvalue=1.0)[
                : 2**22
            ] = 1.0
        elif kind == "never written":
            file.create_dataset(name, (2**28,), "float32", fillvalue=1.0)
        elif kind == "texts":
            file.create_dataset(name, data=["a"] * 16)
        elif kind == "a type":
            file[name] = np.dtype("float32")
        elif kind in ("huge", "misshaped"):
            file.create_dataset(name, (10**6, 10**5) if kind == "huge" else (17,), "float32", chunks=True)
    content = b"garbage" * 10_000 if kind == "garbage" else weights.read_bytes()
    guarded = kind not in ("garbage", "missing")
    refused(
        write(tmp_path / "hostile.keras", {**members, "model.weights.h5": content}),
        message="its weights" if guarded else None,
    )


def checkpoint(path, header, arrays=b""):
    start = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = len(start).to_bytes(8, "little") + start
    path.write_bytes(start + arrays + hashlib.sha256(start).digest())
    return path


def entry(dtype="<f4", shape=(0,), content=b""):
    return {"name": "x", "dtype": dtype, "shape": shape, "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize(
    "header",
    [
        {"step": 1, "note": None, "arrays": [entry("|O", (0,))]},
        {"step": 1, "note": None, "arrays": [entry("os.system", (0,))]},
        {"step": 1, "note": None, "arrays": [entry(shape=(2**40, 2**40))]},
        {"step": 1, "note": None, "arrays": [entry(shape=(10**12,))]},
        {"step": 1, "note": None, "arrays": [entry(shape=(-1, 5))]},
        {"step": 1, "note": None, "arrays": [entry(shape="ab")]},
        *(
            {"step": 1, "note": None, "arrays": [entry(dtype, (10**12,))]}
            for dtype in ("S0", "U0", "V0", "(0,)f4", "f4" * 5000)
        ),
        {"step": 1, "note": None, "arrays": [entry("f4,f4", (0,))]},
        {"step": 1, "note": None, "arrays": 5},
        {"arrays": []},
        [1],
        b"[" * 100_000,
        b"not JSON",
    ],
)
def test_a_checkpoint_that_is_none(refused, tmp_path, header):
    refused(checkpoint(tmp_path / "step-0000000001.checkpoint", header), checkpoints.load, "damaged|no checkpoint")
    told = []
    assert checkpoints.load_newest(tmp_path, told.append) is None and "step-0000000001" in told[0] and len(told) == 2


def test_a_checkpoint_whose_header_is_said_to_be_endless(refused, tmp_path):
    path = tmp_path / "step-0000000001.checkpoint"
    for start in (b"\xff" * 8, bytes(8), (10**12).to_bytes(8, "little")):
        path.write_bytes(start + bytes(100))
        refused(path, checkpoints.load, "damaged")


def test_arrays_of_pickled_objects_are_not_opened(refused, escape, tmp_path):
    objects = np.array([Payload(escape)], dtype=object)
    np.savez(tmp_path / "objects.npz", images=objects)
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Payload(escape)))
    (tmp_path / "huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00"
        + (118).to_bytes(2, "little")
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000, 8, 8), }".ljust(117)
        + b"\n"
    )
    write(tmp_path / "huge.npz", {"images.npy": (tmp_path / "huge.npy").read_bytes()})
    for name in ("npz:objects.npz", "npy:objects.npy", "npz:pickle.npz", "npy:huge.npy", "npz:huge.npz"):
        kind, _, file = name.partition(":")
        message = "is not an .npz file" if file == "pickle.npz" else f"Expected an .{kind} file of plain arrays"
        refused(f"{kind}:{tmp_path / file}", open_source, message)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"version": 1}', '{"version": 1, "root": 5, "broken": {}}']
)
def test_a_record_of_a_folder_that_is_none_is_made_anew(make_images, tmp_path, text):
    (tmp_path / "images").mkdir()
    np.save(tmp_path / "images" / "a.npy", make_images(1)[0])
    (tmp_path / "data.json").write_text(text)
    assert list(scan(str(tmp_path / "images"), tmp_path / "data.json").images) == ["a.npy"]


def test_what_is_hostile_is_so(escape, tmp_path):
    """The payloads above do run where they are let."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists() and not escape.exists()
