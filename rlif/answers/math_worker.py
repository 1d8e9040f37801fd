"""The process of `math_verification.py`: reads pairs of expressions, one a line, and says whether they are equal."""

import faulthandler
import json
import logging
import os
import signal
import sys

MEMORY = 4 << 30  # bytes of address space; powers of powers ask for more than any machine has
# Of wall time to processor time: how long to wait for a process that does not get to run.
PATIENCE = 20


def main() -> None:
    """Answer until the input ends, or die when an answer takes more than the seconds on the command line.

    They are seconds of processor time where the system counts it: what is equal must not depend on how busy it is.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training run, which closes our input
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)  # math-verify warns that nothing but its own timeout limits it: we do
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # Windows, and systems with a lower limit of their own
        pass
    nowhere = os.open(os.devnull, os.O_WRONLY)
    # Whatever is loaded on first use, and compiled on the very first, is no part of a comparison.
    half = [parse(text, parsing_timeout=None) for text in ("\\boxed{\\frac{1}{2}}", "\\boxed{0.5}")]
    verify(*half, timeout_seconds=None)
    seconds = float(sys.argv[1])
    wall = PATIENCE if hasattr(signal, "setitimer") else 1
    print("ready", flush=True)
    os.dup2(nowhere, sys.stderr.fileno())  # nobody reads on, and a full pipe would stop us
    for line in sys.stdin:
        answer, gold = json.loads(line)
        # Both end the process whatever the computer algebra is doing: one by a signal that nothing handles, the other
        # from a thread of its own.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, seconds)
        faulthandler.dump_traceback_later(seconds * wall, exit=True, file=nowhere)
        try:
            parsed = [parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
            equal = all(parsed) and verify(*parsed, timeout_seconds=None)
        except (Exception, MemoryError, RecursionError):  # what it cannot read is equal to nothing
            equal = False
        faulthandler.cancel_dump_traceback_later()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(bool(equal)), flush=True)


if __name__ == "__main__":
    main()
