"""From directories to a page: which of them are runs, which labs and which evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlif.errors import UserError
from rlif.files.whole import write_text
from rlif.lab.plan import Trial
from rlif.reporting.evaluation_files import is_evaluation, read_evaluation
from rlif.reporting.evaluations import view_evaluation
from rlif.reporting.labs import is_lab, view_lab
from rlif.reporting.page import Subjects, render
from rlif.reporting.run_files import METRICS, is_run, read_run
from rlif.reporting.runs import view_run

# The trial of a lab that is shown in full: training on self-certainty that rises and falls.
TRIAL = f"runs/{Trial(0, 0.0, 'self_certainty').name}"


def report(runs: str | Path | Sequence[str | Path], output: str | Path = "report.html") -> Path:
    """Write what runs and evaluations show as one HTML page that needs no network, and return where it is.

    Args:
        runs: one directory of `rlif train`, `rlif demo`, `rlif lab` or `rlif eval`, finished or not, or several.
        output: the page, which is written anew.

    Raises:
        UserError: no run, a directory that is none, damaged files, or a place that cannot be written.
    """
    directories = [runs] if isinstance(runs, str | Path) else list(runs)
    page = render(read_subjects([Path(each) for each in directories]))
    write_text(Path(output), page, argument="output")
    return Path(output)


def read_subjects(directories: Sequence[Path]) -> Subjects:
    """Read the runs, the labs and the evaluations that directories hold.

    Raises:
        UserError: none is given, or one holds none of these.
    """
    if not directories:
        raise UserError("runs: got none, expected at least one directory of a run")
    runs, labs, evaluations = [], [], []
    for path in directories:
        inside = runs_inside(path)
        if is_lab(path):
            labs.append(view_lab(path))
            if is_run(path / TRIAL):
                runs.append(view_run(read_run(path / TRIAL)))
        elif inside:
            runs += [view_run(read_run(each)) for each in inside]
        elif is_evaluation(path):
            evaluations.append(view_evaluation(read_evaluation(path)))
        else:
            what = "has no " + METRICS if path.is_dir() else "is no directory"
            raise UserError(
                f"runs: {path} {what}, expected the directory of `rlif train`, `rlif demo`, `rlif lab` or `rlif eval`"
            )
    return Subjects(runs, labs, evaluations)


def runs_inside(path: Path) -> list[Path]:
    """Return the directory itself if it is that of a run, else those in it that are, as a demonstration has two."""
    if is_run(path) or not path.is_dir():
        return [path] if is_run(path) else []
    return [each for each in sorted(path.iterdir()) if is_run(each)]
