"""What the site needs beyond the pages: files that lie elsewhere in the repository, the API pages, and no network.

- A page may link to a file outside `docs/`, as on GitHub; charts, results and reports are copied into the site.
- The pages `reference/PACKAGE.md` are made here, one for each package of the tree, from the docstrings of its modules.
- A page that would load a script, a style or a picture from elsewhere is refused.
"""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)")
# Tags that make a browser fetch something, and the attribute that says what.
FETCHES = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API pages at the end of the navigation."""
    assert config.nav is not None
    config.nav.append({"API": ["reference/index.md", *(f"reference/{name}.md" for name in api_pages())]})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the API pages, and the files outside `docs/` that pages link to, and those that such a page links to."""
    for name, content in api_pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    todo = [file for file in files if file.is_documentation_page()]
    while todo:
        page = todo.pop()
        for _, target in LINK.findall(page.content_string):
            path = meant(page, target)
            if path is not None and path.is_file() and not files.get_file_from_path(uri(path)):
                added = File.generated(config, uri(path), abs_src_path=str(path))
                files.append(added)
                todo += [added] if added.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between files of the repository lead to where these are in the site."""

    def rewritten(match: re.Match[str]) -> str:
        path = meant(page.file, match[2])
        if path is None:
            return match[0]
        return match[1] + os.path.relpath(uri(path), os.path.dirname(page.file.src_uri) or ".").replace(os.sep, "/")

    return LINK.sub(rewritten, markdown)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that fetches something from elsewhere."""
    parser = Fetches()
    parser.feed(output)
    if parser.found:
        raise PluginError(f"{page.file.src_uri} fetches {parser.found[0]}: the site must work without network")
    return output


class Fetches(HTMLParser):
    """Collects what a page would fetch from another host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values: dict[str, Any] = dict(attributes)
        target = values.get(FETCHES.get(tag, "")) or ""
        if re.match(r"(\w+:)?//", target) and values.get("rel") != "canonical":
            self.found.append(target)


def meant(page: File, target: str) -> Path | None:
    """The file of the repository that a page's link means; None for a page that is made here and lies nowhere."""
    if page.abs_src_path is None:
        return None
    path = Path(os.path.normpath(Path(page.abs_src_path).parent / target))
    return path if path.is_relative_to(ROOT) else None


def uri(path: Path) -> str:
    """Where a file of the repository is in the site: `docs/` is its root, and so is the repository's."""
    docs = ROOT / "docs"
    return path.relative_to(docs if path.is_relative_to(docs) else ROOT).as_posix()


def api_pages() -> dict[str, str]:
    """The Markdown of each API page, by the name of its package."""
    return {name: page for package in ("kernels/rlif_kernels", "rlif") for name, page in _pages(ROOT / package).items()}


def _pages(package: Path) -> dict[str, str]:
    source = package.parents[0]
    by_package: dict[str, list[str]] = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        if parts[-1] == "__main__" or any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        if file.read_text(encoding="utf-8").strip():
            by_package.setdefault(".".join(parts[: min(2, len(parts) - 1)]), []).append(module)
    return {
        name: "\n\n".join([f"# {name}", *(f"::: {module}\n    options:\n      heading_level: 2" for module in modules)])
        for name, modules in sorted(by_package.items())
    }
