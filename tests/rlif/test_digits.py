"""Rates and times keep two significant digits, and no more, whatever their size."""

import math

import pytest

from rlif.digits import duration, two_digits


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.20"),
        (0.204, "0.20"),
        (0.0123, "0.012"),
        (0.996, "1.0"),
        (5.26, "5.3"),
        (9.96, "10"),
        (99.4, "99"),
        (99.6, "100"),
        (7901, "7900"),
        (-0.25, "-0.25"),
        (0.0, "0"),
        (math.nan, "nan"),
    ],
)
def test_a_number_keeps_two_digits(value: float, text: str) -> None:
    assert two_digits(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.25 s"),
        (90, "90 s"),
        (99.6, "1.7 min"),
        (600, "10 min"),
        (99.6 * 60, "1.7 h"),
        (3.5 * 3600, "3.5 h"),
        (10 * 86400, "10 days"),
    ],
)
def test_a_time_has_the_unit_that_leaves_it_below_a_hundred(seconds: float, text: str) -> None:
    assert duration(seconds) == text
