"""Learn from items that are there already, such as pairs: one forward over some -> loss -> backward -> AdamW step.

Each epoch has every item once. A training that was interrupted goes on from its checkpoint as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rlif.errors import UserError
from rlif.files.directories import is_whole, write_directory
from rlif.files.json_values import read_json, without_nan, write_json
from rlif.files.jsonl import Row, StageFile, check_metrics
from rlif.interrupts import StopRequest
from rlif.models.optimization import (
    MovedWeights,
    adamw,
    before_weights_change,
    rounded_away,
    scheduled,
    set_learning_rate,
    step_if_finite,
)
from rlif.options.checks import Count, read_checked
from rlif.options.groups import OptimizerOptions
from rlif.progress_bar import bar
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import Ids, parts_within
from rlif.terminal import make_console
from rlif.training.checkpoint import load_optimizer, optimizer_tensors, save_optimizer

STEP_FILE = "step.json"


class StepLoss(NamedTuple):
    """What became of n of an objective's items."""

    loss: Tensor
    """(n,) differentiable."""
    metrics: dict[str, Tensor]
    """(n,) each, detached, of which metrics.jsonl has the mean."""


class Objective(Protocol):
    """Gives the loss of items, such as pairs or completions, by one forward over them."""

    @property
    def module(self) -> nn.Module:
        """What learns."""

    def sequences(self, row: int) -> list[tuple[Ids, Ids]]:
        """Prompt and completion of every sequence of an item."""

    def __call__(self, rows: Sequence[int]) -> StepLoss:
        """The losses of some of the items."""


@dataclass(frozen=True)
class StepFile:
    """Where a training is."""

    step: Count
    """Steps done."""


@dataclass(frozen=True)
class ItemTraining:
    """How much is learned from how many items, and where everything is written."""

    options: OptimizerOptions
    num_items: int
    items_per_step: int
    num_epochs: int
    save_steps: int
    """Steps between checkpoints."""
    seed: int
    """Of the order of the items."""
    dtype: str
    """Of the weights, for a warning."""
    max_tokens_per_forward: int
    settings: Mapping[str, object]
    """What decides the weights that come out."""
    directory: Path
    """Of metrics.jsonl and, while it goes on, a checkpoint."""
    final: Path
    """What is trained, in the end."""
    origin_file: str
    """Name of the file in it that says the settings."""
    needed: tuple[str, ...] = ("loss",)
    """Metrics that each step must have."""

    @property
    def max_steps(self) -> int:
        """Steps in all."""
        return self.num_epochs * math.ceil(self.num_items / self.items_per_step)


def train_items(
    training: ItemTraining, make: Callable[[Path | None], tuple[Objective, Callable[[Path], None]]]
) -> list[Row]:
    """Train, and leave what learned in a directory.

    Args:
        training: how.
        make: what learns, as it is at the start (None) or in a checkpoint, and what writes it into a directory.

    Returns:
        The rows of metrics.jsonl, per step: loss (mean over its items), grad_norm, learning_rate, moved_weights, and
        means of the objective's metrics.

    Raises:
        UserError: an earlier training in this directory had other settings; a loss that is not finite; no space.
        KeyboardInterrupt: Ctrl-C or SIGTERM, within one forward and after a checkpoint is saved.
    """
    options, settings, final, max_steps = training.options, training.settings, training.final, training.max_steps
    metrics, checkpoint = StageFile(training.directory / "metrics.jsonl", settings), training.directory / "checkpoint"
    is_done = len(metrics.rows) == max_steps and is_whole(final)
    # Another training may have replaced what this one left.
    if is_done and read_json(final / training.origin_file) == json.loads(json.dumps(settings)):
        check_metrics(metrics.rows, metrics.path, argument="output_dir", needed=training.needed)
        shutil.rmtree(checkpoint, ignore_errors=True)  # of one that was killed between its model and this
        return metrics.rows

    step, resumed = 0, None
    if is_whole(checkpoint):
        saved = read_checked(StepFile, checkpoint / STEP_FILE, argument="output_dir").step
        if saved <= len(metrics.rows):
            step, resumed = saved, checkpoint
        else:
            # Without its rows it belongs to another training, and must be gone before the new one has as many.
            shutil.rmtree(checkpoint)
    metrics.keep(step)
    check_metrics(metrics.rows, metrics.path, argument="output_dir", needed=training.needed)
    objective, write = make(resumed)
    optimizer = adamw(objective.module.parameters(), options)
    if resumed is not None:
        load_optimizer(objective.module, optimizer, resumed)

    def save_checkpoint(target: Path) -> None:
        write(target)
        save_optimizer(optimizer_tensors(objective.module, optimizer), target)
        write_json(target / STEP_FILE, {"step": step}, indent=None)

    told = False

    def take_step() -> None:
        """Train the step after `step`; until it begins to change the weights, a signal abandons it."""
        nonlocal step, told
        rows = step_rows(training.num_items, step + 1, training.items_per_step, training.seed)
        assert options.learning_rate is not None
        learning_rate = scheduled(
            step + 1,
            max_steps,
            learning_rate=options.learning_rate,
            warmup_ratio=options.warmup_ratio,
            lr_scheduler_type=options.lr_scheduler_type,
        )
        with stop.interruptible():
            row = train_batch(objective, optimizer, rows, learning_rate, options, training.max_tokens_per_forward)
        metrics.append([without_nan({"step": step + 1} | row)])
        step += 1
        stop.release()
        if not told and (warning := rounded_away(row["moved_weights"], options, training.dtype)):
            told = True
            make_console(errors=True).print(f"Warning: {warning}", soft_wrap=True, markup=False, highlight=False)

    with bar("Training", "steps", max_steps, step) as advance, StopRequest() as stop, before_weights_change(stop.hold):
        try:
            while step < max_steps:
                take_step()
                advance(1)
                if step % training.save_steps == 0 and step < max_steps:
                    write_directory(checkpoint, save_checkpoint)
                if stop.received is not None:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            stop.save_in_peace()
            if step > 0 and not stop.held:
                write_directory(checkpoint, save_checkpoint)
            raise KeyboardInterrupt(f"stopped after step {step} of {max_steps} of training") from None

    def save_final(target: Path) -> None:
        write(target)
        write_json(target / training.origin_file, dict(settings))

    write_directory(final, save_final)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return metrics.rows


def step_rows(num_items: int, step: int, items_per_step: int, seed: int) -> list[int]:
    """Return the items of a step, counted from 1: each epoch has all of them once, in an order of its own."""
    epoch, place = divmod(step - 1, math.ceil(num_items / items_per_step))
    order = list(range(num_items))
    random.Random(f"pairs {seed} {epoch}").shuffle(order)
    return order[place * items_per_step : (place + 1) * items_per_step]


def train_batch(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[int],
    learning_rate: float,
    options: OptimizerOptions,
    max_tokens_per_forward: int,
) -> Row:
    """Update once from the mean loss of some items, in parts that the budget of tokens allows; return its metrics.

    Raises:
        UserError: the loss or its gradient is not finite.
    """
    set_learning_rate(optimizer, learning_rate)
    optimizer.zero_grad()
    totals: dict[str, float] = defaultdict(float)
    sequences = [objective.sequences(row) for row in rows]
    together, module = len(sequences[0]), objective.module
    parts = parts_within(
        [prompt for each in sequences for prompt, _ in each],
        [completion for each in sequences for _, completion in each],
        max_tokens_per_forward,
        share_prompts=module.share_prompts if isinstance(module, Scorer) else 0,
        rows_together=together,
    )
    for part in parts:
        result = objective([rows[place // together] for place in part[::together]])
        loss = result.loss.sum() / len(rows)
        loss.backward()
        totals["loss"] += loss.item()
        for name, values in result.metrics.items():
            totals[name] += values.sum().item() / len(rows)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm).item()
    moved = MovedWeights()
    if not step_if_finite(optimizer, totals["loss"], norm, moved):
        raise UserError(
            f"learning_rate: the loss is {totals['loss']:g} and its gradient's norm {norm:g}, expected finite numbers; "
            "try a lower learning rate than the present one"
        )
    return {**totals, "grad_norm": norm, "learning_rate": learning_rate, "moved_weights": moved.share}
