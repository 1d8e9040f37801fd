"""Progress is readable in a log, alive in a terminal, and shows text as it is."""

import io
import re

import pytest
from rich.console import Console

from rlif.training.progress import LiveProgress, PlainProgress, Progress, describe_metrics, metrics_table

ROWS = [
    {"step": 0, "eval/accuracy": 0.25, "eval/base_nll": 0.5},
    {"step": 1, "reward": 1.5, "entropy": 0.75, "completion_length": 20.4},
    {"step": 2, "reward": 1.625, "accuracy": 0.5, "eval/accuracy": 0.3125},
]


def show(progress: Progress) -> None:
    progress.start("self_certainty [/]", 2)  # brackets would be markup to rich
    for row in ROWS:
        progress.report(row, "1+1=[/]2")
    progress.stop()


def test_without_a_terminal_every_step_is_one_plain_line() -> None:
    output = io.StringIO()
    show(PlainProgress(Console(file=output, width=40)))
    lines = output.getvalue().splitlines()
    assert lines[0] == "self_certainty [/] step 0/2: [eval: accuracy 0.250 base NLL 0.500]"
    assert lines[1].startswith("self_certainty [/] step 1/2: reward 1.500 entropy 0.750 length 20 ")
    assert lines[1].endswith(" s left)")
    assert lines[2] == "self_certainty [/] step 2/2: reward 1.625 accuracy 0.500 [eval: accuracy 0.312]"
    assert len(lines) == 3
    assert "\x1b" not in output.getvalue()


def test_in_a_terminal_evaluations_stay_on_the_screen_above_the_bar() -> None:
    output = io.StringIO()
    show(LiveProgress(Console(file=output, force_terminal=True, width=80)))
    text = output.getvalue()
    assert "self_certainty [/]" in text
    assert "eval at step 0: accuracy 0.250 base NLL 0.500" in text
    assert "eval at step 2: accuracy 0.312" in text
    assert "2/2" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    last = plain[plain.rindex("eval at step 2") :]
    assert re.search(r"reward +1.625 *\n", last)
    assert re.search(r"accuracy +0.5 +0.3125", last)
    assert re.search(r"entropy, nats +0.75", last)  # of the step before: this one has none
    assert "1+1=[/]2" in last


def test_the_time_left_counts_the_steps_since_the_run_was_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("rlif.training.progress.time.monotonic", lambda: now)
    output = io.StringIO()
    progress = PlainProgress(Console(file=output))
    progress.start("reward", 100, done=90)
    now = 10.0
    progress.report({"step": 91, "reward": 1.0})
    progress.stop()
    assert output.getvalue().endswith("(90 s left)\n")


def test_the_live_view_knows_the_time_left_of_slow_steps_too() -> None:
    progress = LiveProgress(Console(file=io.StringIO(), force_terminal=True))
    now = 0.0
    progress.bar.get_time = lambda: now
    progress.start("reward", 100, done=90)
    for step in (91, 92, 93):
        now += 100.0
        progress.report({"step": step, "reward": 1.0})
    progress.stop()
    assert progress.bar.tasks[0].time_remaining == pytest.approx(700.0)


def test_a_completion_gives_the_terminal_no_commands() -> None:
    output = io.StringIO()
    progress = LiveProgress(Console(file=output, force_terminal=True, width=80))
    progress.start("reward", 2)
    progress.report({"step": 1}, "a\x1b]0;title\x07b")
    progress.stop()
    assert "\x1b]0;" not in output.getvalue()
    assert "a\ufffd]0;title\ufffdb" in output.getvalue()


@pytest.mark.parametrize(("rate", "text"), [(0.2, "0.20 tokens/s"), (7901.4, "7900 tokens/s")])
def test_a_rate_has_two_digits_however_slow_the_model(rate: float, text: str) -> None:
    assert describe_metrics({"step": 3, "tokens_per_second": rate}) == text


def test_metrics_that_a_row_lacks_are_left_out() -> None:
    assert describe_metrics({"step": 3}) == ""


def test_a_metric_that_has_no_value_in_a_step_is_not_shown() -> None:
    row = {"step": 3, "accuracy": 0.5, "verify/balanced_accuracy": float("nan")}
    assert describe_metrics(row) == "accuracy 0.500"
    assert [*metrics_table(row).columns[0].cells] == ["accuracy"]
