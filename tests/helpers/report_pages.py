"""Pages of `rlif report`, taken apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from rlif.reporting.page import render
from rlif.reporting.report import read_subjects

# Elements without an end.
VOID = {"meta", "input", "img", "br", "path", "circle"}
# The only attributes by which a page of ours refers to anything.
REFERENCES = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "background"}


class Page(HTMLParser):
    """A page as a browser would take it apart: elements in each other, references, and texts by class."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.references, self.handlers = html, set(), [], []
        self.open: list[tuple[str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.references += [found[name] for name in REFERENCES & found.keys()]
        self.handlers += [name for name in found if name.startswith("on")]
        self.ids += [found["id"]] if "id" in found else []
        classes = found.get("class", "")
        for name in classes.split():
            self.texts.setdefault(name, []).append("")
        if tag not in VOID:
            self.open.append((tag, classes))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for name in {name for _, classes in self.open for name in classes.split()}:
            self.texts[name][-1] += data

    def text(self) -> str:
        return re.sub(r"<style>.*?</style>|<[^>]*>", "", self.html, flags=re.DOTALL)


def page_of(*directories: Path) -> Page:
    return Page(render(read_subjects(directories)))
