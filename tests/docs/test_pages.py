"""The pages hang together: links, navigation, papers, pictures, and the files that say how to cite and contribute."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import rlif_kernels
from benchmarks.report import newest
from benchmarks.report.headline import headline
from pages import PAGES, ROOT

ARXIV = re.compile(r"\b[12]\d{3}\.\d{5}\b")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def text_of(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs both make them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(text_of(page)):
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


def test_the_navigation_has_every_page() -> None:
    listed = set(re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - {"reference/index.md"} <= listed  # docs/hooks.py adds the reference


def test_the_readme_is_a_page_long() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


# ---------------------------------------------------------------- names

FOLDERS = ("rlif", "kernels", "tests", "benchmarks", "examples", "docs")
INLINE = [(page, code) for page in PAGES for code in re.findall(r"`([^`\n]+)`", text_of(page))]


def test_every_file_that_a_page_names_is_there() -> None:
    path = re.compile(rf"({'|'.join(FOLDERS)})/[a-z_/.-]+")  # of a place to fill in, NAME, nothing can be said
    named = {(page.name, code) for page, code in INLINE if path.fullmatch(code)}
    assert named
    assert {(page, code) for page, code in named if not (ROOT / code).exists()} == set()


def test_every_name_of_the_packages_that_a_page_uses_is_one() -> None:
    named = {(page.name, code) for page, code in INLINE if re.fullmatch(r"rlif(_kernels)?(\.\w+)+(\(\))?", code)}
    assert named
    assert {(page, code) for page, code in named if not is_a_name(code.removesuffix("()"))} == set()


def is_a_name(dotted: str) -> bool:
    """Whether a module of the packages has this name, or holds it, as far as its text tells."""
    parts = dotted.split(".")
    place = (ROOT / "kernels" if parts[0] == "rlif_kernels" else ROOT) / parts[0]
    for number, part in enumerate(parts[1:], start=1):
        if (place / part).is_dir():
            place = place / part
        elif (place / f"{part}.py").is_file():
            place = place / f"{part}.py"
        else:
            module = place if place.suffix else place / "__init__.py"
            return (
                number == len(parts) - 1 and re.search(rf"\b{part}\b", module.read_text(encoding="utf-8")) is not None
            )
    return True


def test_every_suite_and_command_of_the_benchmarks_that_a_page_names_is_one() -> None:
    from benchmarks.__main__ import SUITE_NAMES, TOOLS

    named = {
        (page.name, match[1]) for page, code in INLINE if (match := re.match(r"python -m benchmarks ([\w-]+)", code))
    }
    assert {(page, word) for page, word in named if word not in {*SUITE_NAMES, *TOOLS}} == set()


def test_the_readmes_table_is_drawn_from_the_results() -> None:
    readme = ROOT / "README.md"
    shown = re.search(r"<!-- table headline -->\n(.*?)\n<!-- end -->", readme.read_text(), re.DOTALL)
    assert shown[1] == headline(newest, readme)


# ---------------------------------------------------------------- papers

SOURCES = [
    path for folder in ("kernels", "rlif") for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")
]
ROWS = re.findall(
    r"^\| \[(\S+)\]\(\S+\) \| .+? \| `(\S+)`(?:: `(\w+)`)? \|$", (ROOT / "docs/papers.md").read_text(), re.M
)


def test_the_list_of_papers_and_the_code_cite_the_same() -> None:
    cited = {number for path in SOURCES for number in ARXIV.findall(path.read_text(encoding="utf-8"))}
    assert {number for number, *_ in ROWS} == cited
    assert len(ROWS) == len(cited)


@pytest.mark.parametrize(("number", "module", "name"), ROWS)
def test_the_module_named_for_a_paper_cites_it(number: str, module: str, name: str) -> None:
    code = (ROOT / module).read_text(encoding="utf-8")
    assert number in code
    assert not name or re.search(rf"^(def|class) {name}\b", code, re.MULTILINE)


# ---------------------------------------------------------------- files beside the pages


@pytest.mark.parametrize("name", ["layers", "training-step", "tiles"])
def test_a_picture_is_what_its_script_draws(name: str) -> None:
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs/figures/draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    assert (ROOT / f"docs/figures/{name}.svg").read_text(encoding="utf-8") == draw.PICTURES[name]().svg()


def test_the_picture_of_the_layers_shows_those_that_are_held() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [line.replace("rlif.", "").replace(" : ", ", ") for line in contract["layers"]]
    shown = (ROOT / "docs/figures/layers.svg").read_text(encoding="utf-8")
    assert all(f">{names}</text>" in shown for names in layers)


def test_the_citation_is_of_this_version_and_has_what_the_format_requires() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == rlif_kernels.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"message", "title", "authors", "abstract"} <= citation.keys()
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_the_changelog_has_a_place_for_what_comes_and_one_for_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert rlif_kernels.__version__ in headings


def test_the_checks_before_a_commit_are_those_of_make_lint_and_need_no_network() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    tools = {line.split("/")[1].split()[0] for line in lint.splitlines()}
    assert {hook["entry"].split("/")[-1].split()[0] for hook in repository["hooks"]} == tools


def test_the_source_distribution_has_what_the_tests_read() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"][
        "include"
    ]
    assert {"docs", "mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", ".pre-commit-config.yaml"} <= set(
        included
    )
    assert all((ROOT / path).exists() for path in included)
