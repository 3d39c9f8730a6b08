import errno
import itertools
import os
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_splitmask.training import checkpoints, model_state

ARRAYS = {
    "weights/kernel": np.arange(12, dtype="float32").reshape(3, 4),
    "optimizer/iterations": np.array(7, dtype="int64"),
    "tokenizer/vectors": np.linspace(0, 1, 10),
    "empty": np.zeros((0, 3), "float32"),
}


def same(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype and a[k].shape == b[k].shape for k in a
    )


def test_load_returns_the_saved_arrays(tmp_path):
    path = checkpoints.save(tmp_path, 7, ARRAYS, note={"seed": 3})
    step, note, arrays = checkpoints.load(path)
    assert (step, note) == (7, {"seed": 3})
    assert same(arrays, ARRAYS)


def test_any_flipped_byte_truncation_or_addition_is_noticed(tmp_path, rng):
    path = checkpoints.save(tmp_path, 1, ARRAYS)
    whole = path.read_bytes()
    for place in range(len(whole)):  # each and every byte
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(checkpoints.Damaged):
            checkpoints.load(path)
    for length in (0, 5, 8, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(checkpoints.Damaged):
            checkpoints.load(path)
    for end, word in ((whole[:-32] + b"x" + whole[-32:], "longer"), (whole[:-33] + whole[-32:], "shorter")):
        path.write_bytes(end)
        with pytest.raises(checkpoints.Damaged, match=word):
            checkpoints.load(path)


def under(name, what):
    """Something that is no whole checkpoint, under the name of one."""
    whole = checkpoints.save(name.parent / "other", 3, ARRAYS).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    files = {"cut": whole[:-3], "flipped": flipped, "empty": b"", "another step": whole, "a text": b"my notes\n" * 20}
    if what in files:
        name.write_bytes(files[what])
    elif what == "a folder":
        name.mkdir()
        (name / "photo.png").write_bytes(b"mine")
    elif what == "a pipe":
        os.mkfifo(name)
    elif what == "a dangling link":
        name.symlink_to("nowhere")
    else:
        name.symlink_to(name.parent / "other" / "step-0000000003.checkpoint")
    return name


KINDS = [
    "cut",
    "flipped",
    "empty",
    "another step",
    "a text",
    "a folder",
    "a pipe",
    "a dangling link",
    "a link to another step",
]


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("first", ["load", "save"])
def test_incomplete_checkpoints_do_not_count_and_are_moved_aside(tmp_path, what, first, capsys):
    for step in (1, 2):
        checkpoints.save(tmp_path, step, ARRAYS)
    path, told = under(tmp_path / "step-0000000009.checkpoint", what), []
    before = path.lstat()
    if first == "load":
        step, _, arrays = checkpoints.load_newest(tmp_path, told.append)
        assert step == 2 and same(arrays, ARRAYS)
    checkpoints.save(tmp_path, 4, ARRAYS, report=told.append)
    assert checkpoints.steps(tmp_path) == [2, 4] and checkpoints.load_newest(tmp_path, pytest.fail)[0] == 4
    assert len(told) == 1 and str(path) in told[0] and f"is now called {path.name}.damaged." in told[0]
    aside = path.with_name(f"{path.name}.damaged")
    assert (aside.lstat().st_ino, aside.lstat().st_size) == (before.st_ino, before.st_size)  # the same, not a copy
    assert what != "a folder" or (aside / "photo.png").read_bytes() == b"mine"


@pytest.mark.parametrize("load", [True, False])
def test_new_checkpoints_are_kept_beside_two_damaged_ones_of_later_steps(tmp_path, load):
    paths = [checkpoints.save(tmp_path, step, ARRAYS) for step in (10, 20)]
    cut = [path.read_bytes()[:-3] for path in paths]
    for path, content in zip(paths, cut, strict=True):
        path.write_bytes(content)
    told = []
    if load:
        assert checkpoints.load_newest(tmp_path, told.append) is None
        assert told[-1] == f"No checkpoint in {tmp_path} is whole; the run starts again from step 0."
    seen = []
    for step in (2, 4, 6):
        checkpoints.save(tmp_path, step, {"at": np.array(step)}, report=told.append)
        seen.append(checkpoints.steps(tmp_path))
    assert seen == [[2], [2, 4], [4, 6]] and checkpoints.load_newest(tmp_path)[2]["at"] == 6
    assert [path.with_name(f"{path.name}.damaged").read_bytes() for path in paths] == cut


def test_two_complete_checkpoints_are_kept_despite_damaged_ones_between(tmp_path):
    for step in (1, 2, 3):
        path = checkpoints.save(tmp_path, step, ARRAYS)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)  # the same size, a moment after it was written
    checkpoints.save(tmp_path, 4, ARRAYS)
    assert checkpoints.steps(tmp_path) == [2, 4] and (tmp_path / f"{path.name}.damaged").exists()


def test_a_whole_one_of_a_later_step_is_moved_and_not_deleted(tmp_path):
    content = checkpoints.save(tmp_path, 100, ARRAYS).read_bytes()
    for step in (2, 4):
        checkpoints.save(tmp_path, step, ARRAYS)
    assert checkpoints.steps(tmp_path) == [2, 4] and checkpoints.load_newest(tmp_path)[0] == 4
    assert (tmp_path / "step-0000000100.checkpoint.later").read_bytes() == content


def test_a_link_to_a_whole_one_of_its_step_counts(tmp_path):
    path = checkpoints.save(tmp_path / "other disk", 5, ARRAYS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / path.name).symlink_to(path)
    assert checkpoints.load_newest(tmp_path / "run", pytest.fail)[0] == 5
    for step in (6, 7):
        checkpoints.save(tmp_path / "run", step, ARRAYS)
    assert checkpoints.steps(tmp_path / "run") == [6, 7] and path.exists()


def test_unreadable_files_that_cannot_be_moved_are_skipped(tmp_path, monkeypatch):
    for step in (1, 2):
        path = checkpoints.save(tmp_path, step, ARRAYS)

    def unreadable(name, *arguments, **options):
        if str(name) == str(path) and arguments == ("rb",):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return opened(name, *arguments, **options)

    opened, told = open, []
    monkeypatch.setattr("builtins.open", unreadable)
    monkeypatch.setattr(os, "rename", lambda source, _: os.listdir(source))  # an OSError
    assert checkpoints.load_newest(tmp_path, told.append)[0] == 1
    assert told == [f"{path} cannot be read: Permission denied. Going back to the one before."]
    for step in (3, 4):
        checkpoints.save(tmp_path, step, ARRAYS, report=told.append)
    assert checkpoints.steps(tmp_path) == [2, 3, 4] and len(told) == 1


@pytest.mark.parametrize("name", ["step-0000000007.checkpoint", "step-0000000007.part"])
def test_files_in_the_way_of_a_save_are_renamed_and_not_overwritten(tmp_path, name):
    under(tmp_path / name, "a folder")
    checkpoints.save(tmp_path, 7, ARRAYS)
    assert checkpoints.load_newest(tmp_path, pytest.fail)[0] == 7
    assert (tmp_path / f"{name}.damaged" / "photo.png").read_bytes() == b"mine"


def test_only_files_with_the_name_of_a_checkpoint_are_looked_at(tmp_path):
    names = [
        "my step-0000000001.checkpoint",
        "step-1.checkpoint",
        "step-0000000001.checkpoint.bak",
        "step-mine.part",
        "step-00000000010.part",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    for step in (5, 6, 7):
        checkpoints.save(tmp_path, step, ARRAYS)
    assert checkpoints.steps(tmp_path) == [6, 7] and all((tmp_path / name).read_bytes() == b"mine" for name in names)


def test_checked_files_are_not_read_again(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 1, ARRAYS)
    reads, read = [], checkpoints._read_arrays
    monkeypatch.setattr(
        checkpoints, "_read_arrays", lambda file, path, entries: reads.append(path.name) or read(file, path, entries)
    )
    for step in (2, 3, 4):
        checkpoints.save(tmp_path, step, ARRAYS)
    assert not reads
    monkeypatch.setattr(checkpoints, "_WHOLE", set())  # as in another process
    checkpoints.load_newest(tmp_path)
    for step in (5, 6, 7):
        checkpoints.save(tmp_path, step, ARRAYS)
    assert reads == ["step-0000000004.checkpoint"]


def test_a_damaged_checkpoint_is_passed_over_and_reported(tmp_path):
    checkpoints.save(tmp_path, 1, ARRAYS)
    path = checkpoints.save(tmp_path, 2, ARRAYS)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    told = []
    step, _, arrays = checkpoints.load_newest(tmp_path, told.append)
    assert step == 1 and same(arrays, ARRAYS)
    assert len(told) == 1 and str(path) in told[0]
    assert checkpoints.load_newest(tmp_path / "nowhere") is None


def test_the_newest_and_every_tenth_are_kept(tmp_path):
    for step in range(5, 40, 5):
        checkpoints.save(tmp_path, step, ARRAYS, keep=2, keep_every=10)
    assert checkpoints.steps(tmp_path) == [10, 20, 30, 35]


@pytest.mark.parametrize("bytes_before_full", [0, 3, 100, 400, 700])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, bytes_before_full):
    checkpoints.save(tmp_path, 1, ARRAYS)

    class FullDisk:
        def __init__(self, file):
            self.file, self.left = file, bytes_before_full

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            data = bytes(data)
            self.file.write(data[: self.left])
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = open
    monkeypatch.setattr("builtins.open", lambda path, mode: FullDisk(opened(path, mode)))
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tmp_path, 2, ARRAYS)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000001.checkpoint"]
    assert checkpoints.load_newest(tmp_path)[0] == 1


@pytest.mark.backend
def test_a_model_trained_on_from_a_checkpoint_is_the_model_that_was_never_stopped(tmp_path, make_model, make_images):
    images = make_images(32)
    settings = {"optimizer": "adamw", "drop_path": 0.2, "width": 16, "depth": 2}

    def steps_of(model, start, end):
        for step in range(start, end):
            model.train_on_batch(images[step * 8 : step * 8 + 8])

    stopped = make_model(**settings)
    stopped.set_weights(make_model(**settings).get_weights())  # other weights, to be replaced by the checkpoint's
    first = make_model(**settings)
    first_weights = [np.asarray(w) for w in first.get_weights()]
    straight = make_model(**settings)
    straight.set_weights(first_weights)
    steps_of(straight, 0, 4)
    steps_of(first, 0, 2)
    variables = model_state.variables_of(first)
    checkpoints.save(tmp_path, 2, {name: _numpy(v) for name, v in variables.items()})

    stopped.optimizer.build(stopped.trainable_variables)
    step, _, arrays = checkpoints.load_newest(tmp_path)
    model_state.restore(model_state.variables_of(stopped), arrays)
    steps_of(stopped, step, 4)
    for name, variable in model_state.variables_of(straight).items():
        assert np.array_equal(_numpy(variable), _numpy(model_state.variables_of(stopped)[name])), name


def _numpy(variable):
    return keras.ops.convert_to_numpy(variable)


def test_a_checkpoint_that_does_not_fit_changes_nothing(make_model):
    model = make_model()
    model.optimizer.build(model.trainable_variables)
    variables = model_state.variables_of(model)
    before = {name: _numpy(v).copy() for name, v in variables.items()}
    arrays = {name: value + 1 for name, value in before.items()}
    arrays["encoder/norm/gamma"] = np.zeros(3, "float32")
    arrays["encoder/extra"] = arrays.pop("encoder/norm/beta")
    with pytest.raises(ValueError) as error:
        model_state.restore(variables, arrays)
    for part in (
        "encoder/norm/beta is missing",
        "encoder/extra is left over",
        "encoder/norm/gamma has shape (3,), expected (16,)",
    ):
        assert part in str(error.value)
    assert all(np.array_equal(before[name], _numpy(v)) for name, v in variables.items())


@pytest.fixture
def state(make_model):
    """The arrays of a compiled model."""
    model = make_model("adamw")
    model.optimizer.build(model.trainable_variables)
    return {name: _numpy(variable) for name, variable in model_state.variables_of(model).items()}


def test_two_hundred_flips_truncations_and_deletions(tmp_path, state):
    for step in (1, 2):
        path = checkpoints.save(tmp_path, step, {name: array + step for name, array in state.items()})
    whole, rng = path.read_bytes(), random.Random(0)
    for i in range(200):
        told = []
        if i % 3 == 2:
            path.write_bytes(whole[: rng.randrange(len(whole))])
        elif i % 30 == 0:
            path.unlink(missing_ok=True)
        else:
            damaged = bytearray(whole)
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
        there = path.exists()
        step, _, arrays = checkpoints.load_newest(tmp_path, told.append)
        assert step == 1 and same(arrays, {name: array + 1 for name, array in state.items()})
        assert [str(path) in line for line in told] == [True] * there and not path.exists(), i


# checkpoints.py needs no backend, so a process that saves and nothing else starts soon.
ALONE = """
import importlib.util, itertools, os, resource, signal, sys
import numpy as np
spec = importlib.util.spec_from_file_location("checkpoints", sys.argv[1])
checkpoints = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checkpoints)
"""
SAVE_FOR_EVER = """
found = checkpoints.load_newest(sys.argv[2])
for step in itertools.count(found[0] + 1 if found else 1):
    checkpoints.save(sys.argv[2], step, {"a": np.full(5_000_000, step, "float32"), "step": np.array(step)})
    print(step, flush=True)
"""
SAVE_TO_A_FULL_DISK = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
arrays = {str(i): np.random.default_rng(i).random(10_000) for i in range(10)}
size = checkpoints.save(sys.argv[2], 1, arrays).stat().st_size
for i in range(10):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * i // 10 + i, resource.RLIM_INFINITY))
    try:
        checkpoints.save(sys.argv[2], 2, arrays)
    except OSError as error:
        step, _, found = checkpoints.load_newest(sys.argv[2])
        assert step == 1 and all((found[name] == arrays[name]).all() for name in arrays)
        assert os.listdir(sys.argv[2]) == ["step-0000000001.checkpoint"]
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert checkpoints.load(checkpoints.save(sys.argv[2], 2, arrays))[0] == 2
"""


def alone(script, folder):
    command = [sys.executable, "-c", ALONE + script, checkpoints.__file__, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_ten_points_at_which_the_disk_is_full(tmp_path):
    """The kernel refuses the write (EFBIG: no file may be larger), as it does where the disk is full."""
    run = alone(SAVE_TO_A_FULL_DISK, tmp_path)
    told, _ = run.communicate()
    assert run.returncode == 0 and told.count("File too large") == 10, told


@pytest.mark.parametrize("kills", [3, pytest.param(int(os.environ.get("KILLS", 50)), marks=pytest.mark.endurance)])
def test_kills_in_a_save_lose_no_more_than_that_save(tmp_path, kills):
    inside, newest, rng = 0, 0, random.Random(0)
    for _ in range(kills):
        run = alone(SAVE_FOR_EVER, tmp_path)
        left = len(list(itertools.islice(run.stdout, rng.randint(1, 4))))
        time.sleep(rng.uniform(0, 0.05))
        run.send_signal(signal.SIGKILL)
        told = [newest + left, *map(int, run.stdout.read().split())][-1]
        run.wait()
        inside += bool(list(tmp_path.glob("*.part")))
        newest, _, arrays = checkpoints.load_newest(tmp_path, pytest.fail)
        assert newest in (told, told + 1) and (arrays["a"] == newest).all() and arrays["step"] == newest
    print(
        f"\n{kills} SIGKILLs of a process that saves 20 MB again and again, {inside} of them in a save, none lost more"
    )


@pytest.mark.endurance
def test_a_hundred_megabytes_take_less_than_two_seconds(tmp_path, rng):
    arrays = {f"weight {i}": rng.random((1000, 1000), "float32") for i in range(25)}
    seconds = []
    for step in range(1, 6):
        began = time.perf_counter()
        path = checkpoints.save(tmp_path, step, arrays)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    checkpoints.load(path)
    print(
        f"\n100 MB saved in {' '.join(f'{s:.2f}' for s in seconds)} s, read and checked in"
        f" {time.perf_counter() - began:.2f} s"
    )
    assert sorted(seconds)[2] < 2


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no attention in float16 on CPUs.")
def test_in_float16_the_scale_of_the_loss_is_kept_too(tmp_path, make_model, make_images):
    keras.config.set_dtype_policy("mixed_float16")
    model, again = make_model("adamw", depth=1), make_model("adamw", depth=1)
    model.train_on_batch(make_images())
    model.optimizer.dynamic_scale.assign(64.0)
    path = checkpoints.save(tmp_path, 1, {name: _numpy(v) for name, v in model_state.variables_of(model).items()})
    again.optimizer.build(again.trainable_variables)
    model_state.restore(model_state.variables_of(again), checkpoints.load(path)[2])
    assert float(again.optimizer.dynamic_scale) == 64.0 and int(again.optimizer.iterations) == 1
