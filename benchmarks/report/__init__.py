"""Draw tables and charts from the results files: a figure without a file cannot appear.

    python -m benchmarks report [--check] [--results DIR]

Of any directory of results, DIR/report.md and DIR/charts/. Of `benchmarks/results`, which is the default, also the
tables of the README and of the pages in `docs/`, each between `<!-- table NAME -->` and `<!-- end -->` and drawn from
the newest `benchmarks/results/*-NAME.json`, or from the lab's file; and the record that `rlif diagnose` gives of its
own verdicts. `--check` writes nothing and fails if anything says otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import charts, lab
from benchmarks.report.family import LAB, claims, is_shown
from benchmarks.report.headline import headline
from benchmarks.report.tables import SUITE_TABLES, TABLES
from rlif.diagnosis.verdict import LAB_FINDINGS
from rlif.errors import UserError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# What stands in the place of a table that nobody could measure yet.
UNMEASURED = {
    "gpu": "**No GPU timing is claimed yet.**",
}
TABLE = re.compile(r"(<!-- table (\S+) -->\n)((?:(?!<!-- table ).)*?)(<!-- end -->)", re.DOTALL)


def newest(name: str, directory: Path | None = None) -> Path:
    """Return the newest results file of a table or suite; one of full size before any other."""
    directory = RESULTS if directory is None else directory
    if name in lab.LAB_TABLES:
        return directory / "lab" / "lab.json"
    files = sorted(files_of(name, directory), key=lambda path: (*_age(path), path.name))
    if not files:
        raise UserError(f"no results file {directory}/*-{name}.json: run the command that makes it")
    return files[-1]


def files_of(suite: str, directory: Path) -> list[Path]:
    """List a suite's results files; of `self-feedback` not those of `real-self-feedback`, whose names end likewise."""
    dated = re.compile(rf".+-\d{{4}}-\d\d-\d\d-{re.escape(suite)}\.json")
    return [path for path in sorted(directory.glob(f"*-{suite}.json")) if dated.fullmatch(path.name)]


def finished(suite: str, directory: Path | None = None) -> Path | None:
    """Return the newest results file of a suite that is of full size and whole; None if there is none."""
    if suite == LAB:  # whose runs are published, and none of a suite
        return RESULTS / "lab" / "lab.json"
    files = files_of(suite, RESULTS if directory is None else directory)
    whole = [path for path in files if is_shown(json.loads(path.read_text(encoding="utf-8")))]
    return max(whole, key=lambda path: (*_age(path), path.name), default=None)


def _age(path: Path) -> tuple[bool, str]:
    results = json.loads(path.read_text(encoding="utf-8"))
    return _is_full(results), results["date"]


def _is_full(results: dict[str, Any]) -> bool:
    """Of full size, and run to its end."""
    return results.get("size") not in ("quick", "tiny") and results.get("finished", True)


def pages() -> list[Path]:
    """The README and every page of the documentation that has a place for a table."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "<!-- table " in page.read_text()]


def render(text: str, page: Path) -> str:
    """Return the page's text with every table drawn anew."""
    tables = TABLES | lab.LAB_TABLES

    def draw(match: re.Match[str]) -> str:
        start, name, _, end = match.groups()
        if name == "headline":
            return f"{start}{headline(newest, page)}\n{end}"
        if name == "family":
            return f"{start}{claims(finished, page)}\n{end}"
        if name not in tables:
            raise UserError(f"{page.name} has a place for the table {name!r}; expected one of {', '.join(tables)}")
        if name in UNMEASURED and not files_of(name, RESULTS):
            return f"{start}{UNMEASURED[name]}\n{end}"
        path = newest(name)
        results = json.loads(path.read_text())
        if not _is_full(results):
            kind = "run that was interrupted" if results.get("size", "full") == "full" else f"{results['size']} run"
            raise UserError(f"{path} is of a {kind}; expected a full one for {page.name}")
        place = Path(os.path.relpath(path, page.parent)).as_posix()
        return f"{start}{tables[name](results)}\n\nFrom [`{path.name}`]({place}).\n{end}"

    drawn, count = TABLE.subn(draw, text)
    if count != text.count("<!-- table "):
        raise UserError(f"{page.name} has a place for a table that does not end; expected <!-- end --> after each")
    return drawn


def rendered_pages() -> dict[Path, str]:
    """Every page as it should be. A table that no page has a place for is an error: its figures would be nowhere."""
    texts = {page: page.read_text() for page in pages()}
    placed = {name for text in texts.values() for _, name, _, _ in TABLE.findall(text)}
    if gone := sorted((TABLES | lab.LAB_TABLES).keys() - placed):
        raise UserError(f"neither README.md nor docs/ has a place for the table {gone[0]!r}")
    return {page: render(text, page) for page, text in texts.items()}


def sources(directory: Path) -> list[Path]:
    """Return the newest results file of each suite and kind of machine in a directory."""
    latest: dict[tuple[str, str], tuple[bool, str, Path]] = {}
    for suite in SUITE_TABLES:
        for path in files_of(suite, directory):
            results = json.loads(path.read_text())
            if "entries" in results:  # what `python -m benchmarks` wrote
                key = suite, path.name.split(f"-{results['date']}-")[0]
                latest[key] = max(latest.get(key, (False, "", path)), (*_age(path), path))
    return [path for *_, path in latest.values()]


def report_text(directory: Path) -> str:
    """Write the report on a directory's results: for each file the machine, tables, charts and what is missing."""
    parts = [
        "# What was measured",
        "Drawn by `python -m benchmarks report`; every figure is in the file named above it.",
    ]
    for path in sources(directory):
        results = json.loads(path.read_text())
        parts += [f"## {results['suite']}: {path.name}", provenance(results)]
        parts += [f"![{chart.stem}](charts/{chart.name})" for chart in charts.figures(path, directory)]
        parts.append(SUITE_TABLES[results["suite"]](results))
        gone = {f"{name}: {reason}" for name, reason in (results["missing"] | results["skipped"]).items()}
        if gone:
            parts.append("Not measured:\n\n" + "\n".join(f"- {each}" for each in sorted(gone)))
    return "\n\n".join(parts) + "\n"


def provenance(results: dict[str, Any]) -> str:
    """Which machine, which versions, which command; and whether the figures are to be taken seriously."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    text = (
        f"`{results['command']}` on {results['date']}: {machine['gpu'] or machine['processor']}, "
        f"{machine['cores']} cores, {machine['torch_threads']} threads, {machine['system']}, "
        f"Python {machine['python']}; {versions}."
    )
    if results["size"] != "full":
        text += f" **A {results['size']} run: small shapes, few repeats.**"
    return text if results["finished"] else f"{text} **Interrupted before its end.**"


def written(directory: Path) -> dict[Path, str]:
    """Every text that belongs to a directory of results, as it should be."""
    texts = {directory / "report.md": report_text(directory)} if sources(directory) else {}
    if directory == RESULTS:
        texts |= rendered_pages()
        texts[LAB_FINDINGS] = lab.record_table(json.loads(newest("lab-diagnosis").read_text()))
    return texts


def write_report(directory: Path) -> Path:
    """Draw everything anew; returns where the report is."""
    for path in sources(directory):
        charts.draw_charts(path, directory)
    for path, text in written(directory).items():
        path.write_text(text)
    return directory / "report.md"


def stale(directory: Path) -> list[str]:
    """What does not say what the results say."""
    texts = [path.name for path, text in written(directory).items() if not path.exists() or path.read_text() != text]
    return texts + [name for path in sources(directory) for name in charts.stale_charts(path, directory)]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="fail if anything differs from the results")
    parser.add_argument("--results", type=Path, help="directory of results files; default benchmarks/results")
    options = parser.parse_args(arguments)
    directory = RESULTS if options.results is None else options.results.resolve()
    if not directory.is_dir():
        parser.error(f"--results is {options.results}; expected a directory of results files")
    if directory != RESULTS and not written(directory):
        parser.error(f"--results is {options.results}, where no results file is; `python -m benchmarks` makes them")
    try:
        if not options.check:
            print(write_report(directory))
            return 0
        differing = stale(directory)
    except UserError as error:
        parser.error(str(error))
    if differing:
        message = f"{', '.join(differing)}: not what {directory.name} says; run python -m benchmarks report"
        print(message, file=sys.stderr)
    return 1 if differing else 0
