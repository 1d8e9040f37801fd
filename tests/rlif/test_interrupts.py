"""A command that is asked to stop says what is saved, whoever asks, and however often."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from rlif import cli
from rlif.interrupts import StopRequest, as_ctrl_c, exit_code, ignore_signals_after, stop_signals, without_interrupts

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def send(number: int, times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing was sent before, and the streams of the tests' own process stay where they are."""
    monkeypatch.setattr("rlif.interrupts._last", float("-inf"))
    monkeypatch.setattr("rlif.interrupts.leave_terminal", lambda: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started by
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_interrupts_as_ctrl_c_does_and_impatience_adds_nothing(number: int) -> None:
    said = []
    with as_ctrl_c():
        try:
            send(number)
            said.append("went on")
        except KeyboardInterrupt:
            send(number, times=4)
            said.append("saved")
    assert said == ["saved"]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_exit_code_is_that_of_the_first_signal_as_a_shell_and_a_scheduler_know_it(number: int) -> None:
    for stop in (as_ctrl_c, StopRequest):
        with as_ctrl_c():
            assert exit_code() == 130
            with suppress(KeyboardInterrupt), stop():
                send(number)
                send(signal.SIGINT)
            assert exit_code() == 128 + number


def test_nothing_interrupts_what_is_over() -> None:
    with as_ctrl_c() as end:
        end()
        send(signal.SIGINT)
        send(signal.SIGTERM)


def test_a_signal_to_a_program_that_is_over_changes_nothing() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ignore_signals_after()
        with pytest.raises(KeyboardInterrupt), as_ctrl_c():
            send(signal.SIGTERM)
        for number in SIGNALS:
            send(number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_handlers_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with as_ctrl_c(), StopRequest(), without_interrupts():
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_job_in_the_background_of_a_script_is_not_interrupted_with_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with as_ctrl_c():
        send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_process_that_shall_outlive_its_terminal_does() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by nohup
    try:
        assert signal.SIGHUP not in stop_signals()
        with StopRequest() as stop, as_ctrl_c():
            send(signal.SIGHUP)
        assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_is_noted_and_only_a_second_ctrl_c_interrupts(number: int) -> None:
    with StopRequest() as stop:
        send(number)
        assert stop.received == signal.Signals(number).name
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        send(signal.SIGINT, times=2)  # what is being saved now is not interrupted
    assert stop.received == signal.Signals(number).name


@pytest.mark.parametrize("number", SIGNALS)
def test_what_may_be_abandoned_is_at_once_and_then_nothing_interrupts(number: int) -> None:
    went_on = []

    def work(stop: StopRequest, count: int) -> None:
        with stop.interruptible():
            went_on.append("began")
            send(number, count)
            went_on.append("ended")

    with StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt):
            work(stop, 1)
        send(signal.SIGINT, times=3)  # what is being saved now is not interrupted
        with pytest.raises(KeyboardInterrupt):
            work(stop, 0)
    assert went_on == ["began"]
    assert stop.received == signal.Signals(number).name


def test_what_must_not_be_abandoned_any_more_is_finished() -> None:
    with StopRequest() as stop:
        with stop.interruptible():
            stop.hold()
            send(signal.SIGTERM)
        assert stop.received == "SIGTERM"
        assert stop.held
        stop.release()
        assert not stop.held
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_nothing_interrupts_what_is_left_to_save() -> None:
    with StopRequest() as stop:
        stop.save_in_peace()
        send(signal.SIGINT, times=3)
    assert stop.received == "SIGINT"


def test_an_interrupt_that_came_during_another_does_not_hide_what_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        try:
            raise KeyboardInterrupt("stopped after step 7")
        finally:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr(sys, "argv", ["rlif", "plot", "."])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "rlif: stopped after step 7\n"
