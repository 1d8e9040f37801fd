"""Learn from collected turns by reward-weighted regression: the loss of an attempt is exp(reward / tau) times its NLL.

Its context, the prompt with the attempts before it, has no part in the loss. The weights are not normalised, as in the
code of arXiv 2407.18219.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from rlif.errors import UserError
from rlif.files.fingerprint import fingerprint
from rlif.files.jsonl import Row
from rlif.introspection.options import IntrospectConfig, Keep
from rlif.models.activation_checkpointing import enable_checkpointing
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.lora import policy_to_train
from rlif.options.fields import options_of
from rlif.options.groups import LoraOptions, OptimizerOptions
from rlif.scoring.scorer import Scorer, make_scorer
from rlif.scoring.sequences import Ids, as_rollout
from rlif.training.checkpoint import model_fingerprint
from rlif.training.items import ItemTraining, StepLoss, train_items

# Beside a trained model: what it was trained by and on.
ORIGIN_FILE = "introspection.json"
# An attempt that repeats a word more often, or has a longer one, has lost its way: the bounds are of the paper's code.
MAX_REPEATS, MAX_WORD_LENGTH = 150, 300


@dataclass(frozen=True)
class Attempt:
    """One attempt to learn from."""

    prompt_ids: Ids
    """Its context."""
    ids: Ids
    weight: float
    """exp(reward / tau)."""


def attempts_to_learn(rows: Iterable[Row], keep: Keep, tau: float) -> list[Attempt]:
    """Choose among collected turns, of all iterations, what is learned from; nothing twice.

    Raises:
        UserError: nothing is left, or a weight is beyond every number.
    """
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], Attempt] = {}
    for row in rows:
        before: list[float] = []
        for turn in row["turns"]:
            reward = turn["reward"]
            if _is_kept(reward, before, keep) and not _is_degenerate(turn["text"]):
                key = tuple(turn["prompt_ids"]), tuple(turn["ids"])
                found.setdefault(key, Attempt(turn["prompt_ids"], turn["ids"], _weight(reward, tau)))
            before.append(reward)
    if not found:
        raise UserError(f"keep: got {keep!r}, by which no attempt is left to learn from; expected other data, or more")
    return list(found.values())


def _is_kept(reward: float, before: Sequence[float], keep: Keep) -> bool:
    if keep == "success":
        return reward == 1
    if keep == "better":
        return not before or reward > before[-1]
    return keep == "all" or all(reward >= each for each in before)


def _is_degenerate(text: str) -> bool:
    words = Counter(text.split())
    return not words or max(words.values()) > MAX_REPEATS or max(map(len, words)) > MAX_WORD_LENGTH


def _weight(reward: float, tau: float) -> float:
    try:
        return math.exp(reward / tau)
    except OverflowError as error:
        raise UserError(f"tau: got {tau:g}, with which exp({reward:g} / tau) is no number; expected more") from error


@dataclass(frozen=True)
class RewardWeightedRegression:
    """The mean NLL of an attempt's tokens times its weight."""

    scorer: Scorer
    language_model: LanguageModel
    attempts: Sequence[Attempt]

    @property
    def module(self) -> Scorer:
        """See `rlif.training.items.Objective`."""
        return self.scorer

    def sequences(self, row: int) -> list[tuple[Ids, Ids]]:
        """See `rlif.training.items.Objective`."""
        return [(self.attempts[row].prompt_ids, self.attempts[row].ids)]

    def __call__(self, rows: Sequence[int]) -> StepLoss:
        """See `rlif.training.items.Objective`."""
        attempts = [self.attempts[row] for row in rows]
        rollout = as_rollout(
            self.language_model, [each.prompt_ids for each in attempts], [each.ids for each in attempts]
        )
        logprob = self.scorer(rollout, 1.0, outputs=("logprob",)).logprob
        nll = -logprob.sum(dim=1) / rollout.completion_mask.sum(dim=1)  # the sum has zeros outside the mask
        weight = torch.tensor([each.weight for each in attempts], device=nll.device)
        return StepLoss(nll * weight, {"nll": nll.detach(), "weight": weight})


def learn(config: IntrospectConfig, rows: Iterable[Row], directory: Path, final: Path) -> list[Row]:
    """Train the start model on everything that was collected, and leave the model, or its adapter, in `final`.

    Args:
        config: how.
        rows: of all iterations.
        directory: of metrics.jsonl and, while it goes on, a checkpoint.
        final: where to.

    Returns:
        The rows of metrics.jsonl, per step: loss, nll (of a token, in nats), weight, grad_norm, learning_rate.

    Raises:
        UserError: see `train_items`.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint is saved.
    """
    attempts = attempts_to_learn(rows, config.keep, config.tau)
    start = load_with_options(config, config.model)
    names = [*options_of(OptimizerOptions), *options_of(LoraOptions), "num_train_epochs", "items_per_step", "tau"]
    settings = {name: getattr(config, name) for name in names if name != "gradient_checkpointing"} | {
        "model": model_fingerprint(start.model)[:16],
        "attempts": fingerprint(map(dataclasses.astuple, attempts))[:16],
        "seed": config.seed,
    }
    training = ItemTraining(
        config,
        num_items=len(attempts),
        items_per_step=config.items_per_step,
        num_epochs=config.num_train_epochs,
        save_steps=config.save_steps,
        seed=config.seed,
        dtype=config.dtype,
        max_tokens_per_forward=config.max_tokens_per_forward,
        settings=settings,
        directory=directory,
        final=final,
        origin_file=ORIGIN_FILE,
    )

    def make(checkpoint: Path | None) -> tuple[RewardWeightedRegression, Callable[[Path], None]]:
        policy = policy_to_train(start, config, checkpoint, partial(load_with_options, config), seed=config.seed)
        if config.gradient_checkpointing:
            enable_checkpointing(policy.model)
        return RewardWeightedRegression(make_scorer(policy.model, config), policy, attempts), policy.save

    return train_items(training, make)
