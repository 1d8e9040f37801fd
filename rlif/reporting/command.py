"""`rlif report`: what a run or a lab did, as one page."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from rlif.reporting.options import ReportConfig
from rlif.reporting.report import report


def run(config: ReportConfig) -> None:
    """Write the page, and print where it is.

    Raises:
        UserError: no run, a directory that is none, damaged files, or a place that cannot be written.
    """
    page = report(config.runs, config.output)
    print(page)
    if config.open and not opened(page):
        print(f"no browser could be started here; open {page.resolve().as_uri()} in yours")


def opened(path: Path) -> bool:
    """Open a page in the browser, and tell whether there is one."""
    try:
        return webbrowser.open(path.resolve().as_uri())
    except webbrowser.Error:
        return False
