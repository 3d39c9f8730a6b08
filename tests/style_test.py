"""The checks of tests/style.py find what they are for."""

import pytest

from tests import style


@pytest.fixture
def page(tmp_path):
    """Writes a page, beside another with headings, and returns its path."""
    (tmp_path / "other.md").write_text(
        "# One\n\n## The `cost` of a [step](x), measured\n\n```\n# no heading\n```\n\n## One\n"
    )

    def write(text):
        path = tmp_path / "page.md"
        path.write_text(text)
        return path

    return write


def test_links_that_lead_somewhere(page):
    text = "# Here\n\n[a](other.md) [b](other.md#the-cost-of-a-step-measured) "
    text += "[c](other.md#one-1) [d](#here) [e](https://x.y/z)\n"
    assert style.links([page(text)]) == []


@pytest.mark.parametrize(
    "target, line",
    [
        ("absent.md", "page.md: no file absent.md"),
        ("other.md#two", "page.md: no heading #two in other.md"),
        ("other.md#no-heading", "page.md: no heading #no-heading in other.md"),
        ("#there", "page.md: no heading #there in page.md"),
    ],
)
def test_links_that_lead_nowhere(page, target, line):
    assert style.links([page(f"# Here\n\n[a]({target})\n")]) == [line]
    assert style.links([page(f'# Here\n\n<img src="{target}">\n')]) == [line]


@pytest.mark.parametrize(
    "text, lines",
    [
        ("", []),
        ("one\n", []),
        ("one \ntwo\n", ["page.md:1: spaces at the end"]),
        ("one\n\ttwo\t\n", ["page.md:2: spaces at the end"]),
        ("one", ["page.md: does not end in one line break"]),
        ("one\n\n", ["page.md: does not end in one line break"]),
    ],
)
def test_ends_of_lines_and_files(page, text, lines):
    assert style.ends([page(text)]) == lines


def test_every_kind_of_text_is_checked():
    names = {style.name_of(path) for path in style.texts()}
    assert {"README.md", "BUILD", ".ci/run", "pyproject.toml", "keras_splitmask/losses.py", "docs/speed.md"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_what_a_tool_finds_is_shown(monkeypatch, tmp_path, capsys):
    faulty = tmp_path / "faulty.py"
    faulty.write_text("import os\nx = dict( a=1 )  # bec" + "uase\n")
    monkeypatch.setattr(style, "texts", lambda: [faulty])
    monkeypatch.setattr(style, "name_of", str)
    assert style.main(["ruff", "formatting", "spelling", "links"])
    shown = capsys.readouterr().out
    assert "faulty.py:1:8: F401" in shown and "would be reformatted" in shown and "==> because" in shown
    assert "links" not in shown
