"""What is checked before any test runs: ruff, its formatter, spelling, ends of lines and files, links, and types.

python -m tests.style          everything; exit status 1 if something is found
python -m tests.style links    one of the checks by name
"""

import functools
import re
import subprocess
import sys

from tests.architecture import ROOT, name_of

FOLDERS = (".ci", "benchmarks", "docs", "examples", "keras_splitmask", "recipes", "tests", "tools")  # and the root
TEXTS = {".bazel", ".flags", ".jsonl", ".md", ".py", ".toml", ".txt", ".yaml", ""}  # "": BUILD, LICENSE, .ci/run
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:href|src)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@functools.cache
def texts():
    """The project's text files; what a run or a build leaves beside them is not looked at."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")] + list(ROOT.iterdir())
    return sorted(p for p in found if p.is_file() and p.suffix in TEXTS and "__pycache__" not in p.parts)


def lines_of(*command):
    """What a command prints where it fails, and nothing where it succeeds."""
    end = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    return (end.stdout + end.stderr).splitlines() if end.returncode else []


def python_files():
    return [name_of(path) for path in texts() if path.suffix == ".py"]


def ruff():
    return lines_of("ruff", "check", "--quiet", "--no-cache", "--output-format=concise", *python_files())


def formatting():
    return lines_of("ruff", "format", "--check", "--no-cache", *python_files())


def spelling():
    return lines_of("codespell_lib", *(name_of(path) for path in texts() if path.suffix != ".jsonl"))


def types():
    return lines_of("mypy")


def ends(paths=None):
    """Lines that end in spaces, and files that do not end in one line break."""
    found = []
    for path in paths or texts():
        name, text = path.name, path.read_text()
        numbered = enumerate(text.split("\n"), 1)
        found += [f"{name}:{i}: spaces at the end" for i, line in numbered if line != line.rstrip()]
        if text and (not text.endswith("\n") or text.endswith("\n\n")):
            found.append(f"{name}: does not end in one line break")
    return found


def anchors(text):
    """The anchors that GitHub makes of a page's headings."""
    found = []
    for heading in HEADING.findall(CODE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return found


def links(pages=None):
    """Links between pages and to files here: the file and the heading must be there. Other sites are not asked."""
    found = []
    for page in pages or [path for path in texts() if path.suffix == ".md"]:
        for target in filter(None, sum(LINK.findall(CODE.sub("", page.read_text())), ())):
            path, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists():
                found.append(f"{page.name}: no file {path}")
            elif anchor and anchor not in anchors(file.read_text()):
                found.append(f"{page.name}: no heading #{anchor} in {file.name}")
    return found


CHECKS = {check.__name__: check for check in (ruff, formatting, spelling, ends, links, types)}


def main(names):
    """Print what the checks find, and return whether they do."""
    found = {name: lines for name in names or CHECKS if (lines := CHECKS[name]())}
    for name, lines in found.items():
        print(f"{name}:", *lines, sep="\n  ")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
