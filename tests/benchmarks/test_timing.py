"""What is compared is timed in turn."""

from functools import partial

from benchmarks.timing import in_turn, quartiles, spread


def test_calls_are_timed_in_turn_and_their_spread_is_that_of_the_values():
    order, times = [], {}
    in_turn({name: partial(order.append, name) for name in "ab"}, 0.0, "cpu", times, rounds=(3, 3))
    assert order == list("abbaab")  # each round begins with another
    assert [len(times[name]) for name in "ab"] == [3, 3]
    assert spread([4.0, 1.0, 2.0, 5.0, 3.0, 6.0]) == {"median": 3.5, "low": 2.0, "high": 5.0, "n": 6}


def test_quartiles_are_those_of_the_values_and_of_one_value_itself():
    assert quartiles([4.0, 1.0, 2.0, 5.0, 3.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)
