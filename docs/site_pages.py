"""Hooks of mkdocs.yml: README becomes the first page, and the notebook a page with its pictures. Links to files outside
docs/ become plain text."""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
NOTEBOOK = "notebook"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Add the first page, made of README, and the notebook's page and pictures."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](").replace(f"{NOTEBOOK}.ipynb)", f"{NOTEBOOK}.md)")
    files.append(File.generated(config, "index.md", content=text))
    path = pathlib.Path(config["docs_dir"]) / f"{NOTEBOOK}.ipynb"
    text, found = MarkdownExporter().from_filename(
        str(path), resources={"unique_key": NOTEBOOK, "output_files_dir": f"{NOTEBOOK}_pictures"}
    )
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=text))
    for name, content in found["outputs"].items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Keep links to other sites, to headings and to pages; of the others keep the text."""
    folder = posixpath.dirname(page.file.src_uri)

    def kept(link):
        label, target = link.groups()
        file = files.get_file_from_path(posixpath.normpath(posixpath.join(folder, target.partition("#")[0])))
        here = file is not None and not file.inclusion.is_excluded()
        return link[0] if here or target.startswith(("http", "#")) else label

    return LINK.sub(kept, markdown)
