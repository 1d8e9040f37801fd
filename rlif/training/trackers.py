"""Send metrics to TensorBoard, Weights & Biases, Trackio or another tracker that accelerate knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from rlif.errors import UserError
from rlif.training.options import TrainConfig


def check_trackers(names: Sequence[str]) -> None:
    """Find fault with the trackers before any work.

    Raises:
        UserError: accelerate does not know one, or its package is not installed.
    """
    available = [str(tracker) for tracker in get_available_trackers()]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f"report_to: got {name!r}, expected one of {', '.join(LOGGER_TYPE_TO_CLASS)}")
        if name not in available:
            raise UserError(f"report_to: got {name!r}, whose package is not installed; pip install {name}")


def start_trackers(accelerator: Accelerator, config: TrainConfig) -> None:
    """Tell the trackers of the run and its configuration."""
    if config.report_to:
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in dataclasses.asdict(config).items()
        }
        accelerator.init_trackers("rlif", config=plain)
