"""The commands and the code of README and the guides, for the tests that run them."""

import re
import shlex

from tests.running import ROOT

GUIDES = ("first_run", "your_images", "small_data", "classify", "dense", "embed", "export", "compare")
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|((?:^ {4}.*\n)+)", re.MULTILINE | re.DOTALL)
STANDS_FOR = {"NAME": "torch", "P": "float32", "V": "512", "WORDS": "512"}  # what a reader fills in
SETTINGS = ("steps", "epochs", "time", "batch_size", "fit_patches", "log_every", "train_limit", "test_limit", "size")


def code_of(page):
    """The blocks of Python of a page."""
    return [text for kind, text, _ in BLOCK.findall(page.read_text()) if kind == "python"]


def commands_of(page):
    """The commands of a page that start a program of this project: a list of (program, list of arguments)."""
    found, variables = [], {}
    for kind, fenced, indented in BLOCK.findall(page.read_text()):
        if kind in ("python", "json"):
            continue
        for line in re.sub(r"\\\n\s*", "", fenced or indented).split("\n"):
            if not re.match(r"\s*(splitmask|python|[A-Z]=)", line):
                continue
            words = shlex.split(line, comments=True)
            if re.match(r"[A-Z]=", words[0]):
                variables["$" + words[0][0]] = words[0][2:].split()
                continue
            words = [part for word in words for part in variables.get(word, [word]) if part != "..."]
            words = [re.sub(r"=([A-Z]+)$", lambda m: f"={STANDS_FOR.get(m[1], m[1])}", word) for word in words]
            if words[:1] == ["splitmask"]:
                found.append((words[1], words[2:]))
            elif words[:1] == ["python"] and words[1].startswith(("recipes/", "benchmarks/")):
                found.append((words[1].split("/")[1].removesuffix(".py"), words[2:]))
    return found


def tiny(program, arguments):
    """The arguments of a command, with settings that end in seconds."""
    kept = [word for word in arguments if word.lstrip("-").partition("=")[0] not in SETTINGS]
    size = [word for word in arguments if word.startswith("--size=")]
    if program == "pretrain":
        words = [] if any(word.startswith("--method=") for word in arguments) else ["--fit_patches=500"]
        kept += ["--size=vit_micro", "--steps=2", "--log_every=1", "--batch_size=4", "--probe_limit=50", *words]
    elif program == "finetune":
        kept += [*size, "--steps=2", "--log_every=1", "--batch_size=4"]
    elif program in ("detect", "segment"):
        kept = [word for word in kept if not word.startswith("--image_size=")]
        kept += [*size, "--image_size=64x96", "--head_width=16", "--steps=2", "--log_every=1", "--batch_size=2"]
    elif program == "probe":
        kept += ["--epochs=1", "--train_limit=20", "--test_limit=20"]
    return kept
