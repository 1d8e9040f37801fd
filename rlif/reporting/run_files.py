"""The files of a run as a report reads them, finished or not: metrics, options, completions. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlif.answers.matching import GoldAnswer
from rlif.errors import UserError
from rlif.files.jsonl import Row, read_metrics, read_rows
from rlif.files.lock import LOCK_FILE, is_locked
from rlif.reporting.records import Record, read_record
from rlif.scoring.token_confidence import TokenConfidence
from rlif.training.options import TrainConfig

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
# More than any run has; axes are drawn by what a float can tell apart.
MAX_STEP = 1e12


@dataclass(frozen=True)
class Sample:
    """One row of samples.jsonl."""

    step: int
    split: str
    """"eval", "train" or "verify"; see `rlif.training.samples`."""
    prompt: str
    completion: str
    stated: str | None
    answer: GoldAnswer | None
    finished: bool
    reward: float | None
    tokens: TokenConfidence | None


@dataclass(frozen=True)
class RunFiles:
    """What the directory of a run holds."""

    path: Path
    metrics: list[dict[str, float]]
    """The rows of metrics.jsonl; at least one."""
    samples: list[Sample]
    record: Record
    is_running: bool
    """Whether a process on this machine is writing to it."""
    has_model: bool

    @property
    def title(self) -> str:
        """The rewards, or the name of the directory where nothing says what they were."""
        rewards = self.record.options.get("reward")
        return "+".join(map(str, rewards)) if rewards else self.path.resolve().name

    @property
    def last_step(self) -> int:
        return int(self.metrics[-1]["step"])


def is_run(path: Path) -> bool:
    """Tell whether a directory has the metrics of a run."""
    return (path / METRICS).is_file()


def read_run(path: Path) -> RunFiles:
    """Read the files of a run, which may still grow.

    Raises:
        UserError: they are damaged, there is no row of metrics yet, or another command wrote them.
    """
    metrics = read_metrics(path / METRICS, argument="runs", growing=True)
    if not metrics:
        raise UserError(f"runs: {path} has no metrics yet, expected a run of one step at least")
    if (wrong := next((row["step"] for row in metrics if abs(row["step"]) > MAX_STEP), None)) is not None:
        raise UserError(f"runs: {path / METRICS}: got step {wrong:g}, expected at most {MAX_STEP:g}")
    samples = path / SAMPLES
    return RunFiles(
        path=path,
        metrics=metrics,
        samples=read_samples(samples) if samples.exists() else [],
        record=read_record(path, TrainConfig, "rlif train"),
        is_running=is_locked(path / LOCK_FILE),
        has_model=(path / "model").is_dir(),
    )


def read_samples(path: Path) -> list[Sample]:
    """Read the rows of a run's samples.jsonl, those of earlier versions too, which have no tokens and no rewards.

    Raises:
        UserError: something else wrote it.
    """
    rows = read_rows(path, argument="runs", made_by="rlif train", growing=True)
    return [_sample(row, f"runs: {path}, row {number}") for number, row in enumerate(rows, start=1)]


def _sample(row: Row, place: str) -> Sample:
    texts = {name: row.get(name) for name in ("prompt", "completion")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{place}: got {name} {str(text)[:40]!r}, expected text")
    step, reward, split, kept = (row.get(name) for name in ("step", "reward", "split", "tokens"))
    if type(step) is not int and not (isinstance(step, float) and step.is_integer()):
        raise UserError(f"{place}: got step {str(step)[:40]!r}, expected a whole number")
    if reward is not None and (isinstance(reward, bool) or not isinstance(reward, int | float) or abs(reward) > 1e300):
        raise UserError(f"{place}: got reward {str(reward)[:40]!r}, expected a number")
    return Sample(
        step=int(step),
        split=split if isinstance(split, str) else "eval",
        prompt=row["prompt"],
        completion=row["completion"],
        stated=_text(row.get("stated")),
        answer=_gold(row.get("answer")),
        finished=row.get("finished") is not False,
        reward=None if reward is None or not math.isfinite(reward) else float(reward),
        tokens=None if kept is None else read_tokens(row["completion"], kept, place),
    )


def read_tokens(completion: str, kept: object, place: str) -> TokenConfidence:
    """Put together what is kept of a completion's tokens.

    Raises:
        UserError: beginning with `place`: it is something else, or of another completion.
    """
    try:
        if not isinstance(kept, dict):
            raise ValueError("tokens that are no object")
        return TokenConfidence.from_json(completion, kept)
    except ValueError as error:
        raise UserError(f"{place}: got {error}, expected the tokens of its completion") from error


def _gold(value: object) -> GoldAnswer | None:
    return tuple(map(str, value)) if isinstance(value, list) else _text(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def steps_of(samples: Iterable[Sample], split: str) -> list[int]:
    """Return the steps of which there are completions of a split, in order."""
    return sorted({each.step for each in samples if each.split == split})
