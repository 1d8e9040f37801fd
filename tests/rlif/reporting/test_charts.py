"""Charts show every finite number where it belongs, and say it in words."""

from __future__ import annotations

import math
import re

import pytest

from rlif.reporting.charts import MAX_POINTS, Chart, Line, nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "whole"),
    [
        (0, 50, True),
        (0.03, 0.49, False),
        (-0.002, 0.01, False),
        (0, 1, True),
        (1e-12, 3e-12, False),
        (-1e90, 1e90, False),
    ],
)
def test_ticks_are_round_few_and_span_the_values(low: float, high: float, whole: bool) -> None:
    ticks = nice_ticks(low, high, whole=whole)
    assert 2 <= len(ticks) <= 7
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert not whole or all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-300, 1e12])
def test_one_value_alone_has_an_axis_around_it(value: float) -> None:
    ticks = nice_ticks(value, value)
    assert ticks[0] <= value <= ticks[-1]
    assert ticks[0] < ticks[-1]


def test_higher_values_are_higher_up_and_later_steps_further_right() -> None:
    svg = Chart("reward", [Line("run", [0, 10, 20], [1.0, 3.0, 2.0])]).svg()
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert places[1][1] < places[2][1] < places[0][1]  # y grows downwards
    assert re.findall(r"<title>(.*?)</title>", svg) == [
        "run, step 0: 1", "run, step 10: 3", "run, step 20: 2"
    ]  # fmt: skip


def test_what_is_not_finite_is_left_out_and_of_nothing_nothing_is_drawn() -> None:
    chart = Chart("kl", [Line("run", [0, 1, 2, 3], [math.nan, 0.5, math.inf, 0.7])])
    assert chart.svg().count("<circle") == 2
    assert chart.words() == "kl. run: 0.5 at step 1, 0.7 at step 3, between 0.5 and 0.7."
    assert Chart("kl", [Line("run", [0], [math.nan])]).svg() == ""


def test_names_are_escaped() -> None:
    svg = Chart("x", [Line("<script>&\"'", [0], [1.0])], marks=[(0, "<b>")]).svg()
    assert "<script" not in svg
    assert "<b>" not in svg


def test_a_long_run_is_averaged_to_as_many_points_as_can_be_seen() -> None:
    svg = Chart("reward", [Line("run", range(10_000), [1.0 + step % 2 for step in range(10_000)])]).svg()
    (path,) = re.findall(r'<g class="line line-0"><path d="(.*?)"', svg)
    assert path.count("L") + 1 <= MAX_POINTS
    assert svg.count("<circle") == 2  # the ends


def test_shares_are_in_percent_and_no_axis_goes_beyond_them() -> None:
    svg = Chart("accuracy", [Line("run", [0, 1], [0.02, 0.97])], percent=True).svg()
    labels = re.findall(r'text-anchor="end">(.*?)</text>', svg)
    assert labels[0] == "0%"
    assert labels[-1] == "100%"
    assert "accuracy. run: 2.0% at step 0, 97.0% at step 1" in svg


def test_the_difference_of_one_completion_in_a_thousand_is_no_cliff() -> None:
    svg = Chart("finished", [Line("run", [0, 1, 2], [1.0, 0.999, 1.0])], percent=True).svg()
    labels = re.findall(r'text-anchor="end">(.*?)</text>', svg)
    assert len(set(labels)) == len(labels)
    assert float(labels[-1][:-1]) == 100
    assert float(labels[0][:-1]) <= 95


def test_ticks_that_differ_have_labels_that_do() -> None:
    svg = Chart("nll", [Line("run", [0, 1], [2.80961, 2.80989])]).svg()
    labels = re.findall(r'text-anchor="end">(.*?)</text>', svg)
    assert len(labels) > 2
    assert len(set(labels)) == len(labels)
