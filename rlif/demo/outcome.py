"""What a finished run of the demonstration came to: kept beside it, so that `--resume` does not repeat the run."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from rlif.demo.figure import best_evaluation
from rlif.errors import UserError
from rlif.files.checksums import check_seal, file_sha256, sealed
from rlif.files.directories import damage
from rlif.files.json_values import read_json, write_json
from rlif.files.jsonl import read_metrics
from rlif.files.lock import Lock
from rlif.options.checks import check
from rlif.training.checkpoint import checkpoints
from rlif.training.loop import TrainResult, train
from rlif.training.options import TrainConfig
from rlif.training.run_dir import LOGS

OUTCOME_FILE = "outcome.json"
MODELS = ("model", "best")


@dataclass(frozen=True)
class Outcome:
    """What the files of a finished run do not say themselves."""

    guard_step: int
    """The step whose policy the guard takes for the best."""
    metrics_sha256: str
    """Of metrics.jsonl."""
    samples_sha256: str
    """Of samples.jsonl."""


def run_once(config: TrainConfig) -> TrainResult:
    """Train as `config` says, go on with what was interrupted, or return what is finished already.

    Raises:
        UserError: bad input, or files of a finished run have changed since.
        KeyboardInterrupt: the run was interrupted, and is saved.
    """
    directory = config.output_dir
    assert directory is not None
    if (directory / OUTCOME_FILE).exists():
        return read_outcome(directory)
    resume = bool(checkpoints(directory))
    if directory.exists() and not resume:
        # Killed before there was a checkpoint: the same steps come to the same model.
        with Lock(directory):
            shutil.rmtree(directory, ignore_errors=True)
    result = train(dataclasses.replace(config, resume=resume))
    assert result.guard_step is not None
    outcome = Outcome(result.guard_step, *(file_sha256(directory / name) for name in LOGS))
    write_json(directory / OUTCOME_FILE, sealed(dataclasses.asdict(outcome)))
    for each in checkpoints(directory):  # of an interruption; there is nothing to go on with any more
        shutil.rmtree(each, ignore_errors=True)
    return result


def read_outcome(directory: Path) -> TrainResult:
    """Read what a finished run came to.

    Raises:
        UserError: its files have changed since, or something else wrote them.
    """
    path, (metrics, samples) = directory / OUTCOME_FILE, (directory / name for name in LOGS)
    hint = f"expected what the run left, or {path} removed, so that --resume runs it again"
    values = read_json(path, argument="resume")
    try:
        check_seal(values, f"resume: {path}")
        outcome = Outcome(**values)
    except (AttributeError, TypeError) as error:  # no object, or other names
        raise UserError(f"resume: {path} cannot be used: {error}; {hint}") from error
    check(outcome, prefix=f"resume: {path}: ")
    faults = [(directory / name, fault) for name in MODELS if (fault := damage(directory / name)) is not None]
    for log, checksum in ((metrics, outcome.metrics_sha256), (samples, outcome.samples_sha256)):
        if not log.is_file() or file_sha256(log) != checksum:
            faults.append((log, "it has changed since it was written, or is gone"))
    if faults:
        raise UserError(f"resume: {faults[0][0]} is damaged ({faults[0][1]}); {hint}")
    rows = read_metrics(metrics, argument="resume")
    return TrainResult(
        run_dir=directory,
        rows=rows,
        last_step=int(rows[-1]["step"]),
        best_step=int(best_evaluation(rows)["step"]),
        guard_step=outcome.guard_step,
    )
