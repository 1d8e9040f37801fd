"""Draw tables and charts from the results files: a figure without a file cannot appear.

    python -m benchmarks report [--check] [--results DIR]

Of any directory of results, DIR/report.md, DIR/SCALING.md and DIR/charts/. Of `benchmarks/results`, which is the
default, also the tables of the README, each between `<!-- table NAME -->` and `<!-- end -->` and drawn from the newest
file `benchmarks/results/*-NAME.json`, or from the lab's; and the record that `rlif diagnose` gives of its own verdicts.
`--check` writes nothing and fails if anything says otherwise.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import charts, lab, scaling, scaling_figures
from benchmarks.report.tables import SUITE_TABLES, TABLES
from rlif.diagnosis.verdict import LAB_FINDINGS
from rlif.errors import UserError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"


def newest(name: str, directory: Path | None = None) -> Path:
    """The newest results file of a table or suite; one of full size before any other."""
    directory = RESULTS if directory is None else directory
    if name in lab.TABLES:
        return directory / "lab" / "lab.json"
    files = sorted(directory.glob(f"*-{name}.json"), key=lambda path: (*_age(path), path.name))
    if not files:
        raise UserError(f"no results file {directory}/*-{name}.json: run the command that makes it")
    return files[-1]


def _age(path: Path) -> tuple[bool, str]:
    results = json.loads(path.read_text())
    return _is_full(results), results["date"]


def _is_full(results: dict[str, Any]) -> bool:
    """Of full size, and run to its end."""
    return results.get("size") not in ("quick", "tiny") and results.get("finished", True)


def render(readme: str, *, every: bool = False) -> str:
    """The README with every table drawn anew; with `every`, one that has no place for a table is an error."""
    tables = TABLES | lab.TABLES
    found = re.findall(r"<!-- table (\S+) -->", readme)
    if every and (gone := sorted(set(tables) - set(found))):
        raise UserError(f"README.md has no place for the table {gone[0]!r}: its figures would be from nowhere")
    if unknown := sorted(set(found) - set(tables)):
        raise UserError(f"README.md has a place for the table {unknown[0]!r}; expected one of {', '.join(tables)}")
    for name in found:
        path = newest(name)
        results = json.loads(path.read_text())
        if not _is_full(results):
            kind = "run that was interrupted" if results.get("size", "full") == "full" else f"{results['size']} run"
            raise UserError(f"{path} is of a {kind}; expected a full one for the README")
        place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        body = f"{tables[name](results)}\n\nFrom [`{path.name}`]({place.as_posix()})."
        pattern = rf"(<!-- table {name} -->\n)(?:(?!<!-- table ).)*?(<!-- end -->)"  # not over the next table's place
        readme, count = re.subn(
            pattern,
            lambda match, body=body: f"{match[1]}{body}\n{match[2]}",  # type: ignore[misc]
            readme,
            flags=re.DOTALL,
        )
        if count != 1:
            raise UserError(f"README.md has {count} places for the table {name!r}; expected 1")
    return readme


def sources(directory: Path) -> list[Path]:
    """The newest results file of each suite and kind of machine in a directory."""
    latest: dict[tuple[str, str], tuple[bool, str, Path]] = {}
    for suite in SUITE_TABLES:
        for path in sorted(directory.glob(f"*-{suite}.json")):
            results = json.loads(path.read_text())
            if "entries" in results:  # what `python -m benchmarks` wrote
                key = suite, path.name.split(f"-{results['date']}-")[0]
                latest[key] = max(latest.get(key, (False, "", path)), (*_age(path), path))
    return [path for *_, path in latest.values()]


def report_text(directory: Path) -> str:
    """The whole report on a directory's results: for each file the machine, the tables, the charts, what is missing."""
    parts = [
        "# What was measured",
        "Drawn by `python -m benchmarks report`; every figure is in the file named above it.",
    ]
    for path in sources(directory):
        results = json.loads(path.read_text())
        parts += [f"## {results['suite']}: {path.name}", provenance(results)]
        parts += [f"![{name}](charts/{file.name})" for name, file in charts.files(path, directory).items()]
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
    if any(directory.glob("*-scaling.json")):
        path = newest("scaling", directory)
        texts[directory / "SCALING.md"] = scaling.page(json.loads(path.read_text()), path.name)
    if directory == RESULTS:
        texts[README] = render(README.read_text(), every=True)
        texts[LAB_FINDINGS] = lab.record(json.loads(newest("lab-diagnosis").read_text()))
    return texts


def write_report(directory: Path) -> Path:
    """Draw everything anew; returns where the report is."""
    for path in sources(directory):
        charts.draw(path, directory)
    if any(directory.glob("*-scaling.json")):
        scaling_figures.draw(newest("scaling", directory), directory / "charts")
    for path, text in written(directory).items():
        path.write_text(text)
    return directory / ("report.md" if sources(directory) else "SCALING.md")


def stale(directory: Path) -> list[str]:
    """What does not say what the results say."""
    texts = [path.name for path, text in written(directory).items() if not path.exists() or path.read_text() != text]
    drawn = [(list(charts.files(path, directory).values()), path) for path in sources(directory)]
    if any(directory.glob("*-scaling.json")):
        drawn.append((list(scaling_figures.files(directory / "charts")), newest("scaling", directory)))
    return texts + [name for files, path in drawn for name in charts.stale(files, path)]


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
