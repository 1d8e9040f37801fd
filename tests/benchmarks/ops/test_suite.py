"""The ops' suite runs through on something small, and nobody's failure is another's."""

import json
import sys

import pytest

from benchmarks.memory import in_fresh_process
from benchmarks.ops import shapes, suite
from benchmarks.ops.floor import floor_milliseconds
from benchmarks.ops.implementations import IMPLEMENTATIONS, Implementation, ours
from benchmarks.ops.problems import OPS, Shape
from benchmarks.runner import Options, run_suite


def saved(directory, name):
    (path,) = directory.glob(f"*-{name}.json")
    return json.loads(path.read_text())


def chosen(op, *names):
    return [each for each in IMPLEMENTATIONS[op] if each.name in names]


def raises():
    raise RuntimeError("no such kernel\non this machine")


def doubled():
    function = ours(OPS["token_stats"])
    return lambda problem: tuple(2 * value for value in function(problem))


@pytest.fixture
def four_implementations(monkeypatch):
    """Of token_stats: two that are right, one that raises, one that is wrong."""
    found = [*chosen("token_stats", "eager", "rlif"), Implementation("broken", "trl", raises)]
    monkeypatch.setitem(IMPLEMENTATIONS, "token_stats", [*found, Implementation("wrong", "trl", doubled)])


def test_who_computes_less_is_compared_in_that_alone():
    two = ("logprob", "entropy")

    def without_certainty():
        function = ours(OPS["token_stats"])
        return lambda problem: function(problem)[:2]

    fewer = Implementation("fewer", "trl", without_certainty, outputs=two)
    results = {"entries": [], "missing": {}}
    all_three = chosen("token_stats", "rlif")
    suite.time_op([*all_three, fewer], "cpu", "token_stats", shapes.TINY.timed["token_stats"][0], 0.01, results)
    (entry,) = results["entries"]
    assert not results["missing"]
    for name in ("rlif", "fewer"):
        assert entry["implementations"][name]["gradient_error"] < 1e-5  # sums of 300 float32
        assert entry["implementations"][name]["forward_backward"]["n"] >= 1


def test_an_op_is_timed_beside_its_floors_and_whoever_fails_or_is_wrong_is_named(four_implementations, tmp_path):
    options = Options(tmp_path, size="tiny")
    (step,) = [each for each in suite.steps(options) if each.label.startswith("token_stats")]
    run_suite("ops", options, [step])
    results = saved(tmp_path, "ops")
    (entry,) = results["entries"]
    assert results["finished"]
    assert set(entry["floors"]) == {"read", "copy"}
    medians = [each["median"] for each in entry["floors"]["read"].values()]
    assert floor_milliseconds(entry, "forward") == min(medians)
    for name in ("eager", "rlif"):
        described = entry["implementations"][name]
        assert described["output_error"] < 1e-5  # sums of 300 float32
        assert described["forward"]["n"] >= 3
        assert described["forward_backward"]["low"] <= described["forward_backward"]["median"]
        assert described["forward_backward_speedup"]["median"] > 0
    assert entry["implementations"]["eager"]["forward_speedup"]["median"] == 1
    assert entry["missing"] == {"broken": "RuntimeError: no such kernel"}
    assert results["missing"] == {"broken: token_stats": "RuntimeError: no such kernel"}
    wrong = entry["implementations"]["wrong"]
    assert wrong["wrong"]
    assert "forward" not in wrong


def test_a_floor_that_the_machine_was_slow_at_for_a_while_is_no_floor():
    floors = {
        "read": {"forward": {"median": 5.0}, "forward_backward": {"median": 4.0}},
        "copy": {"forward": {"median": 10.0}, "forward_backward": {"median": 33.0}},
    }
    assert floor_milliseconds({"op": "grpo_loss", "hidden_size": 0, "floors": floors}, "forward_backward") == 10
    assert floor_milliseconds({"op": "token_stats", "hidden_size": 0, "floors": floors}, "forward_backward") == 14
    del floors["copy"]["forward_backward"]
    assert floor_milliseconds({"op": "token_stats", "hidden_size": 0, "floors": floors}, "forward_backward") is None


def test_only_the_packages_that_were_asked_for_take_part(four_implementations, tmp_path):
    named = suite.candidates("token_stats", Options(tmp_path, peers=frozenset()))
    assert {each.package for each in named} == {"torch", "rlif"}
    assert len(suite.candidates("token_stats", Options(tmp_path, peers=frozenset({"trl"})))) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads and resets the peak in /proc")
def test_memory_is_that_of_a_fresh_process_and_of_the_eager_form_several_times_the_logits():
    shape = Shape(2, 64, 20000, 0, "float32")
    measured = in_fresh_process(suite.peak, "token_stats", "eager", shape, "cpu")
    ours = in_fresh_process(suite.peak, "token_stats", "rlif", shape, "cpu")
    # Log-probabilities and their gradient are alive together, whatever else is.
    assert measured["forward_backward_bytes"] > 2 * shape.logits_bytes
    assert measured["forward_bytes"] > shape.logits_bytes
    assert ours["forward_backward_bytes"] < 0.2 * shape.logits_bytes  # pages of 4 KB, and the interpreter's own


def test_shapes_shrink_until_the_eager_form_fits_the_memory():
    shape = Shape(8, 128, 32000, 0, "float32")
    assert shapes.fitted("token_stats", shape, None) == shape
    small = shapes.fitted("token_stats", shape, 600 << 20)
    assert small.rows * 32000 * 4 * 9 <= (600 << 20) * 2 / 3 < 2 * small.rows * 32000 * 4 * 9
