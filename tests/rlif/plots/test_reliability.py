"""The figures show every score, every bin and every curve."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rlif.metrics.calibration import reliability_bins, risk_coverage
from rlif.plots.reliability import plot_reliability, plot_risk_coverage

SCORES = {
    "sure": ([0.9, 0.95, 0.1, 1.0], [True, False, False, True]),
    "unsure": ([0.5, 0.5, 0.5, 0.5], [True, False, False, True]),
}


def test_a_reliability_diagram_has_accuracies_above_and_counts_below(tmp_path: Path, drawn: list[Figure]) -> None:
    bins = {name: reliability_bins(*pair) for name, pair in SCORES.items()}
    plot_reliability(bins, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    above, other_above, below, _ = drawn[0].axes
    assert above.get_title(loc="left") == "sure\nECE 0.238"  # 1/4 x 0.1 + 3/4 x |2/3 - 0.95|
    assert other_above.get_title(loc="left") == "unsure\nECE 0.000"
    assert [bar.get_height() for bar in above.patches] == pytest.approx([0.0, 2 / 3])
    assert [bar.get_x() for bar in above.patches] == pytest.approx([0.1, 0.9])
    assert [bar.get_height() for bar in below.patches] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 3]


def test_risk_is_drawn_against_coverage_with_its_area(tmp_path: Path, drawn: list[Figure]) -> None:
    curves = {name: risk_coverage(*pair) for name, pair in SCORES.items()}
    plot_risk_coverage(curves, tmp_path / "risk.png")
    assert (tmp_path / "risk.png").stat().st_size > 0
    lines = drawn[0].axes[0].lines
    assert {line.get_label() for line in lines} == {f"{name} ({curve.area:.3f})" for name, curve in curves.items()}
    assert len(lines[0].get_xdata()) == 4


def test_a_name_with_dollars_is_drawn_as_it_is(tmp_path: Path) -> None:
    name = r"$\no_such_symbol$"
    plot_reliability({name: reliability_bins([0.5], [True])}, tmp_path / "reliability.png")
    plot_risk_coverage({name: risk_coverage([0.5], [True])}, tmp_path / "risk.png")
    assert (tmp_path / "risk.png").stat().st_size > 0


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scores: got none"):
        plot_reliability({}, tmp_path / "none.png")
    with pytest.raises(ValueError, match="curves: got none"):
        plot_risk_coverage({}, tmp_path / "none.png")
