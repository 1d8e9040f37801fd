"""Signals that ask a command to stop: Ctrl-C, a scheduler's SIGTERM, and the SIGHUP of a terminal that is closed."""

from __future__ import annotations

import math
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

Handler = Callable[[int, FrameType | None], None]
# Impatience: what comes within this many seconds of another signal adds nothing to it.
SECONDS_OF_ONE = 1.0


_last = -math.inf  # when a signal was last obeyed
_first: int | None = None  # the signal that asked this command to stop


def exit_code() -> int:
    """Return the exit code of a command that was asked to stop: 128 + the number of the signal, as a shell has it.

    That of the first signal if several came: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    return 128 + (signal.SIGINT if _first is None else _first)


def _receive(number: int) -> None:
    """Note who asked first, and leave the terminal if it was closed."""
    global _first
    _first = _first or number
    if number == getattr(signal, "SIGHUP", None):
        leave_terminal()


def stop_signals() -> list[signal.Signals]:
    """List the signals that ask to stop; SIGHUP is not one where the process was told to outlive its terminal."""
    hangup = getattr(signal, "SIGHUP", None)
    signals = [signal.SIGINT, signal.SIGTERM]
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # by nohup
        signals.append(hangup)
    return signals


@contextmanager
def handled(handler: Handler, signals: Sequence[signal.Signals] | None = None) -> Iterator[None]:
    """Within, these signals go to the handler. Only the main thread can see to that: elsewhere nothing changes.

    Args:
        handler: of signals.
        signals: which; None: all of `stop_signals`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in (stop_signals() if signals is None else signals)}
    try:
        yield
    finally:
        for number, former in previous.items():
            # None is a handler that Python did not set, and cannot set again.
            signal.signal(number, signal.SIG_DFL if former is None else former)


@contextmanager
def as_ctrl_c() -> Iterator[Callable[[], None]]:
    """Within, each of these signals interrupts as Ctrl-C does; those that follow at once add nothing.

    One that is ignored stays so: a shell starts a job in the background of a script with SIGINT ignored. What is
    yielded is to be called when the work is over: from then on no signal interrupts.
    """
    is_over = False

    def end() -> None:
        nonlocal is_over
        is_over = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _last
        _receive(number)
        now = time.monotonic()
        if now - _last >= SECONDS_OF_ONE and not is_over:
            _last = now
            raise KeyboardInterrupt

    global _first
    _first = None
    with handled(interrupt, [number for number in stop_signals() if signal.getsignal(number) is not signal.SIG_IGN]):
        yield end


def ignore_signals_after() -> None:
    """From now on a signal to stop changes nothing but where `as_ctrl_c` is: its command is over before and after.

    Python takes a while to end a program, in which an interrupt would be a traceback.
    """
    for number in stop_signals():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Let no signal break what is being saved: those that come are raised again at the end.

    To block them in this thread would not do, since another thread would receive them, and Python would still call
    their handlers in this one.
    """
    came: list[int] = []
    try:
        with handled(lambda number, frame: came.append(number)):
            yield
    finally:
        for each in came:
            signal.raise_signal(each)


class StopRequest:
    """Within this context a first signal is only noted, and a second SIGINT interrupts at once; others do nothing.

    What is `interruptible` the first interrupts at once, and no other after it: all that is left then is to save.

    Signals reach the main thread alone: in others this notes nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the signal that came."""
        self.held = False
        """Whether something is half done: between `hold` and `release`."""
        self._at_once = False
        self._may_interrupt = True

    def __enter__(self) -> StopRequest:
        self._handled = handled(self._note)
        self._handled.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handled.__exit__(kind, error, traceback)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, a first signal interrupts at once, until `hold`; so does one that came before.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        if self.received is not None:
            self._may_interrupt = False
            raise KeyboardInterrupt
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def hold(self) -> None:
        """From now on a signal is only noted again: what is being done must not be abandoned half done."""
        self.held = True
        self._at_once = False

    def release(self) -> None:
        """What was held is done."""
        self.held = False

    def save_in_peace(self) -> None:
        """From now on nothing interrupts: all that is left to do is to save what there is."""
        self._may_interrupt = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        global _last
        _receive(number)
        _last = time.monotonic()
        if self._at_once:
            self.received = signal.Signals(number).name
            self._at_once = self._may_interrupt = False
            raise KeyboardInterrupt
        if self.received is not None and number == signal.SIGINT and self._may_interrupt:
            self._may_interrupt = False
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name


def leave_terminal() -> None:
    """Write to nowhere what would go to the terminal: it is closed, and every word to it would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with suppress(OSError):  # it was never open
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
