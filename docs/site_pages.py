"""Hooks of mkdocs.yml: README becomes the first page, and links to files outside docs/ become plain text."""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Add the first page, made of README."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
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
