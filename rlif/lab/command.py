"""`rlif lab`, stage by stage. Every stage leaves files, and a resumed lab does only what they lack."""

from __future__ import annotations

import dataclasses
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rlif.data.prompts import read_prompts
from rlif.diagnosis.diagnose import diagnose
from rlif.digits import duration
from rlif.files.checksums import sealed
from rlif.files.directories import is_whole, write_directory
from rlif.files.json_values import write_json
from rlif.files.lock import Lock
from rlif.lab.options import LabConfig, Size
from rlif.lab.plan import plan_trials, start_name
from rlif.lab.report import write_lab_report
from rlif.lab.trials import run_trials, write_data
from rlif.mixing.mix import mix
from rlif.models.language_model import load_language_model
from rlif.options.record import check_unchanged, make_directory, output_directory
from rlif.rewards.registry import INTERNAL
from rlif.tasks.arithmetic import completion_length
from rlif.tasks.built_in_models import pretrained_base, tuned_instruct
from rlif.terminal import make_console

DIAGNOSES = "diagnoses.json"


def run(config: LabConfig) -> None:
    """Run the lab, and print where its report is.

    Raises:
        UserError: bad input, before any work starts.
        KeyboardInterrupt: Ctrl-C; what is done stays done, and `--resume` goes on from there.
    """
    config.validate()
    config.instruct = dataclasses.replace(config.instruct, base=config.base)
    directory = output_directory(config, "lab", what="lab")
    if config.resume:
        check_unchanged(
            directory, config, changeable={"workers"}, what="lab", prog="rlif lab", old_name="settings.json"
        )
    console = make_console()
    started = time.monotonic()
    with Lock(directory) as lock:
        make_directory(directory, config, lock)
        try:
            _run_stages(directory, config, console)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the lab in {directory} is not finished; --resume goes on with it") from None
    spent = duration(time.monotonic() - started)
    console.print(f"Report: {directory / 'report.md'} ({spent})", soft_wrap=True)


def _run_stages(directory: Path, config: LabConfig, console: Console) -> None:
    trials, size = plan_trials(config), config.size
    make_starts(directory / "starts", config, sorted({trial.ratio for trial in trials}), console)
    data, seeds = directory / "data", 1 + max(trial.seed for trial in trials)
    if not is_whole(data):
        write_directory(data, partial(write_data, task=config.base.task, size=size, seeds=seeds))
    if not (directory / DIAGNOSES).exists():
        diagnoses = {
            start_name(ratio): diagnose_start(directory, start_name(ratio), size, config, console)
            for ratio in sorted({trial.ratio for trial in trials})
        }
        write_json(directory / DIAGNOSES, sealed(diagnoses))
    run_trials(directory, config, size, trials, console)
    write_lab_report(directory, config, size, trials)


def make_starts(directory: Path, config: LabConfig, ratios: list[float], console: Console) -> None:
    """The start models, each a directory that transformers loads: base, instruct-like, and the weights between."""
    directory.mkdir(exist_ok=True)
    ends = {0.0: pretrained_base(config.base, console), 1.0: tuned_instruct(config.instruct, console)}
    for ratio in ratios:
        output = directory / start_name(ratio)
        if is_whole(output):
            continue
        if ratio in ends:
            write_directory(output, partial(shutil.copytree, ends[ratio], dirs_exist_ok=True))
        else:
            shutil.rmtree(output, ignore_errors=True)  # of one that is damaged
            mix(ends[0.0], ends[1.0], ratio, output)


def diagnose_start(directory: Path, name: str, size: Size, config: LabConfig, console: Console) -> dict[str, Any]:
    """What `rlif diagnose` says of a start model, on the prompts that the guard sees."""
    console.print(f"Diagnosing {name}", highlight=False)
    diagnosis = diagnose(
        load_language_model(str(directory / "starts" / name), device="cpu", dtype="float32"),
        read_prompts(str(directory / "data" / "eval.jsonl"))[: size.guard_prompts],
        reward=INTERNAL,
        max_completion_length=completion_length(config.base.task),
    )
    return dataclasses.asdict(diagnosis)
