r"""Values of mathematics beyond our own grammar, as math-verify parses it (https://github.com/huggingface/Math-Verify).

Computer algebra may take for ever, or all memory, on what a language model writes. So it runs in a process of its own,
which gives an answer up when it takes too long: this process needs no signal, and any thread may ask. A policy must not
be able to buy time with its answers either: each is asked about once, whatever comes of it, and `limited_cost` bounds
what all of a step may take together.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from rlif.answers.values import Value, from_decimals

SECONDS = 0.5  # of processor time, for one answer; nearly all take less than a tenth of it
STEP_SECONDS = 1.0  # of processor time, for all answers within one `limited_cost`
RUN_SECONDS = 20.0  # of processor time, for all answers of a command that measures once
# What the death of the process costs, which starts anew: loading the computer algebra.
_START_SECONDS = 1.0
_LONGEST = 200
_MOST_REMEMBERED = 100_000
# Runs as a program on its own. -P keeps our folder, whose modules have common names, off its import path.
_COMMAND = [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py")), str(SECONDS)]


@dataclass
class Cost:
    """What the answers of a step have cost.

    Attributes:
        limit: seconds of processor time in which further answers are asked about.
        seconds: of processor time that were spent.
        unread: answers that are text because they, or those before them, took too long.
    """

    limit: float
    seconds: float = 0.0
    unread: set[str] = field(default_factory=set)


_cost: ContextVar[Cost | None] = ContextVar("cost", default=None)


@contextmanager
def limited_cost(limit: float = STEP_SECONDS) -> Iterator[Cost]:
    """Bound the processor time that all answers within take together; an inner one counts to the outer one.

    What is over the limit is not asked about: such an answer is text, which is the same as the same text alone.
    """
    outer = _cost.get()
    if outer is not None:
        yield outer
        return
    cost = Cost(limit)
    token = _cost.set(cost)
    try:
        yield cost
    finally:
        _cost.reset(token)


class OverLimitError(Exception):
    """The time for the answers of this step is spent; the answer may be asked about in another one."""


def evaluated(text: str) -> tuple[Value, ...] | None:
    r"""Evaluate an expression in LaTeX at the points of `values.py`; None if it has no value or takes too long.

    Args:
        text: with balanced braces and no \boxed{…} in it; a longer one than 200 characters has no value.

    Raises:
        OverLimitError: `limited_cost` leaves no time.
        RuntimeError: math-verify does not start, because it is not installed perhaps.
    """
    if len(text) > _LONGEST:
        return None
    return _worker.value(text)


@dataclass
class _Reply:
    points: tuple[Value, ...] | None
    given_up: bool = False
    seconds: float = 0.0


class _Worker:
    """The process, started on the first question and anew after one that took too long, and what it said."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.known: OrderedDict[str, _Reply] = OrderedDict()

    def value(self, text: str) -> tuple[Value, ...] | None:
        cost = _cost.get()
        with self.lock:
            reply = self.known.get(text)
            if reply is None:
                if cost is not None and cost.seconds >= cost.limit:
                    cost.unread.add(text)
                    raise OverLimitError(text)
                reply = self.known[text] = self.ask(text)
                if len(self.known) > _MOST_REMEMBERED:
                    self.known.popitem(last=False)
                if cost is not None:
                    cost.seconds += reply.seconds
        if reply.given_up and cost is not None:
            cost.unread.add(text)
        return reply.points

    def ask(self, text: str) -> _Reply:
        process = self.process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(text) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:  # Ctrl-C: the reply would be taken for that to the next question
            self._stop()
            raise
        if not line:
            self._stop()
            return _Reply(None, given_up=True, seconds=SECONDS + _START_SECONDS)
        reply = json.loads(line)
        points = reply["points"]
        if points is None or None in points[:2]:
            return _Reply(None, reply["given_up"], reply["seconds"])
        values = tuple(None if each is None else from_decimals(*each) for each in points)
        return _Reply(values, False, reply["seconds"])

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            reason = process.stderr.read().strip().splitlines()[-1:] or ["it ended without a word"]
            raise RuntimeError(f"math-verify does not start: {reason[0]}; pip install 'rlif[train]' installs it")
        return process

    def _stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()
        self.process = None


_worker = _Worker()
