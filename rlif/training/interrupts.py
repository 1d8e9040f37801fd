"""Stop between two steps when asked to, by Ctrl-C or by a scheduler's SIGTERM."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class StopRequest:
    """Within this context a first SIGINT or SIGTERM is only noted; a second SIGINT interrupts at once.

    Signals reach the main thread alone: in others this notes nothing.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the signal that came."""

    def __enter__(self) -> StopRequest:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
