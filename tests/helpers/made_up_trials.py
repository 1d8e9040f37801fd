"""Trials of the lab that nobody ran, for what is concluded from trials."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def made_up(ratio: float, reward: str, accuracy: Sequence[float], entropy: float, guard_step: int) -> dict[str, Any]:
    """A trial whose accuracy runs as given, one evaluation every 10 steps."""
    middle = len(accuracy) // 2
    rows = [
        {"step": 10 * i, "reward": i, "eval/accuracy": value, "eval/entropy": entropy * 0.9**i}
        | {"eval/self_certainty": 1.0 + i, "eval/kl": 0.01 * i, "eval/base_nll": 0.1 + 0.01 * abs(i - middle)}
        | {"eval/agreement": 0.5 + 0.01 * i}
        for i, value in enumerate(accuracy)
    ]
    looks = {"start": 0.5, "guarded": 0.6, "last": 0.1}
    named = {"ratio": ratio, "reward": reward, "seed": 0, "guard_step": guard_step, "rows": rows}
    named |= {"seconds": 60.0, "cpu_seconds": 90.0}
    return named | {
        "accuracy": looks,
        "parsed": dict.fromkeys(looks, 1.0),
        "doubt": {"start": 0.3, "guarded": 0.1, "last": 0.0},
        "probability": {"start": 0.5, "guarded": 0.7, "last": 0.9},
    }


RISING_AND_FALLING = (0.4, 0.5, 0.6, 0.4, 0.1)


FLAT = (0.8, 0.81, 0.8, 0.8, 0.79)


FALLING = (0.7, 0.6, 0.5, 0.3, 0.2)


def never_ends(directory: Path, *arguments: object) -> None:
    """A trial that saves when it is told to stop, as a training does, and goes on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    (directory / "begun").touch()
    while True:
        time.sleep(60)
