"""Pieces of Markdown that tables are made of."""

from collections.abc import Iterable

from benchmarks.machine import PEER_PACKAGES


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def notes(versions: dict[str, str | None], missing: list[str], peers: Iterable[str] = PEER_PACKAGES) -> str:
    """Versions of the peers that took part, and what did not run."""
    there = ", ".join(f"{name} {versions[name]}" for name in peers if versions.get(name))
    return (f"\n\nWith {there}." if there else "") + (f"\n\nNot run: {'; '.join(missing)}." if missing else "")
