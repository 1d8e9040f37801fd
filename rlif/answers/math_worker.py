"""The process of `math_verification.py`: reads expressions, one a line, and evaluates each at fixed points."""

import faulthandler
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

MEMORY = 2 << 30  # bytes of address space; powers of powers ask for more than any machine has
# Of wall time to processor time: how long to wait for a process that does not get to run.
PATIENCE = 20
# Of the processor time in which an answer is given up to that in which the process ends: no library hears of a signal
# while it multiplies two numbers.
DEADLY = 1.5
DIGITS = 70


class TooLong(BaseException):
    """The time for an answer is over. No Exception, which libraries catch."""


def main() -> None:
    """Answer until the input ends; give up an answer that takes more than the seconds on the command line, or die.

    They are seconds of processor time where the system counts it: what is read must not depend on how busy it is.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training run, which closes our input
    sys.path.append(str(Path(__file__).parents[2]))  # of our package; -P has kept this folder off
    from math_verify import parse

    from rlif.answers.values import POINTS, point

    logging.disable(logging.CRITICAL)  # math-verify warns that nothing but its own timeout limits it: we do
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # Windows, and systems with a lower limit of their own
        pass

    def points(text: str) -> list[list[str] | None]:
        tree = parse(f"\\boxed{{{text}}}", parsing_timeout=None)[0]
        if isinstance(tree, str):
            raise ValueError("not read")
        tree = tree.doit()
        if not getattr(tree, "is_number", False) and not tree.free_symbols:
            raise ValueError("no number")
        return [
            at_point(tree, {symbol: point(symbol.name, number) for symbol in tree.free_symbols})
            for number in range(POINTS)
        ]

    # Whatever is loaded on first use, and compiled on the very first, is no part of an answer.
    for text in (r"\frac{1}{2}", r"\sum_{i=1}^{3} i^2", r"\int_0^1 x^2 dx", r"\lim_{x \to 0} \frac{\sin x}{x}"):
        points(text)
    seconds = float(sys.argv[1])
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, _give_up)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    print("ready", flush=True)
    os.dup2(nowhere, sys.stderr.fileno())  # nobody reads on, and a full pipe would stop us
    for line in sys.stdin:
        text = json.loads(line)
        started = time.process_time()
        # These end the process whatever the computer algebra is doing: one by a signal that nothing handles, the other
        # from a thread of its own.
        wall = PATIENCE if hasattr(signal, "setitimer") else 1
        faulthandler.dump_traceback_later(seconds * wall, exit=True, file=nowhere)
        result: dict[str, Any] = {"points": None, "given_up": False}
        try:
            try:
                if hasattr(signal, "setitimer"):
                    signal.setitimer(signal.ITIMER_VIRTUAL, seconds * DEADLY)
                    signal.setitimer(signal.ITIMER_PROF, seconds)
                result["points"] = points(text)
            finally:
                if hasattr(signal, "setitimer"):
                    signal.setitimer(signal.ITIMER_PROF, 0)
        except (TooLong, MemoryError, RecursionError):
            result["given_up"] = True
        except Exception:  # what it cannot read is text
            pass
        faulthandler.cancel_dump_traceback_later()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        result["seconds"] = time.process_time() - started
        print(json.dumps(result), flush=True)


def at_point(tree: Any, place: dict[Any, Any]) -> list[str] | None:
    """Write the real and the imaginary part of a value in decimals; None if there is no value."""
    import sympy

    numbers = {symbol: sympy.Rational(value.numerator, value.denominator) for symbol, value in place.items()}
    value = tree.subs(numbers).evalf(DIGITS)
    real, imaginary = value.as_real_imag()
    if not (real.is_Float or real.is_Rational) or not (imaginary.is_Float or imaginary.is_Rational):
        return None
    return [str(real.evalf(DIGITS)), str(imaginary.evalf(DIGITS))]


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise TooLong


if __name__ == "__main__":
    main()
