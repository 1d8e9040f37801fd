r"""Whether two mathematical expressions are equal, by math-verify (https://github.com/huggingface/Math-Verify).

Computer algebra may take for ever, or all memory, on what a language model writes. So it runs in a process of its own,
which ends itself when a comparison takes too long: this process needs no signal, and any thread may ask.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

SECONDS = 3.0  # of processor time, for one comparison; nearly all take less than a tenth of one
# Runs as a program on its own. -P keeps our folder, whose modules have common names, off its import path.
_COMMAND = [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py")), str(SECONDS)]


@lru_cache(maxsize=100_000)
def equal_mathematics(answer: str, gold: str) -> bool:
    r"""Whether two expressions, in LaTeX or plain, are mathematically equal.

    Args:
        answer: with balanced braces and no \boxed{…} in it.
        gold: with balanced braces and no \boxed{…} in it.

    Returns:
        False also where one cannot be read as mathematics, or where the comparison takes longer than `SECONDS`.

    Raises:
        RuntimeError: math-verify does not start, because it is not installed perhaps.
    """
    return _worker.ask(answer, gold)


class _Worker:
    """The process, started on the first question and anew after one that took too long."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def ask(self, answer: str, gold: str) -> bool:
        with self.lock:
            process = self.process = self.process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps([answer, gold]) + "\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except BrokenPipeError:
                reply = ""
            except BaseException:  # Ctrl-C: the reply would be taken for that to the next question
                self._stop()
                raise
            if not reply:
                self._stop()
            return reply == "true\n"

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
