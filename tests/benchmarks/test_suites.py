"""`python -m benchmarks`: suites run through on something small, and nobody's failure is another's."""

import json
import subprocess
import sys
from functools import partial

import pytest
import torch

from benchmarks import __main__ as command_line
from benchmarks import memory
from benchmarks.ops import implementations, shapes as op_shapes, suite as ops
from benchmarks.fresh_process import FreshProcessError, in_fresh_process
from benchmarks.ops.implementations import IMPLEMENTATIONS, Implementation
from benchmarks.ops.problems import CHECKED_ROWS, LOSS, OPS, Shape, exact, gradient_error, make_problem, output_error
from benchmarks.runner import Options, Step, run_suite
from benchmarks.steps import generation, loop
from benchmarks.ops.floor import floor_milliseconds
from benchmarks.timing import in_turn, spread


def saved(directory, name):
    (path,) = directory.glob(f"*-{name}.json")
    return json.loads(path.read_text())


def chosen(op, *names):
    return [each for each in IMPLEMENTATIONS[op] if each.name in names]


def raises():
    raise RuntimeError("no such kernel\non this machine")


def doubled():
    return lambda problem: tuple(
        2 * value for value in implementations.ours("token_stats", OPS["token_stats"].outputs)(problem)
    )


@pytest.fixture
def four_implementations(monkeypatch):
    """Of token_stats: two that are right, one that raises, one that is wrong."""
    found = [*chosen("token_stats", "eager", "rlif"), Implementation("broken", "trl", raises)]
    monkeypatch.setitem(IMPLEMENTATIONS, "token_stats", [*found, Implementation("wrong", "trl", doubled)])


def test_an_op_is_timed_beside_its_floors_and_whoever_fails_or_is_wrong_is_named(four_implementations, tmp_path):
    options = Options(tmp_path, size="tiny")
    (step,) = [each for each in ops.steps(options) if each.label.startswith("token_stats")]
    run_suite("ops", options, [step])
    results = saved(tmp_path, "ops")
    (entry,) = results["entries"]
    assert results["finished"]
    assert set(entry["floors"]) == {"read", "copy"}
    assert floor_milliseconds(entry, "forward") == entry["floors"]["read"]["forward"]["median"]
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
    named = ops.candidates("token_stats", Options(tmp_path, peers=frozenset()))
    assert {each.package for each in named} == {"torch", "rlif"}
    assert len(ops.candidates("token_stats", Options(tmp_path, peers=frozenset({"trl"})))) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads and resets the peak in /proc")
def test_memory_is_that_of_a_fresh_process_and_of_the_eager_form_several_times_the_logits():
    shape = Shape(2, 64, 20000, 0, "float32")
    measured = in_fresh_process(ops.peak, "token_stats", "eager", shape, "cpu")
    ours = in_fresh_process(ops.peak, "token_stats", "rlif", shape, "cpu")
    # Log-probabilities and their gradient are alive together, whatever else is.
    assert measured["forward_backward_bytes"] > 2 * shape.logits_bytes
    assert measured["forward_bytes"] > shape.logits_bytes
    assert ours["forward_backward_bytes"] < 0.2 * shape.logits_bytes  # pages of 4 KB, and the interpreter's own


@pytest.mark.skipif(sys.platform != "linux", reason="reads and resets the peak in /proc")
def test_the_rise_of_the_peak_is_what_was_allocated_meanwhile_and_nothing_earlier():
    megabyte = 2**20
    bytearray(400 * megabyte)  # touched and freed
    rise = memory.rise_of_peak(lambda: bytearray(100 * megabyte))
    # Pages of 4 KB, and whatever the interpreter allocates besides.
    assert 99 * megabyte < rise < 105 * megabyte


def test_what_goes_wrong_in_a_fresh_process_is_told():
    with pytest.raises(FreshProcessError, match=r"^ValueError: invalid literal"):
        in_fresh_process(int, "four")
    with pytest.raises(FreshProcessError, match="exit code 9"):
        in_fresh_process(sys.exit, 9)


# What is compiled is what eager runs.
ON_CPU = [(op, each.name) for op in OPS for each in IMPLEMENTATIONS[op] if "cpu" in each.devices and not each.compiled]


@pytest.mark.parametrize(("op", "name"), ON_CPU)
def test_everybody_who_is_timed_computes_the_same(op, name):
    (implementation,) = chosen(op, name)
    problem = make_problem(Shape(3, 5, 200, 16 if OPS[op].head else 0, "float32"))
    try:
        function = implementation.build()
        outputs = function(problem)
    except ImportError as missing:
        pytest.skip(f"{name}: {missing}")
    problem.objective(OPS[op], outputs).backward()
    truth = exact(OPS[op], problem)
    # Some ten roundings of float32, of logits up to 12; self-certainty composed of three such terms, a few more.
    assert output_error(outputs, truth) < 1e-5
    assert gradient_error(problem, truth) < 5e-6


@pytest.mark.parametrize("op", OPS)
def test_the_truth_in_blocks_is_plain_autograd_in_float64(op):
    problem = make_problem(Shape(2, CHECKED_ROWS, 50, 8 if OPS[op].head else 0, "float32"))
    truth = exact(OPS[op], problem, rows=7)
    for leaf in problem.leaves:
        leaf.data = leaf.data.double()
        leaf.grad = None
    logits = problem.leaves[0] @ problem.leaves[1].T if OPS[op].head else problem.leaves[0]
    fields = dict(
        zip(
            ops.OPS["token_stats"].outputs,
            implementations.naive_statistics(logits.flatten(0, 1), problem.targets.flatten()),
            strict=True,
        )
    )
    outputs = (
        implementations.loss_of(problem, fields["logprob"])
        if OPS[op].outputs == LOSS
        else tuple(fields[name] for name in OPS[op].outputs)
    )
    problem.objective(OPS[op], outputs).backward()
    # Two orders of addition in float64.
    assert output_error(outputs, truth) < 1e-13
    assert gradient_error(problem, truth) < 1e-12


def test_an_error_is_as_large_as_the_mistake():
    problem = make_problem(Shape(3, 5, 200, 16, "float32"))
    op = OPS["linear_grpo_loss"]
    (outputs,) = (chosen("linear_grpo_loss", "eager")[0].build()(problem),)
    problem.objective(op, outputs).backward()
    truth = exact(op, problem)
    problem.leaves[1].grad *= 1.01
    assert gradient_error(problem, truth) == pytest.approx(0.01, rel=1e-3)
    assert output_error((outputs[0] + 0.5,), truth) == pytest.approx(0.5, rel=1e-3)
    assert output_error((outputs[0] * torch.nan,), truth) == float("inf")


def test_calls_are_timed_in_turn_and_their_spread_is_that_of_the_values():
    order, times = [], {}
    in_turn({name: partial(order.append, name) for name in "ab"}, 0.0, "cpu", times, rounds=(3, 3))
    assert order == list("abbaab")  # each round begins with another
    assert [len(times[name]) for name in "ab"] == [3, 3]
    assert spread([4.0, 1.0, 2.0, 5.0, 3.0, 6.0]) == {"median": 3.5, "low": 2.0, "high": 5.0, "n": 6}


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


def test_shapes_shrink_until_the_eager_form_fits_the_memory():
    shape = Shape(8, 128, 32000, 0, "float32")
    assert op_shapes.fitted(shape, None, 9) == shape
    small = op_shapes.fitted(shape, 600 << 20, 9)
    assert small.rows * 32000 * 4 * 9 <= (600 << 20) * 2 / 3 < 2 * small.rows * 32000 * 4 * 9


def test_sampling_with_statistics_is_compared_with_plain_sampling_and_with_a_second_forward(tmp_path):
    options = Options(tmp_path, size="tiny")
    results = run_suite("generation", options, generation.steps(options))
    (entry,) = results["models"].values()
    assert entry["tokens"] == 2 * 2 * 4  # nothing ends a completion
    seconds = entry["seconds"]
    assert {len(values) for values in seconds.values()} == {3}
    shares = [more / plain - 1 for more, plain in zip(seconds["statistics"], seconds["plain"], strict=True)]
    assert entry["statistics_share"] == sorted(shares)[1]
    assert entry["second_forward_share"] > 0


def test_a_training_step_counts_its_tokens_and_divides_its_time_into_phases(tmp_path):
    options = Options(tmp_path, size="tiny", peers=frozenset())
    results = run_suite("loop", options, loop.steps(options))
    assert results["missing"] == {}
    (entry,) = results["implementations"].values()
    seconds = entry["seconds"]
    assert seconds["sampling"] + seconds["scoring and update"] == pytest.approx(seconds["step"])
    assert min(seconds.values()) > 0
    assert 4 <= entry["tokens"] <= 16  # 2 x 2 completions of 1 to 4 tokens
    assert entry["tokens_per_second"] == pytest.approx(entry["tokens"] / seconds["step"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["opps"], "suite is 'opps'; expected some of static, ops, loop, generation"),
        (["ops", "--peers", "trk"], "--peers is 'trk'; expected some of"),
        (["ops", "--output", "/proc/none"], "--output is /proc/none; expected a directory"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command_line.main(arguments)
    assert message in capsys.readouterr().err


def test_help_loads_no_torch():
    code = "import sys, benchmarks.__main__ as m; m.parser().format_help(); print({'torch', 'rich'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"
