"""Hook of mkdocs: README, CONTRIBUTING, CHANGELOG and the results are pages of the site, and links follow them.

In the repository links go from file to file. On the site a link to a file that is a page goes to the page; of a link to any
other file of the repository only the text stays.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
IMAGE = re.compile(r"(?P<before>!\[[^\]]*\]\()docs/")  # of a page outside docs/

log = logging.getLogger("mkdocs.hooks.site_pages")  # warnings end a build with --strict
_page_of: dict[str, str] = {}  # path in the repository -> path of the page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/."""
    repository = Path(config.config_file_path).parent
    _page_of.clear()
    _page_of.update({posixpath.join("docs", file.src_uri): file.src_uri for file in files.documentation_pages()})
    results = sorted((repository / "benchmarks/results").glob("*.md"))
    outside = OUTSIDE | {path.relative_to(repository).as_posix(): f"results/{path.name}" for path in results}
    for source, page in outside.items():
        files.append(File.generated(config, page, abs_src_path=str(repository / source)))
        _page_of[source] = page
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages."""
    source = next(path for path, uri in _page_of.items() if uri == page.file.src_uri)
    repository = Path(config.config_file_path).parent

    def follow(link: re.Match[str]) -> str:
        target = link["target"]
        if ":" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in _page_of:
            near = posixpath.relpath(_page_of[path], posixpath.dirname(page.file.src_uri))
            return f"[{link['text']}]({near}{link['anchor'] or ''})"
        if not (repository / path).exists():
            log.warning("%s has a link to %s, which does not exist", source, target)
        return link["text"]

    markdown = LINK.sub(follow, markdown)
    return markdown if source.startswith("docs/") else IMAGE.sub(r"\g<before>", markdown)
