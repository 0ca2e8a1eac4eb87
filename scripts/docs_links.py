"""A hook of MkDocs: links from notebooks to other pages, which mkdocs-jupyter leaves as they are."""

from __future__ import annotations

import logging
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

LINK = re.compile(r'href="(?P<path>[^":#]+\.(?:md|ipynb))(?P<anchor>#[^"]*)?"')
log = logging.getLogger("mkdocs.hooks")  # its warnings are errors of a strict build


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the content of a notebook with links to the addresses of the pages."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def linked(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), match["path"]))
        target = files.get_file_from_path(path)
        if target is None:
            log.warning("%s links to %s, which is no page", page.file.src_uri, path)
            return match[0]
        return f'href="{target.url_relative_to(page.file)}{match["anchor"] or ""}"'

    return LINK.sub(linked, html)
