"""Bazel without a network: python -m tests.bazel build //...    or    python -m tests.bazel test //:tests/losses_test

For Debian's `apt-get install bazel-bootstrap` (Bazel 4.2, which knows no MODULE.bazel) and the virtual environment that
this runs in. A workspace of links to the checkout stands in a temporary folder, with stand-ins for two repositories:
`rules_python`, which gives Bazel's own rules, and `pip`, which gives the packages that are installed here. The tests'
Python has no packages but those that a target names, so that a missing dependency fails as it does on a clean machine.
"""

import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import venv

from tests.architecture import ROOT

RULES = {  # repository: its folder, and the rules of Bazel's own that it gives
    "rules_python": ("python", ("py_binary", "py_library", "py_test")),
    # Bazel looks for compilers, which nothing here needs.
    "rules_cc": ("cc", ("cc_binary", "cc_library", "cc_test", "cc_toolchain", "cc_toolchain_suite")),
    "rules_java": ("java", ("java_binary", "java_import", "java_library", "java_runtime", "java_toolchain")),
}
WORKSPACE = """workspace(name = "keras_splitmask")
[local_repository(name = name, path = "{folder}/" + name) for name in {repositories}]
register_toolchains("@pip//:toolchain")
"""
TOOLCHAIN = """load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")
package(default_visibility = ["//visibility:public"])
py_runtime(name = "runtime", interpreter_path = "{python}", python_version = "PY3")
py_runtime_pair(name = "pair", py3_runtime = ":runtime")
toolchain(name = "toolchain", toolchain = ":pair", toolchain_type = "@bazel_tools//tools/python:toolchain_type")
"""
PACKAGE = """package(default_visibility = ["//visibility:public"])
py_library(name = "own", data = ["site"], imports = ["site"])
py_library(name = "{name}", deps = {needs})
"""
COVERAGE = 'filegroup(name = "coverage_report_generator", visibility = ["//visibility:public"])\n'  # of every test
LEFT_OUT = {".git", ".venv", "runs", "build", "dist", "wheels", "MODULE.bazel"}


def name_of(requirement):
    """A distribution's name as Bazel's labels have it, from its own or from "name[extra]>=1; marker"."""
    return re.sub(r"[-_.]+", "_", re.match(r"[\w.-]+", requirement)[0]).lower()


def packages():
    """name: (distribution, names of those that it requires and that are here) of all packages that are installed."""
    installed = {name_of(found.name): found for found in importlib.metadata.distributions()}
    return {
        name: (found, sorted({name_of(line) for line in found.requires or ()} & (installed.keys() - {name})))
        for name, found in installed.items()
    }


def make_repository(folder, python):
    """A repository `pip` in which a package's target links to the top-level files of it and of those that it needs."""
    found = packages()
    for name, (distribution, _) in found.items():
        own = folder / name / "site"
        own.mkdir(parents=True)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (own / top).symlink_to(distribution.locate_file(top))
        needs, new = {name}, {name}
        while new := {need for one in new for need in found[one][1]} - needs:  # there are circles, which Bazel refuses
            needs |= new
        (folder / name / "BUILD").write_text(PACKAGE.format(name=name, needs=sorted(f"//{need}:own" for need in needs)))
    for name in set(re.findall(r"@(\w+)", (ROOT / "BUILD").read_text())) - found.keys() - RULES.keys() - {"pip"}:
        (folder / name).mkdir()  # not installed, as what only an endurance test or a yardstick uses: nothing is there
        (folder / name / "BUILD").write_text(PACKAGE.format(name=name, needs=[]).replace('data = ["site"], ', ""))
    (folder / "BUILD").write_text(TOOLCHAIN.format(python=python))
    (folder / "WORKSPACE").touch()


def make_workspace(folder):
    """Everything that Bazel needs in a folder; returns that of the workspace."""
    venv.create(folder / "python", symlinks=True)
    make_repository(folder / "pip", folder / "python" / "bin" / "python")
    for repository, (name, rules) in RULES.items():
        made = folder / repository / name
        made.mkdir(parents=True)
        (made / "defs.bzl").write_text("".join(f"{rule} = native.{rule}\n" for rule in rules))
        for empty in (made / "BUILD", made.parent / "WORKSPACE"):
            empty.touch()
    coverage = folder / "remote_coverage_tools"
    coverage.mkdir()
    (coverage / "WORKSPACE").touch()
    (coverage / "BUILD").write_text(COVERAGE)
    here = folder / "workspace"
    here.mkdir()
    for path in ROOT.iterdir():
        if path.name not in LEFT_OUT:
            (here / path.name).symlink_to(path)
    (here / "WORKSPACE").write_text(
        WORKSPACE.format(folder=folder, repositories=[*RULES, "remote_coverage_tools", "pip"])
    )
    return here


def main(arguments):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bazel-"))
    try:
        here = make_workspace(folder)
        bazel = ["bazel", f"--output_user_root={folder}/out", "--batch"]
        options = ["--symlink_prefix=/", "--spawn_strategy=local", "--incompatible_use_python_toolchains"]
        options += ["--test_output=errors"] if arguments[0] == "test" else []
        return subprocess.run([*bazel, arguments[0], *options, *arguments[1:]], cwd=here).returncode
    finally:
        subprocess.run(["chmod", "-R", "u+w", folder / "out"])
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
