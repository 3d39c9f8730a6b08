import errno
import importlib.util
import os
import re
import resource

import keras
import pytest

from recipes import splitmask
from recipes.shared import commandline, flagfiles, help

PROGRAMS = list(splitmask.programs())
SHOW_HELP = """
import runpy, sys
sys.argv = [f"recipes/{sys.argv[1]}.py", "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    heavy = {"keras", "keras_splitmask", "tensorflow", "jax", "torch", "numpy"} & set(sys.modules)
    assert not heavy, heavy
"""


def names_in(text):
    """The flags that a help explains."""
    return re.findall(r"^  --(?:\[no\])?(\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["pretrain", "export"])
def test_help_needs_no_backend_and_takes_less_than_a_second(python, command, name):
    text = python("-c", SHOW_HELP, name)
    assert f"python recipes/{name}.py" in text and "--init_from" in text
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    end = command(name, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert end.status == 0 and not end.err and end.out == text
    # The time of the processor, since the machine may be busy.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_has_every_flag_once_and_those_of_a_beginner_first(here, parsed, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    brief, full = here(name, "--help"), here(name, "--helpfull")
    assert (brief.status, full.status, brief.err, full.err) == (0, 0, "", "")
    assert max(map(len, brief.out.split("Start with")[1].splitlines())) <= 100
    assert len(brief.out.splitlines()) < len(full.out.splitlines()) and "--helpfull explains every flag" in brief.out
    with parsed(name) as recipe:
        modules = recipe.flags.flags_by_module_dict().items()
        own = {flag.name for module, defined in modules for flag in defined if module.startswith("recipe")}
    for text in (brief.out, full.out):
        assert sorted(names_in(text)) == sorted({*own, "flagfile"})
        lacking = re.findall(r"(?<=^Other:\n).*", text, re.MULTILINE | re.DOTALL)
        assert not lacking, f"recipes/shared/help.py: SUBJECTS has no subject of {names_in(lacking[0])}"
        first = names_in(text.split("Start with these flags:\n")[1].split("\n\n")[0])
        assert 5 <= len(first) <= 10 and first == [flag for flag in help.FIRST[name].split() if flag in first]
    monkeypatch.setenv("COLUMNS", "20")
    assert names_in(here(name, "--help").out) == names_in(brief.out)
    head = brief.out.split("\n\n")
    assert len(re.findall(rf"python recipes/{name}\.py --", head[1])) >= 2, "two commands that run"


@pytest.mark.skipif(set(PROGRAMS) != set(splitmask.PROGRAMS), reason="not all programs are there")
def test_the_tables_of_help_have_no_flag_that_no_program_has(here):
    defined = {(name, flag) for name in PROGRAMS for flag in names_in(here(name, "--help").out)}
    assert set(help.FIRST) == set(splitmask.PROGRAMS)
    for name in PROGRAMS:
        assert not [flag for flag in help.FIRST[name].split() if (name, flag) not in defined]
    everywhere = {flag for _, flag in defined} | {f"{name}.{flag}" for name, flag in defined}
    assert not set(" ".join(help.SUBJECTS.values()).split()) - everywhere
    assert len(" ".join(help.SUBJECTS.values()).split()) == len(set(" ".join(help.SUBJECTS.values()).split()))


def test_the_backend_is_chosen_by_flag_then_environment(refused, command, monkeypatch):
    end = command("probe", KERAS_BACKEND="theano")
    assert end.status == 2
    assert (
        end.err
        == "probe.py: Expected the backend to be one of tensorflow, jax, torch, received KERAS_BACKEND='theano'.\n"
    )
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("jax", "tensorflow") else find_spec(name, *rest),
    )
    line = refused("probe", "--backend=jax")
    assert line == "probe.py: The backend jax is not installed. Use --backend=torch, or run: pip install jax\n"
    assert refused("probe", "--backend=tensorflow").endswith("run: pip install tensorflow\n")
    assert os.environ["KERAS_BACKEND"] == keras.backend.backend()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    line = refused("probe")
    assert line.startswith("probe.py: Keras needs a backend, and none is installed. Run one of: pip install torch; ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"--flagfile={tmp}/a.flags\n--dataset=sample\n",
            "{tmp}/a.flags includes itself; remove the line with --flagfile={tmp}/a.flags.",
        ),
        (b"--flagfile={tmp}/b.flags\n", "{tmp}/../{name}/a.flags includes itself"),
        (b"--flagfile={tmp}\n", "The flag file {tmp} cannot be read (Is a directory)."),
        (
            b"--flagfile={tmp}/none.flags\n",
            "Flag file not found: {tmp}/none.flags. Check the path after --flagfile.",
        ),
        (b"--flagfile=\n", "Expected --flagfile=PATH, received no path"),
        (b"PK\x03\x04\0\0\xff\n", "Expected a text file with one flag per line, received --flagfile={tmp}/a.flags"),
        (b"#" * 2**20 + b"\n", "Expected a text file with one flag per line"),
        (b"steps=\xe9\n", "Expected flags only, received 'steps=\\udce9'"),
    ],
)
def test_a_flag_file_that_cannot_be_read_ends_in_one_line(refused, tmp_path, content, message):
    place = {"tmp": tmp_path, "name": tmp_path.name}
    (tmp_path / "a.flags").write_bytes(content.replace(b"{tmp}", bytes(tmp_path)))
    (tmp_path / "b.flags").write_text(f"--flagfile={tmp_path}/../{tmp_path.name}/a.flags\n")
    line = refused("pretrain", f"--flagfile={tmp_path}/a.flags")
    assert line.startswith("pretrain.py: ") and message.format(**place) in line


def test_lines_of_flag_files_stand_in_their_place(tmp_path):
    (tmp_path / "a.flags").write_bytes(
        b"\xef\xbb\xbf# a comment\r\n--steps=2\r\n\r\n--flagfile="
        + bytes(tmp_path)
        + b"/b.flags\r\n// another\r\n--nojit"
    )
    (tmp_path / "b.flags").write_bytes(b"--dataset=folder:caf\xe9\n--seed=1")
    expanded = flagfiles.expanded
    inside = ["--steps=2", "--dataset=folder:caf\udce9", "--seed=1", "--nojit"]
    assert expanded(["--a", f"--flagfile={tmp_path}/a.flags", "--seed=3"]) == ["--a", *inside, "--seed=3"]
    assert expanded(["-flagfile", f"{tmp_path}/a.flags", f"--flagfile={tmp_path}/b.flags"]) == [*inside, *inside[1:3]]


def test_a_failure_that_is_not_the_users_is_no_line_of_ours(here, pretrained, arrays, monkeypatch):
    def fail(*arguments, **others):
        raise ValueError("nobody's fault")

    monkeypatch.setattr("keras_splitmask.evaluation.extract", fail)
    with pytest.raises(ValueError, match="nobody's fault"):
        here("probe", f"--init_from={pretrained}", f"--dataset=npz:{arrays}")


@pytest.mark.parametrize(
    "number, remedy", [(errno.ENOSPC, "Make room"), (errno.EFBIG, "Make room"), (errno.EROFS, "Check that disk")]
)
def test_a_disk_that_fails_ends_in_a_line_and_a_status_to_try_again(
    here, pretrained, arrays, monkeypatch, number, remedy
):
    def fail(*arguments, **others):
        raise OSError(number, os.strerror(number), "result.json")

    monkeypatch.setattr("keras_splitmask.evaluation.extract", fail)
    end = here("probe", f"--init_from={pretrained}", f"--dataset=npz:{arrays}")
    assert end.status == os.EX_TEMPFAIL
    assert (
        end.err
        == f"probe.py: [Errno {number}] {os.strerror(number)}: 'result.json'. {remedy}, then run the same command"
        " again.\n"
    )


def test_relative_paths_of_a_run_begin_where_it_was_started(tmp_path, monkeypatch):
    lines = [
        "--dataset=folder:photos",
        "--probe=npz:../a.npz",
        "--init_from=/there/run",
        "--cache=~/cache",
        "--subset=10%",
        "--labelled=names.txt",
        "--split=block",
        "--dalle_weights=a.pkl,b.pkl",
        "--size=vit_micro",
        "--nojit",
        "--workdir=runs/a",
    ]
    start, run = tmp_path / "start", tmp_path / "start" / "runs" / "a"
    run.mkdir(parents=True)
    (start / "names.txt").write_text("1.png")
    (run / "run.flags").write_text("\n".join([f"{flagfiles.FIRST_LINE}{start}", *lines]))
    monkeypatch.chdir(start)
    assert flagfiles.expanded(["--flagfile=runs/a/run.flags"]) == lines
    monkeypatch.chdir(run)
    moved = [
        f"--dataset=folder:{start}/photos",
        f"--probe=npz:{tmp_path}/a.npz",
        *lines[2:5],
        f"--labelled={start}/names.txt",
        "--split=block",
        f"--dalle_weights={start}/a.pkl,{start}/b.pkl",
        *lines[8:10],
        f"--workdir={start}/runs/a",
    ]
    assert flagfiles.expanded(["--flagfile=run.flags", "--seed=3"]) == [*moved, "--seed=3"]
    (tmp_path / "plain.flags").write_text("# My flags\n" + "\n".join(lines))  # those of the user begin here
    assert flagfiles.expanded([f"--flagfile={tmp_path / 'plain.flags'}"]) == lines
    (run / "run.flags").write_text("\n".join([f"{flagfiles.FIRST_LINE}{tmp_path / 'gone'}", *lines]))
    assert flagfiles.expanded(["--flagfile=run.flags"]) == lines


@pytest.mark.parametrize(
    ("name", "given", "missing"),
    [
        ("finetune", ["--dataset=sample"], "workdir: Folder of the run"),
        ("pretrain", ["--workdir=run"], "dataset: Images to learn from"),
        ("segment", [], "dataset: "),
        ("detect", ["--dataset=sample"], "workdir: "),
        ("probe", ["--dataset=sample"], "init_from: Run folder"),
        ("export", ["--init_from=run"], "output: "),
        ("predict", ["--init_from=run"], "images: "),
        ("embed", ["--init_from=run", "--images=a.png"], "output: "),
    ],
)
def test_a_flag_that_is_missing_is_named_before_keras_is_imported(refused, monkeypatch, name, given, missing):
    monkeypatch.setattr(commandline, "_set_precision", lambda: pytest.fail("Keras was imported first"))
    line = refused(name, *given)
    assert line.startswith(f"{name}.py: Expected --{missing}") and line.endswith("; received none.\n")
