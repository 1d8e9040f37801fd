"""Loops are told from solutions."""

from rlif.metrics.repetition import repetition


def test_repetition_is_the_share_of_pieces_seen_before() -> None:
    assert repetition([1, 2, 3]) == 0.0
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([7] * 103) == 1.0 - 1 / 100
    # 1234, 2341, 3412, 4123, then 1234 again: one of five.
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == 1.0 - 4 / 5
