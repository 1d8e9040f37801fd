"""The directory of one run: config.yaml, metrics.jsonl, samples.jsonl and the trained model."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from rlif.config import TrainConfig
from rlif.config_file import write_config
from rlif.errors import UserError
from rlif.models import LanguageModel
from rlif.versions import versions


def resolve_run_dir(config: TrainConfig) -> Path:
    """The directory that this run will make: `config.run_dir`, or runs/REWARDS-DATE-TIME.

    Raises:
        UserError: it exists already. A run never writes over another.
    """
    run_dir = config.run_dir or Path("runs") / f"{config.title}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        exists = run_dir.exists()
    except OSError as error:
        raise UserError(f"run_dir: cannot make {run_dir}: {error.strerror}") from error
    if exists:
        raise UserError(f"run_dir: {run_dir} exists, expected a new directory")
    return run_dir


class RunDir:
    """Writes a run's files as it goes: every line is on disk before the next step starts."""

    def __init__(self, path: Path, config: TrainConfig) -> None:
        """Make the directory.

        Raises:
            UserError: it exists, or cannot be made.
        """
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"run_dir: cannot make {path}: {error.strerror}") from error
        self.path = path
        write_config(config, path / "config.yaml", header=versions())
        self._metrics = self._open("metrics.jsonl")
        self._samples = self._open("samples.jsonl")

    def log_metrics(self, row: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl; a number that is not finite becomes null, which JSON can hold."""
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._metrics.write(json.dumps(finite) + "\n")

    def log_samples(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Append lines to samples.jsonl."""
        for row in rows:
            self._samples.write(json.dumps(row, ensure_ascii=False) + "\n")

    def save_model(self, language_model: LanguageModel, name: str = "model") -> Path:
        """Save model and tokenizer in a folder that transformers loads, and return it.

        The folder appears in one rename when it is complete: one that is there is whole.

        Raises:
            UserError: it cannot be written, for want of space perhaps.
        """
        folder = self.path / name
        unfinished = self.path / f".{name}-unfinished"
        with _without_interrupts():
            try:
                language_model.save(unfinished)
                unfinished.replace(folder)
            except (OSError, SafetensorError) as error:
                raise UserError(f"run_dir: cannot save the model in {folder}: {error}") from error
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return folder

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._samples.close()

    def _open(self, name: str) -> TextIO:
        return (self.path / name).open("x", encoding="utf-8", buffering=1)  # buffering=1: each line is written at once


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a second Ctrl-C not break what the first one saves. Only the main thread can: elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
