"""A command is never silent for long: what it is doing, how far, and how long it will take."""

from __future__ import annotations

import io
import math
import re
import threading

import pytest
from rich.console import Console

from rlif import doing
from rlif.doing import FIRST_SECONDS, LOG_SECONDS, display, due, inside, speaking
from rlif.progress_bar import bar, make_bar


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only the test moves on; nothing was said before."""
    now = [1000.0]
    monkeypatch.setattr("rlif.doing.time.monotonic", lambda: now[0])
    monkeypatch.setattr(doing, "_told", -math.inf)
    return now


def test_what_takes_a_second_is_said_once_and_then_every_half_minute(clock: list[float]) -> None:
    said = []
    with doing.doing("loading it"):
        for quarter in range(4 * 70):
            clock[0] = 1000.0 + quarter / 4
            if (line := due(clock[0], "rlif eval", 1000.0)) is not None:
                doing.told()
                said.append((clock[0] - 1000.0, line))
    assert [second for second, _ in said] == [
        FIRST_SECONDS, FIRST_SECONDS + LOG_SECONDS, FIRST_SECONDS + 2 * LOG_SECONDS,
    ]  # fmt: skip
    assert [line for _, line in said] == [f"rlif eval: loading it ({time})" for time in ("1.0 s", "31 s", "61 s")]


def test_a_command_that_names_nothing_is_not_silent_either(clock: list[float]) -> None:
    assert due(1029.0, "rlif mix", 1000.0) is None
    assert due(1030.0, "rlif mix", 1000.0) == "rlif mix: still working (30 s)"


def test_many_short_works_are_not_silent_together(clock: list[float]) -> None:
    for _ in range(100):
        with doing.doing("one of many"):
            clock[0] += 0.5
            line = due(clock[0], "rlif lab", 1000.0)
            if line is not None:
                break
    assert line == "rlif lab: one of many"
    assert clock[0] == 1000.0 + LOG_SECONDS


def test_work_within_work_is_one_line_with_the_time_that_is_left(clock: list[float]) -> None:
    with doing.doing("Sampling", "prompts", 128, 8) as outer:
        clock[0] += 20
        outer.move(4)
        with doing.doing("64 completions", "tokens at most", 256) as inner:
            clock[0] += 10
            inner.move(completed=64)
            line = due(clock[0], "rlif eval", 1000.0)
            assert inside(outer, clock[0]) == "64 completions: 64 of 256 tokens at most (30 s left)"
        assert inside(outer, clock[0]) == ""
    # 30 s for 4 prompts, and 116 to go.
    assert line == (
        "rlif eval: Sampling: 12 of 128 prompts (14 min left); 64 completions: 64 of 256 tokens at most (30 s left)"
    )


def test_a_line_of_somebody_else_puts_the_next_one_off(clock: list[float]) -> None:
    with doing.doing("training"):
        clock[0] += 0.5
        doing.told()
        clock[0] += LOG_SECONDS - 1
        assert due(clock[0], "rlif train", 1000.0) is None
        clock[0] += 1
        assert due(clock[0], "rlif train", 1000.0) is not None


def test_no_line_breaks_a_display_that_moves(clock: list[float]) -> None:
    with doing.doing("sampling"), display():
        assert due(clock[0] + 1e6, "rlif eval", 1000.0) is None


def test_what_fails_is_not_being_done_any_more() -> None:
    with pytest.raises(ValueError, match="it"), doing.doing("what fails"):
        raise ValueError("it")
    assert doing._works == []


def test_a_thread_says_it_while_the_work_itself_says_nothing(clock: list[float]) -> None:
    said: list[str] = []
    spoken = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        spoken.set()

    with speaking("rlif train", say), doing.doing("a forward that takes long"):
        clock[0] += FIRST_SECONDS
        assert spoken.wait(timeout=60)
    assert said == ["rlif train: a forward that takes long (1.0 s)"]


def test_an_output_that_is_closed_ends_the_lines_and_nothing_else(clock: list[float]) -> None:
    tried = threading.Event()

    def say(line: str) -> None:
        tried.set()
        raise BrokenPipeError

    with speaking("rlif train", say), doing.doing("a forward that takes long"):
        clock[0] += FIRST_SECONDS
        assert tried.wait(timeout=60)


def test_a_bar_without_a_terminal_has_a_line_before_the_work_and_one_after_it_and_one_each_half_minute(
    clock: list[float],
) -> None:
    output = io.StringIO()
    with bar("Sampling", "prompts", 8, 2, console=Console(file=output)) as move:
        assert output.getvalue() == "Sampling: 2 of 8 prompts\n"
        for _ in range(6):
            clock[0] += 20
            move(1)
    assert output.getvalue().splitlines()[1:] == [
        "Sampling: 4 of 8 prompts (80 s left)",
        "Sampling: 6 of 8 prompts (40 s left)",
        "Sampling: 8 of 8 prompts in 2.0 min",
    ]


def test_a_bar_of_what_is_done_already_is_one_line(clock: list[float]) -> None:
    output = io.StringIO()
    with bar("Mixing", "", 3_000_000, 3_000_000, in_bytes=True, console=Console(file=output)):
        pass
    assert output.getvalue() == "Mixing: 3.0 MB of 3.0 MB\n"


def test_a_bar_in_a_terminal_shows_what_is_done_within(clock: list[float]) -> None:
    output = io.StringIO()
    console = Console(file=output, width=80)
    progress = make_bar()
    progress.add_task("Sampling", total=8)
    with doing.doing("Sampling") as progress.work, doing.doing("4 completions", "tokens at most", 9):
        console.print(progress.get_renderable())
    assert re.fullmatch(r"Sampling .* 0/8 .*\n4 completions: 0 of 9 tokens at most *\n", output.getvalue())
