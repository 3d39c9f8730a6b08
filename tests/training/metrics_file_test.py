import errno
import json
import os
import shutil

import pytest

from keras_splitmask.training.metrics_file import MetricsFile

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


@pytest.fixture
def told():
    return []


def text(steps):
    """The file of a run with a line at each of these steps."""
    return "".join(json.dumps({"step": step, "loss": step / 8}) + "\n" for step in steps)


def append(file, *steps):
    for step in steps:
        file.append({"step": step, "loss": step / 8})


def limited(monkeypatch, room):
    """A disk with room for so many bytes more, of which a write takes what it can; returns what is left, to be
    changed."""
    write, left = os.write, [room]

    def write_some(descriptor, data):
        if not left[0]:
            raise FULL
        done = write(descriptor, data[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr(os, "write", write_some)
    return left


@pytest.mark.parametrize("room", [*range(0, 61, 6), 27, 28, 29])  # bytes, with lines of 28 and 29
@pytest.mark.parametrize("cut", [True, False])
def test_lines_wait_until_there_is_room(path, told, monkeypatch, room, cut):
    file = MetricsFile(path, report=told.append)
    append(file, 1)
    left = limited(monkeypatch, room)
    if not cut:  # not even the half line can be removed at once
        truncate = os.ftruncate
        monkeypatch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(FULL))
    append(file, 2, 3, 4)
    if cut:
        found = path.read_text()
        assert text([1, 2, 3, 4]).startswith(found) and found.endswith("\n")  # whole lines only
    assert file.waiting and file.past[-1]["step"] == 4
    left[0] = 10**6
    if not cut:
        monkeypatch.setattr(os, "ftruncate", truncate)
    append(file, 5)
    append(file, 6)
    file.close()
    assert path.read_text() == text(range(1, 7))
    assert told == [
        (
            f"{path} cannot be written: No space left on device. Its lines are kept, and written as soon as that is"
            " possible."
        ),
        f"{path} could be written again; no line is missing",
    ]


@pytest.mark.parametrize("reason", [errno.EIO, errno.EROFS, errno.EACCES])
def test_unwritten_lines_are_counted_at_the_end(path, told, monkeypatch, reason):
    file = MetricsFile(path, report=told.append)
    append(file, 1, 2)

    def refuse(*_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "open", refuse)
    append(file, 3, 4)
    file.close()
    assert path.read_text() == text([1, 2])
    assert len(told) == 2 and os.strerror(reason) in told[0]
    assert told[1] == f"{path} lacks the last 2 lines, from step 3 on, which could not be written."


@pytest.mark.parametrize(
    "remove", [os.unlink, lambda path: shutil.rmtree(path.parent), lambda path: path.write_text("")]
)
def test_a_file_that_was_removed_during_the_run_is_written_again(path, told, remove):
    file = MetricsFile(path, report=told.append)
    append(file, 1, 2)
    remove(path)
    append(file, 3)
    assert path.read_text() == text([1, 2, 3]) and not told


@pytest.mark.parametrize("end", ["", '{"step": 6, "lo', "\0" * 20, '{"step": 6, "loss"\n'])
def test_a_run_goes_on_after_its_last_step_and_a_torn_line(path, told, end):
    path.parent.mkdir()
    path.write_text(text(range(6)) + end)
    file = MetricsFile(path, start=3, report=told.append)
    assert path.read_text() == text(range(4)) and [line["step"] for line in file.past] == [0, 1, 2, 3]
    append(file, 4)
    assert path.read_text() == text(range(5)) and not told
    path.write_text(text(range(6))[:-1])  # only its end is missing
    MetricsFile(path, start=5, report=told.append)
    assert path.read_text() == text(range(6)) and not told


def test_lines_are_cut_off_on_a_full_disk_too(path, told, monkeypatch):
    path.parent.mkdir()
    path.write_text(text(range(6)))
    limited(monkeypatch, 0)
    MetricsFile(path, start=3, report=told.append)
    assert path.read_text() == text(range(4)) and not told


def test_restarting_from_zero_is_reported(path, told):
    path.parent.mkdir()
    path.write_text(text(range(6)))
    assert [line["step"] for line in MetricsFile(path, report=told.append).past] == [0]
    assert told == [f"{path}: 5 lines are removed, since the run starts again from step 0."]


@pytest.mark.parametrize(
    "foreign",
    [
        b"my notes\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"5\n",
        b'{"loss": 1}\n',
        b'{"step": NaN}\n',
        b'{"step": 2, "loss": 0.25}\n',
        b"\n",
    ],
)
def test_foreign_lines_are_kept_in_a_file_of_their_own(path, told, foreign):
    path.parent.mkdir()
    path.write_bytes(text([1, 2]).encode() + foreign + text([3, 4, 5]).encode())
    before = path.read_bytes()
    file = MetricsFile(path, start=4, report=told.append)
    append(file, 5)
    assert path.read_text() == text(range(1, 6))
    assert (path.parent / "metrics.jsonl.damaged").read_bytes() == before
    assert told == [
        f"{path} has lines that are no metrics of this run; the others are kept. It is now called"
        " metrics.jsonl.damaged."
    ]


def test_the_lines_of_two_runs_in_one_file_are_kept_once(path, told):
    path.parent.mkdir()
    path.write_text(text([0, 0, 2, 2, 4, 4]))
    MetricsFile(path, start=4, report=told.append)
    assert path.read_text() == text([0, 2, 4]) and len(told) == 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_folders_pipes_and_links_are_moved_aside(path, told, make):
    path.parent.mkdir()
    make(path)
    append(MetricsFile(path, start=2, report=told.append), 3)
    assert path.read_text() == text([3]) and os.path.lexists(path.parent / "metrics.jsonl.damaged")
    assert told == [f"{path} cannot be read: it is not a file. It is now called metrics.jsonl.damaged."]


def test_an_unusable_file_that_cannot_be_moved_is_unchanged(path, told, monkeypatch):
    path.parent.mkdir()
    path.write_bytes(b"my notes\n" + text([1]).encode())
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(FULL))
    append(MetricsFile(path, start=1, report=told.append), 2)
    assert path.read_bytes() == b"my notes\n" + text([1, 2]).encode() and len(told) == 1
