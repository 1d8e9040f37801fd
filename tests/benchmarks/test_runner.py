"""A suite's run leaves a readable file, whatever happens meanwhile, and says what did not take part."""

import json
from dataclasses import dataclass

import pytest

from benchmarks import runner
from benchmarks.runner import Options, Step, run_suite, steps_in_turn


def saved(directory, name):
    (path,) = directory.glob(f"*-{name}.json")
    return json.loads(path.read_text())


def test_an_interrupted_run_leaves_what_it_measured_in_a_readable_file(tmp_path):
    def first(results):
        results["entries"].append({"found": 1})
        return "one"

    def second(results):
        results["entries"].append({"found": 2})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite("ops", Options(tmp_path), [Step("first", 1, first), Step("second", 1, second)])
    results = saved(tmp_path, "ops")
    assert [entry["found"] for entry in results["entries"]] == [1, 2]
    assert not results["finished"]


def test_a_step_that_fails_or_has_no_time_left_is_named_and_the_next_one_runs(tmp_path):
    def fails(results):
        raise MemoryError("too large")

    steps = [
        Step("large", 1, fails),
        Step("long", 1e6, lambda results: "never"),
        Step("short", 0, lambda results: "done"),
    ]
    results = run_suite("ops", Options(tmp_path, seconds=60), steps)
    assert results["missing"] == {"large": "MemoryError: too large"}
    assert list(results["skipped"]) == ["long"]
    assert results["finished"]


@dataclass
class Work:
    size: int = 3


def test_trainers_go_in_turn_and_one_that_fails_is_named_and_left_out_of_the_rest(monkeypatch, tmp_path):
    order = []

    def in_this_process(measure, *arguments):
        return measure(*arguments)

    def measure(name, work):
        order.append(name)
        if name == "b":
            raise RuntimeError("killed")
        return {"seconds": len(order)}

    monkeypatch.setattr(runner, "in_fresh_process", in_this_process)
    steps = steps_in_turn(measure, "abc", Work(), lambda turns: {"n": len(turns)}, repeats=2, seconds=1)
    results = run_suite("loop", Options(tmp_path), steps)
    assert order == list("abcca")  # the second turn begins with b, which has failed before
    assert results["implementations"] == {"a": {"n": 2}, "c": {"n": 2}}
    assert results["missing"] == {"b": "RuntimeError: killed"}
    assert results["workload"] == {"size": 3}
