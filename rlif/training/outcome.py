"""What a finished run came to that is a part of a command: kept beside it, so that `--resume` does not repeat it."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from rlif.errors import UserError
from rlif.files.checksums import check_seal, file_sha256, sealed
from rlif.files.directories import damage
from rlif.files.json_values import read_json, write_json
from rlif.files.jsonl import read_metrics
from rlif.files.lock import Lock
from rlif.options.checks import check
from rlif.options.record import CONFIG_FILE
from rlif.training.checkpoint import checkpoints
from rlif.training.guard import Guard
from rlif.training.loop import TrainResult, most_accurate, train
from rlif.training.options import TrainConfig
from rlif.training.run_dir import BEST, LOGS

OUTCOME_FILE = "outcome.json"
MODELS = ("model", BEST)
# Of a finished run, in the order of their checksums in `Outcome`.
KEPT = (*LOGS, CONFIG_FILE)


@dataclass(frozen=True)
class Outcome:
    """What the files of a finished run do not say themselves."""

    guard_step: int | None
    """The step whose policy the guard takes for the best; None if it finds none."""
    metrics_sha256: str
    """Of metrics.jsonl."""
    samples_sha256: str
    """Of samples.jsonl."""
    config_sha256: str
    """Of config.yaml."""


def run_once(config: TrainConfig, *, keep_models: bool = True, stop_at_collapse: bool = False) -> TrainResult:
    """Train as `config` says, go on with what was interrupted, or return what is finished already.

    Args:
        config: of a run that the guard watches and does not stop, with its directory.
        keep_models: whether what was trained stays when the run is finished; else the logs alone do.
        stop_at_collapse: as `train` takes it.

    Raises:
        UserError: bad input, or files of a finished run have changed since.
        KeyboardInterrupt: the run was interrupted, and is saved.
    """
    directory = config.output_dir
    assert directory is not None
    if (directory / OUTCOME_FILE).exists():
        _remove_rest(directory, keep_models)
        return read_outcome(directory, keep_models)
    resume = bool(checkpoints(directory))
    if directory.exists() and not resume:
        # Killed before there was a checkpoint: the same steps come to the same model.
        with Lock(directory):
            shutil.rmtree(directory, ignore_errors=True)
    result = train(dataclasses.replace(config, resume=resume), stop_at_collapse=stop_at_collapse)
    outcome = Outcome(result.guard_step, *(file_sha256(directory / name) for name in KEPT))
    write_json(directory / OUTCOME_FILE, sealed(dataclasses.asdict(outcome)))
    _remove_rest(directory, keep_models)
    return result


def _remove_rest(directory: Path, keep_models: bool) -> None:
    """Remove the checkpoints of an interruption, from which nothing goes on any more, and models that are not kept."""
    models = () if keep_models else tuple(directory / name for name in MODELS)
    for path in (*checkpoints(directory), *models):
        shutil.rmtree(path, ignore_errors=True)


def read_outcome(directory: Path, has_models: bool = True) -> TrainResult:
    """Read what a finished run came to, and whose models are still there unless it kept none.

    Raises:
        UserError: its files have changed since, or something else wrote them.
    """
    path, kept = directory / OUTCOME_FILE, [directory / name for name in KEPT]
    hint = f"expected what the run left, or {path} removed, so that --resume runs it again"
    values = read_json(path, argument="resume")
    try:
        check_seal(values, f"resume: {path}")
        outcome = Outcome(**values)
    except (AttributeError, TypeError) as error:  # no object, or other names
        raise UserError(f"resume: {path} cannot be used: {error}; {hint}") from error
    check(outcome, prefix=f"resume: {path}: ")
    models = [directory / name for name in MODELS] if has_models else []
    faults = [(model, fault) for model in models if (fault := damage(model)) is not None]
    checksums = (outcome.metrics_sha256, outcome.samples_sha256, outcome.config_sha256)
    for file, checksum in zip(kept, checksums, strict=True):
        if not file.is_file() or file_sha256(file) != checksum:
            faults.append((file, "it has changed since it was written, or is gone"))
    if faults:
        raise UserError(f"resume: {faults[0][0]} is damaged ({faults[0][1]}); {hint}")
    rows = read_metrics(kept[0], argument="resume")
    return TrainResult(
        run_dir=directory,
        rows=rows,
        last_step=int(rows[-1]["step"]),
        best_step=most_accurate(rows),
        guard_step=outcome.guard_step,
        collapse_step=collapse.step if (collapse := Guard.of_rows(rows).collapse) else None,
    )
