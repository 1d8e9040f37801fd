"""Learn what was ranked: pairs -> one forward over chosen and rejected -> loss -> backward -> AdamW step."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch

from rlif.errors import UserError
from rlif.files.directories import is_whole, write_directory
from rlif.files.fingerprint import fingerprint
from rlif.files.json_values import read_json, without_nan, write_json
from rlif.files.jsonl import Row, StageFile, check_metrics
from rlif.interrupts import StopRequest
from rlif.models.activation_checkpointing import enable_checkpointing
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.lora import policy_to_train
from rlif.models.optimization import (
    MovedWeights,
    adamw,
    before_weights_change,
    rounded_away,
    scheduled,
    set_learning_rate,
    step_if_finite,
)
from rlif.models.reward_model import load_reward_model
from rlif.options.checks import Count, read_checked
from rlif.progress_bar import bar
from rlif.scoring.scorer import Scorer, make_scorer
from rlif.self_feedback.nft import JudgedCompletion
from rlif.self_feedback.objectives import DPO, NFT, BradleyTerry, Objective
from rlif.self_feedback.options import SelfFeedbackConfig, TrainOptions
from rlif.self_feedback.rank import Pair
from rlif.self_feedback.reference_logprobs import reference_logprobs
from rlif.self_feedback.sequences import parts_within
from rlif.terminal import make_console
from rlif.training.checkpoint import load_optimizer, model_fingerprint, optimizer_tensors, save_optimizer

# Options of the training that change nothing but rounding, or when checkpoints are written.
STAGE_CHANGEABLE = ("gradient_checkpointing", "save_steps")
# Options that the last release did not have, with what they are where nobody asks for anything else.
LATER = {"master_weights": True, "lora_modules_to_save": ()}
STEP_FILE = "step.json"
# Beside a trained model: what it was trained by and on.
ORIGIN_FILE = "self_feedback.json"
FOLDERS = {"dpo": "model", "nft": "model", "reward_model": "reward_model"}

Items = Sequence[Pair] | Sequence[JudgedCompletion]


@dataclasses.dataclass(frozen=True)
class StepFile:
    """Where a training is."""

    step: Count
    """Steps done."""


def train_model(
    config: SelfFeedbackConfig, start: LanguageModel, name: str, items: Items, output_dir: Path
) -> list[Row]:
    """Train as `config.train` says, and leave the model in output_dir/model, or in output_dir/reward_model.

    output_dir/train-OBJECTIVE has metrics.jsonl, the reference log-probabilities and, while it goes on, a checkpoint.

    Args:
        config: resolved.
        start: the model to start from, changed in place.
        name: by which it was loaded.
        items: to learn from: judged completions for NFT, else preference pairs.
        output_dir: where to.

    Returns:
        The rows of metrics.jsonl, per step: loss (mean over its items); accuracy (share of pairs whose chosen
        completion has the higher reward; with NFT, of completions that moved as they were judged); grad_norm;
        learning_rate; means of rewards/chosen and rewards/rejected, or of log_ratio, in nats; and of comparisons
        between prompts, where pairs have them, length/accuracy and length/loss.

    Raises:
        UserError: an earlier training in this directory had other settings; a loss that is not finite; no space.
        KeyboardInterrupt: Ctrl-C or SIGTERM, within one forward and after a checkpoint is saved.
    """
    options, directory = config.train, output_dir / f"train-{config.train.objective}"
    settings = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        # A training that was begun before there was such an option goes on with its default.
        if name not in STAGE_CHANGEABLE and (name, value) not in LATER.items()
    }
    origin = {
        "model": model_fingerprint(start.model)[:16],
        "preferences": fingerprint(map(dataclasses.astuple, items))[:16],
    }
    settings |= origin | {"seed": config.seed}
    if config.length.length_conditioned:
        settings["lam"] = config.length.lam
    metrics = StageFile(directory / "metrics.jsonl", settings)
    final = output_dir / FOLDERS[options.objective]
    max_steps = options.num_train_epochs * math.ceil(len(items) / options.pairs_per_step)
    is_done = len(metrics.rows) == max_steps and is_whole(final)
    # The other objective may have replaced the model since.
    if is_done and read_json(final / ORIGIN_FILE) == json.loads(json.dumps(settings)):
        check_metrics(metrics.rows, metrics.path, argument="output_dir", needed=("loss", "accuracy"))
        return metrics.rows

    checkpoint = directory / "checkpoint"
    step, resumed = 0, None
    if is_whole(checkpoint):
        saved = read_checked(StepFile, checkpoint / STEP_FILE, argument="output_dir").step
        if saved <= len(metrics.rows):
            step, resumed = saved, checkpoint
        else:
            # Without its rows it belongs to another training, and must be gone before the new one has as many.
            shutil.rmtree(checkpoint)
    metrics.keep(step)
    check_metrics(metrics.rows, metrics.path, argument="output_dir", needed=("loss", "accuracy"))
    objective, write = make_objective(config, start, name, items, directory, origin, resumed)
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
        rows = step_rows(len(items), step + 1, options, config.seed)
        learning_rate = scheduled(
            step + 1,
            max_steps,
            learning_rate=_given(options.learning_rate),
            warmup_ratio=options.warmup_ratio,
            lr_scheduler_type=options.lr_scheduler_type,
        )
        with stop.interruptible():
            row = train_batch(objective, optimizer, rows, learning_rate, options, config.max_tokens_per_forward)
        metrics.append([without_nan({"step": step + 1} | row)])
        step += 1
        stop.release()
        if not told and (warning := rounded_away(row["moved_weights"], options, config.dtype)):
            told = True
            make_console(errors=True).print(f"Warning: {warning}", soft_wrap=True, markup=False, highlight=False)

    with bar("Training", "steps", max_steps, step) as advance, StopRequest() as stop, before_weights_change(stop.hold):
        try:
            while step < max_steps:
                take_step()
                advance(1)
                if step % options.save_steps == 0 and step < max_steps:
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
        write_json(target / ORIGIN_FILE, settings)

    write_directory(final, save_final)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return metrics.rows


def make_objective(
    config: SelfFeedbackConfig,
    start: LanguageModel,
    name: str,
    items: Items,
    directory: Path,
    origin: dict[str, str],
    checkpoint: Path | None,
) -> tuple[Objective, Callable[[Path], None]]:
    """What learns, as it is at the start or in a checkpoint, and what writes it into a directory."""
    options = config.train
    if options.objective == "reward_model":
        dtype = getattr(torch, config.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # of the new head
            reward_model = load_reward_model(
                name if checkpoint is None else str(checkpoint),
                device=start.device,
                dtype=dtype,
                pad_token_id=start.pad_token_id,
                new_head=checkpoint is None,
            )
        if options.gradient_checkpointing:
            enable_checkpointing(reward_model.model)

        def write_reward_model(target: Path) -> None:
            reward_model.model.save_pretrained(target)
            start.tokenizer.save_pretrained(target)

        pairs = cast(Sequence[Pair], items)
        return BradleyTerry(reward_model, pairs, options, config.length.lam), write_reward_model

    sequences = [sequence for item in items for sequence in item.sequences()]
    reference = reference_logprobs(
        make_scorer(start.model, config),
        start,
        sequences,
        directory / f"reference_logprobs-{origin['preferences']}.jsonl",
        settings=origin,
        max_tokens_per_forward=config.max_tokens_per_forward,
        per_token=options.objective == "nft",
    )
    policy = policy_to_train(start, options, checkpoint, partial(load_with_options, config), seed=config.seed)
    if options.gradient_checkpointing:
        enable_checkpointing(policy.model)
    scorer = make_scorer(policy.model, config)
    if options.objective == "nft":
        return NFT(scorer, policy, cast(Sequence[JudgedCompletion], items), reference), policy.save
    sums = torch.tensor([numbers[0] for numbers in reference], device=start.device).view(len(items), -1)
    return DPO(scorer, policy, cast(Sequence[Pair], items), sums.unbind(dim=1), options, config.length.lam), policy.save


def step_rows(num_items: int, step: int, options: TrainOptions, seed: int) -> list[int]:
    """Return the items of a step, counted from 1: each epoch has all of them once, in an order of its own."""
    steps_per_epoch = math.ceil(num_items / options.pairs_per_step)
    epoch, place = divmod(step - 1, steps_per_epoch)
    order = list(range(num_items))
    random.Random(f"pairs {seed} {epoch}").shuffle(order)
    return order[place * options.pairs_per_step : (place + 1) * options.pairs_per_step]


def train_batch(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[int],
    learning_rate: float,
    options: TrainOptions,
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


def _given(value: float | None) -> float:
    assert value is not None  # `SelfFeedbackConfig.resolved` sees to it
    return value
