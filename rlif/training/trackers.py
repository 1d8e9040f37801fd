"""Send metrics and completions to TensorBoard, Weights & Biases, Trackio or another tracker that accelerate knows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from rlif.errors import UserError
from rlif.training.options import TrainConfig

TABLE = "completions"


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


def report(accelerator: Accelerator, row: Mapping[str, float], samples: Sequence[Mapping[str, object]]) -> None:
    """Send the metrics of a step to the trackers, and completions of it to those that can show a table."""
    step = int(row["step"])
    # Trackers count steps themselves; Trackio would rename one that comes among the metrics, and say so every time.
    accelerator.log({name: value for name, value in row.items() if name != "step"}, step=step)
    if samples:
        columns = [name for name in samples[0] if name != "tokens"]  # hundreds of numbers are none for a cell
        cells = [["" if sample[name] is None else str(sample[name]) for name in columns] for sample in samples]
        for tracker in accelerator.trackers:
            if accelerator.is_main_process:
                _send_table(tracker, columns, cells, step)


def _send_table(tracker: GeneralTracker, columns: list[str], cells: list[list[str]], step: int) -> None:
    if tracker.name == "tensorboard":
        tracker.log({TABLE: _markdown(columns, cells)}, step=step)
    elif tracker.name == "trackio":
        import trackio
        from pandas import DataFrame

        tracker.log({TABLE: trackio.Table(dataframe=DataFrame(cells, columns=columns))}, step=step)
    elif hasattr(tracker, "log_table"):  # of Weights & Biases, and ClearML
        tracker.log_table(TABLE, columns=columns, data=cells, step=step)


def _markdown(columns: list[str], cells: list[list[str]]) -> str:
    """The table as TensorBoard shows a text, with every character of a completion as it is."""
    lines = [columns, ["---"] * len(columns), *([_as_it_is(cell) for cell in row] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _as_it_is(text: str) -> str:
    """Text that Markdown and HTML take for nothing but text."""
    return re.sub(r"\r\n?|\n", "<br>", re.sub(r"[^\w\s]|_", lambda found: f"&#{ord(found[0])};", text))
