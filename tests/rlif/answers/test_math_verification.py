"""A comparison ends in time whatever it is about, in any thread, and leaves the next one unharmed."""

import signal
import threading
import time

import pytest

from rlif.answers import math_verification
from rlif.answers.math_verification import equal_mathematics


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the test's own that waits for half a second."""
    monkeypatch.setattr(math_verification, "_COMMAND", [*math_verification._COMMAND[:-1], "0.5"])
    monkeypatch.setattr(math_verification, "_worker", math_verification._Worker())
    equal_mathematics.cache_clear()


@pytest.mark.parametrize("endless", ["9^{9^{9^{9}}}", "3^{100000000}", "(9^{9^{9}})!"])
def test_what_cannot_be_computed_in_time_is_equal_to_nothing_and_the_next_comparison_is_answered(endless: str) -> None:
    started = time.monotonic()
    assert not equal_mathematics(endless, r"\frac{1}{2}")
    assert time.monotonic() - started < 20  # half a second and a start, with much room for a busy machine
    assert equal_mathematics("0.5", r"\frac{1}{2}")


def test_any_thread_may_ask_and_each_gets_the_answer_to_its_own_question() -> None:
    answers: dict[int, bool] = {}

    def ask(number: int) -> None:
        answers[number] = equal_mathematics(rf"\frac{{{number}}}{{2}}", "3/2")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: number == 3 for number in range(8)}


def test_a_worker_that_was_killed_is_replaced() -> None:
    assert equal_mathematics("1/2", "0.5")
    process = math_verification._worker.process
    assert process is not None
    process.kill()
    process.wait()
    equal_mathematics("1/4", "0.25")  # answered or given up, but not for ever
    assert equal_mathematics("3/4", "0.75")


def test_a_worker_that_does_not_start_is_an_error_rather_than_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [math_verification._COMMAND[0], "-c", "raise ModuleNotFoundError('math_verify')"]
    monkeypatch.setattr(math_verification, "_COMMAND", command)
    with pytest.raises(
        RuntimeError, match=r"math-verify does not start: ModuleNotFoundError: math_verify; pip install"
    ):
        equal_mathematics("x", "y")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a system whose processes can be paused")
def test_equal_expressions_are_equal_however_busy_the_machine_is() -> None:
    assert equal_mathematics("1", "1")  # starts the process
    process = math_verification._worker.process
    assert process is not None
    answered = threading.Event()

    def starve() -> None:  # the process gets a twentieth of the time
        while not answered.is_set():
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.095)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.005)

    starving = threading.Thread(target=starve)
    starving.start()
    started = time.monotonic()
    try:
        equal = equal_mathematics(r"\frac{x^2 - 1}{x - 1}", "x + 1")
        seconds = time.monotonic() - started
    finally:
        answered.set()
        starving.join()
    assert seconds > 0.5  # by the clock it took longer than it may
    assert equal
