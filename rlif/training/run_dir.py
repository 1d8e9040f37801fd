"""The directory of one run: config.yaml, metrics.jsonl, samples.jsonl, checkpoints and the trained model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlif.errors import UserError
from rlif.files.directories import MANIFEST, damage, write_directory
from rlif.files.json_values import without_nan
from rlif.files.jsonl import JsonLines, Row, read_metrics, write_rows
from rlif.files.lock import Lock
from rlif.files.parts import PartsFile
from rlif.options.checks import read_checked
from rlif.options.record import check_unchanged, make_directory, output_directory
from rlif.training.checkpoint import RunState, remove_old_checkpoints
from rlif.training.guard import Reading
from rlif.training.options import TrainConfig

# The folder of the best policy so far, and in it the file with what the guard said of it.
BEST = "best"
READING_FILE = "guard.json"
LOGS = ("metrics.jsonl", "samples.jsonl")
# What the start model answers, and the evaluation that goes on, each part as it comes.
CONSENSUS_FILE = "consensus.jsonl"
EVALUATION_FILE = "unfinished-evaluation.jsonl"
# In a checkpoint: the metrics of its step, where the evaluation after it was interrupted.
UNFINISHED_ROW = "unfinished_step.jsonl"
# The options that a resumed run may change.
CHANGEABLE = frozenset(
    # The weights do not depend on these. Model and data may move: their contents are compared instead.
    {"max_steps", "save_steps", "save_total_limit", "report_to", "device", "model", "data"}
    # These change the rounding of sums at most, and let a run that ran out of memory go on.
    | {"max_tokens_per_forward", "gradient_checkpointing", "share_prompts"}
    # These decide what is watched and measured. `_check_guard` refuses what would change the prompts of training.
    | {"guard", "guard_patience"}
    | {"data_config", "split", "eval_data", "eval_split", "eval_steps", "eval_generations", "eval_temperature"}
)


def resolve_run_dir(config: TrainConfig) -> Path:
    """Choose the directory that this run makes, or that it resumes: `config.output_dir`, or runs/REWARDS-DATE-TIME.

    Raises:
        UserError: it exists already, and the run does not resume: a run never writes over another. Or it resumes, and
            the directory does not exist or belongs to a run with another configuration.
    """
    run_dir = output_directory(config, config.title, what="run")
    if config.resume:
        saved = check_unchanged(run_dir, config, changeable=CHANGEABLE, what="run", prog="rlif train")
        if saved:
            _check_guard(config, saved)
    return run_dir


class RunDir:
    """A run writes its files through this: every line is in its file before the next step starts."""

    def __init__(self, path: Path, config: TrainConfig, lock: Lock, state: RunState | None = None) -> None:
        """Make the directory, or continue in it from a state: what was logged after that is removed.

        What a run logged that was killed before its first checkpoint is moved to before-restart-N/.

        Args:
            path: of the directory.
            config: of the run.
            lock: of the directory.
            state: to continue from.

        Raises:
            UserError: it exists though nothing is resumed, cannot be made, or another process writes to it.
        """
        self.path = path
        make_directory(path, config, lock)
        try:
            if state is None or state.step == 0:
                _set_aside(path, LOGS)
            before = state or RunState("", "")
            self._metrics = JsonLines(path / LOGS[0], size=before.metrics_bytes, checksum=before.metrics_sha256)
            self._samples = JsonLines(path / LOGS[1], size=before.samples_bytes, checksum=before.samples_sha256)
        except OSError as error:
            raise UserError(f"output_dir: cannot make {path}: {error.strerror}") from error

    def log_metrics(self, row: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl; a number that is not finite becomes null, which JSON can hold."""
        self._metrics.append([without_nan(row)], synced=False)

    def log_samples(self, rows: Iterable[Row]) -> None:
        """Append lines to samples.jsonl."""
        self._samples.append(rows, synced=False)

    def part(self, name: str, work: Mapping[str, object]) -> PartsFile:
        """Open the parts of a piece of work, or begin it.

        Raises:
            UserError: somebody has changed the file, or it cannot be written.
        """
        return PartsFile(self.path / name, work)

    def remove_part(self, name: str) -> None:
        """Remove the parts of what is finished; there need not be any."""
        with suppress(OSError):  # the directory is gone, which whoever writes next will say
            (self.path / name).unlink(missing_ok=True)

    def read_metrics(self) -> list[dict[str, float]]:
        """Read the rows so far; what was not finite is NaN.

        Raises:
            UserError: something else than a run wrote them.
        """
        return read_metrics(self.path / LOGS[0], argument="resume")

    def save_model(self, write: Callable[[Path], None], name: str = "model") -> Path:
        """Save a model, with what `write` writes, in a folder that transformers loads, and return it.

        Raises:
            UserError: it cannot be written, for want of space perhaps.
        """
        write_directory(self.path / name, write)
        return self.path / name

    def remove_model(self, name: str) -> None:
        """Remove a model that is no longer what its name says; it need not be there."""
        shutil.rmtree(self.path / name, ignore_errors=True)

    def save_best(self, write: Callable[[Path], None], reading: Reading) -> None:
        """Save the best policy so far, with what the guard said of it.

        Raises:
            UserError: it cannot be written; the one before is still there.
        """

        def write_all(directory: Path) -> None:
            write(directory)
            (directory / READING_FILE).write_text(json.dumps(dataclasses.asdict(reading)) + "\n", encoding="utf-8")

        self.save_model(write_all, BEST)

    def copy_best(self, directory: Path) -> None:
        """Copy the best policy's model into a directory."""
        shutil.copytree(
            self.path / BEST, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST, READING_FILE)
        )

    def save_checkpoint(
        self,
        write: Callable[[Path], None],
        state: RunState,
        save_total_limit: int | None,
        unfinished: Mapping[str, float] | None = None,
    ) -> Path:
        """Save a checkpoint of what `write` writes and of the state, and remove those beyond the limit.

        `unfinished` has the metrics of a step that is not evaluated yet.

        Raises:
            UserError: it cannot be written; those before it are still there.
        """
        state.metrics_bytes, state.samples_bytes = self._metrics.sync(), self._samples.sync()
        state.metrics_sha256, state.samples_sha256 = self._metrics.checksum, self._samples.checksum

        def write_all(directory: Path) -> None:
            write(directory)
            state.save(directory)
            if unfinished is not None:
                write_rows(directory / UNFINISHED_ROW, [without_nan(unfinished)])

        folder = self.save_model(write_all, f"checkpoint-{state.step}")
        remove_old_checkpoints(self.path, save_total_limit, state.step)
        return folder


def _set_aside(run_dir: Path, names: Iterable[str]) -> None:
    """Move what is in files of a run into a new folder in it; nothing where they are missing or empty."""
    written = [run_dir / name for name in names if (run_dir / name).exists() and (run_dir / name).stat().st_size > 0]
    if written:
        number = 1
        while (folder := run_dir / f"before-restart-{number}").exists():
            number += 1
        folder.mkdir()
        for path in written:
            path.rename(folder / path.name)


def unfinished_row(checkpoint: Path, step: int) -> dict[str, float] | None:
    """Read the metrics of a checkpoint's step that only lack its evaluation; None where they lack nothing.

    Raises:
        UserError: something else wrote them.
    """
    path = checkpoint / UNFINISHED_ROW
    if not path.exists():
        return None
    rows = read_metrics(path, argument="resume")
    if len(rows) != 1 or rows[0]["step"] != step:
        raise UserError(f"resume: {path} has {len(rows)} rows, expected one, of step {step}")
    return rows[0]


def best_reading(run_dir: Path) -> Reading | None:
    """Read what the guard said of the policy in OUTPUT_DIR/best; None if there is none.

    Raises:
        UserError: it is damaged, or something else than the guard wrote it.
    """
    best = run_dir / BEST
    if not best.is_dir():
        return None
    if (fault := damage(best)) is not None:
        raise UserError(
            f"resume: {best} is damaged ({fault}); expected the best policy so far, or {BEST}/ removed, so that the "
            "guard keeps the best from here on"
        )
    return read_checked(Reading, best / READING_FILE, argument="resume")


def _check_guard(config: TrainConfig, saved: Mapping[str, Any]) -> None:
    """Refuse a change after which the guard would see other evaluations than before, or training other prompts."""
    guard, eval_data = saved.get("guard", "off"), saved.get("eval_data")
    if (guard != "off" and eval_data is None) != (config.guard != "off" and config.eval_data is None):
        raise UserError(
            f"resume: guard is {config.guard!r} and eval_data {config.eval_data!r}, but the run had {guard!r} and "
            f"{eval_data!r}; expected no change that takes prompts from training for the guard, or gives them back"
        )
    temperature = saved.get("eval_temperature", config.eval_temperature)
    if config.guard != "off" and temperature != config.eval_temperature:
        raise UserError(
            f"resume: eval_temperature is {config.eval_temperature!r}, but the run had {temperature!r}; expected no "
            "change, since the guard compares evaluations"
        )
