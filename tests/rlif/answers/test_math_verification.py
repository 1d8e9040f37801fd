"""An evaluation ends in time whatever it is of, in any thread, is made once, and leaves the next one unharmed."""

import signal
import threading
import time
from fractions import Fraction

import pytest

from rlif.answers import math_verification
from rlif.answers.keys import answer_key
from rlif.answers.math_verification import OverLimitError, evaluated, limited_cost
from rlif.answers.values import rational


@pytest.fixture(scope="module")
def started() -> math_verification._Worker:
    return math_verification._Worker()  # starting its process takes longer than what it is asked


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, started: math_verification._Worker) -> math_verification._Worker:
    """A worker of these tests' own."""
    monkeypatch.setattr(math_verification, "_worker", started)
    return started


class CountingWorker(math_verification._Worker):
    """A worker that counts what it is asked, and for which every answer costs what it says."""

    def __init__(self, seconds: float, *, given_up: bool) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.reply = math_verification._Reply(None, given_up, seconds)

    def ask(self, text: str) -> math_verification._Reply:
        self.asked.append(text)
        return self.reply


def value(text: str) -> Fraction | None:
    values = evaluated(text)
    return None if values is None else rational(values)


@pytest.mark.parametrize("endless", ["9^{9^{9^{9}}}", "3^{100000000}", "(9^{9^{9}})!"])
def test_what_cannot_be_computed_in_time_has_no_value_and_the_next_answer_is_read(
    endless: str, worker: math_verification._Worker
) -> None:
    assert evaluated(endless) is None
    assert worker.known[endless].given_up
    assert value(r"\sum_{i=1}^{3} i") == 6


def test_any_thread_may_ask_and_each_gets_the_answer_to_its_own_question(worker: math_verification._Worker) -> None:
    answers: dict[int, Fraction | None] = {}

    def ask(number: int) -> None:
        answers[number] = value(rf"\sum_{{i={number}}}^{{{number}}} i")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: number for number in range(8)}


def test_a_worker_that_was_killed_is_replaced(worker: math_verification._Worker) -> None:
    assert value(r"\max(1, 2)") == 2
    process = worker.process
    assert process is not None
    process.kill()
    process.wait()
    evaluated(r"\max(1, 3)")  # answered or given up, but not for ever
    assert value(r"\max(1, 4)") == 4


def test_a_worker_that_does_not_start_is_an_error_rather_than_a_wrong_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(math_verification, "_worker", math_verification._Worker())
    command = [math_verification._COMMAND[0], "-c", "raise ModuleNotFoundError('math_verify')"]
    monkeypatch.setattr(math_verification, "_COMMAND", command)
    with pytest.raises(
        RuntimeError, match=r"math-verify does not start: ModuleNotFoundError: math_verify; pip install"
    ):
        evaluated("x")


def test_an_answer_is_asked_about_once_whatever_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = CountingWorker(0.5, given_up=True)
    monkeypatch.setattr(math_verification, "_worker", worker)
    for _ in range(3):
        assert evaluated(r"\sum_{i=1}^{2} x_i") is None
    assert len(worker.asked) == 1


def test_the_answers_of_a_step_cost_no_more_than_its_limit_and_what_is_over_it_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = CountingWorker(0.5, given_up=True)
    monkeypatch.setattr(math_verification, "_worker", worker)
    answers = [rf"\int_0^{number} t^{number} dt + {number}" for number in range(512)]
    with limited_cost(1.0) as cost:
        keys = [answer_key(answer) for answer in answers]
        with limited_cost(100.0) as inner, pytest.raises(OverLimitError):  # counts to the outer one
            evaluated(r"\int x dx")
        assert inner is cost
    assert len(worker.asked) == 2
    assert cost.seconds == 1.0
    assert len(cost.unread) == 513
    # As text they differ from each other and are the same as themselves.
    assert len(set(keys)) == 512
    with limited_cost(1.0):
        assert [answer_key(answer) for answer in answers] == keys


def test_what_was_over_the_limit_of_one_step_is_read_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = CountingWorker(0.1, given_up=False)
    monkeypatch.setattr(math_verification, "_worker", worker)
    with limited_cost(0.0) as cost:
        answer_key(r"\lim_{n} a_n")
    assert len(cost.unread) == 1
    with limited_cost(1.0) as cost:
        answer_key(r"\lim_{n} a_n")
    assert worker.asked == [r"\lim_{n} a_n"]
    assert not cost.unread


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a system whose processes can be paused")
def test_answers_are_read_however_busy_the_machine_is(worker: math_verification._Worker) -> None:
    assert value(r"\max(1, 2)") == 2  # starts the process
    process = worker.process
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
    try:
        found = value(r"\int_0^1 x^2 dx")
    finally:
        answered.set()
        starving.join()
    assert found == Fraction(1, 3)
