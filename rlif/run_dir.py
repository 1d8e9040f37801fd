"""The directory of one run: config.yaml, metrics.jsonl, samples.jsonl and the trained model."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import yaml

from rlif.config import TrainConfig
from rlif.errors import UserError
from rlif.models import LanguageModel


def resolve_run_dir(config: TrainConfig) -> Path:
    """The directory that this run will make: `config.run_dir`, or runs/REWARD-DATE-TIME.

    Raises:
        UserError: it exists already. A run never writes over another.
    """
    run_dir = config.run_dir or Path("runs") / f"{config.reward}-{time.strftime('%Y%m%d-%H%M%S')}"
    if run_dir.exists():
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
        versions = ", ".join(f"{package} {version(package)}" for package in ("rlif", "torch", "transformers"))
        fields = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(dataclasses.replace(config, run_dir=path)).items()
        }
        (path / "config.yaml").write_text(f"# {versions}\n{yaml.safe_dump(fields, sort_keys=False)}", encoding="utf-8")
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
        """Save model and tokenizer in a folder that transformers loads, and return it."""
        language_model.save(self.path / name)
        return self.path / name

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._samples.close()

    def _open(self, name: str) -> TextIO:
        return (self.path / name).open("x", encoding="utf-8", buffering=1)  # buffering=1: each line is written at once
