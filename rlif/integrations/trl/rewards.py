"""rlif's rewards as reward functions of TRL, for GRPOTrainer and RLOOTrainer as they are."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import pad

from rlif.answers.extract import AnswerStyle
from rlif.answers.gold import gold_answer
from rlif.answers.matching import GoldAnswer
from rlif.answers.math_verification import limited_cost
from rlif.data.tables import NARROW
from rlif.errors import UserError
from rlif.integrations.trl.fused import FusedTokenStats
from rlif.rewards import REWARDS, RewardFunction
from rlif.rewards.interface import INPUTS, Reward, describe_reward
from rlif.rewards.mixture import call, reward_inputs
from rlif.rollouts.rollout import Rollout
from rlif_kernels import TokenStats, token_stats

# What a reward may name and still be computed of texts that other processes sampled.
OF_TEXTS = {"prompts", "completions", "stated", "answers", "num_generations", "step", "seed"}
# What it may name and need a second tokenization for, where the trainer keeps no prompts' ids.
READ_PROMPT_IDS = {"prompt_ids", "prompt_mask"}


class TRLReward:
    """A reward of rlif that TRL calls like any reward function. Made by `trl_reward`.

    Attributes:
        reward: its function, and what that reads.
        answer_column: of the dataset, with the gold answers.
        answer_style: where the answers of completions are looked for. None: in prose too if prompts are conversations.
    """

    def __init__(self, reward: Reward, answer_column: str = "answer", answer_style: AnswerStyle | None = None) -> None:
        self.reward = reward
        self.answer_column = answer_column
        self.answer_style = answer_style
        self.__name__ = reward.name  # of TRL's metrics rewards/NAME/mean and rewards/NAME/std
        self._fused: FusedTokenStats | None = None

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        **columns: Any,
    ) -> list[float | None]:
        """One number for each completion, by TRL's convention: None where the reward needs a gold answer and has none.

        Raises:
            UserError: no column of gold answers where the reward needs them, one that is none, or a value that is not a
                finite number.
        """
        trainer = calling_trainer(columns)
        rollout = getattr(trainer, "scored_rollout", None)  # RLIFTrainer has one for all rewards
        if rollout is None:
            rollout = self._own_rollout(trainer, prompts, completion_ids)
        if self.answer_style is not None:
            rollout = replace(rollout, answer_style=self.answer_style)
        inputs = reward_inputs(
            rollout.stats or TokenStats(),
            rollout,
            tokenizer=trainer._tokenizer,
            step=trainer.state.global_step + 1,
            seed=trainer.args.seed,
        )
        inputs["answers"] = answers = self._answers(columns, len(prompts), trainer.train_dataset)
        names, own = rollout.prompts, slice(None)
        if self._splits_groups(trainer, len(prompts)):
            for name in ("prompts", "completions", "stated", "answers"):
                inputs[name] = gather_object(inputs[name])
            names = inputs["prompts"]
            start = trainer.accelerator.process_index * len(prompts)
            own = slice(start, start + len(prompts))
        with limited_cost():
            values = call(self.reward, inputs, names)[own].tolist()
        if self.reward.needs_answers:
            values = [math.nan if gold is None else value for value, gold in zip(values, answers, strict=True)]
        # None is how TRL's trainers are told that a reward does not apply.
        return [None if math.isnan(value) else value for value in values]

    def _own_rollout(self, trainer: Any, prompts: list[Any], completion_ids: list[list[int]]) -> Rollout:
        """Collect the completions, and the statistics that the reward reads by a forward of its own."""
        if self.reward.outputs and not isinstance(trainer, GRPOTrainer):
            raise UserError(f"reward {self.reward.name}: got a {type(trainer).__name__}, expected a GRPOTrainer")
        if getattr(trainer, "tools", None):
            raise UserError(f"reward {self.reward.name}: got a trainer with tools, expected RLIFTrainer for these")
        if READ_PROMPT_IDS.isdisjoint(self.reward.arguments(INPUTS)) and not self.reward.outputs:
            return rollout_of(trainer, prompts, [[]] * len(prompts), completion_ids)
        prompt_ids, images, _ = trainer._tokenize_prompts(prompts)
        if images is not None:
            raise UserError(f"reward {self.reward.name}: got prompts with images, expected RLIFTrainer for these")
        if not self.reward.outputs:
            return rollout_of(trainer, prompts, prompt_ids, completion_ids)
        rollout = rollout_of(trainer, prompts, prompt_ids, completion_ids)
        fused = getattr(trainer, "fused_token_stats", None)
        if fused is not None and fused.active:
            return with_stats(rollout, forward_stats(trainer, fused, rollout, self.reward.outputs))
        if self._fused is None or self._fused.trainer is not trainer:
            self._fused = FusedTokenStats(trainer, optional=True)
        with self._fused:
            return with_stats(rollout, forward_stats(trainer, self._fused, rollout, self.reward.outputs))

    def _answers(self, columns: dict[str, Any], count: int, dataset: Any) -> list[GoldAnswer | None]:
        gold = columns.get(self.answer_column)
        if gold is None and self.reward.needs_answers:
            raise UserError(
                f"reward {self.reward.name}: got no column {self.answer_column!r} of gold answers from the dataset, "
                f"expected one; answer_column names it"
            )
        if gold is None:
            return [None] * count
        try:
            values = as_stored(gold, dataset, self.answer_column)
            return list(gold_answers(values, f"{self.answer_column}, row {{}} of the batch"))
        except UserError:
            # A column of that name may hold anything where nobody asks for answers.
            if self.reward.reads_answers:
                raise
            return [None] * count

    def _splits_groups(self, trainer: Any, count: int) -> bool:
        """Tell whether the reward compares the completions of a group, and this process holds only a part of some."""
        named = inspect.signature(self.reward.function).parameters
        if "num_generations" not in named or count % num_generations(trainer) == 0:
            return False
        if not OF_TEXTS.issuperset(named):
            raise UserError(
                f"per_device_train_batch_size: got {count} completions a process and {num_generations(trainer)} of a "
                f"prompt, expected whole groups, since the reward {self.reward.name} needs them"
            )
        return True


def trl_reward(
    reward: str | RewardFunction, *, answer_column: str = "answer", answer_style: AnswerStyle | None = None
) -> TRLReward:
    """Make a reward function for TRL's `reward_funcs` of one of rlif's rewards.

    Confidence rewards are those of the policy that is being trained, by one forward without gradient through the
    fused head each time that TRL asks; `RLIFTrainer` spares that. The forward is TRL's own, which counts padding
    among the positions: models with learned absolute positions (GPT-2) see padded prompts elsewhere than `generate`
    puts them. All rewards see the completions as the policy drew them: a trainer with tools is refused, and so are
    images in the prompts where a reward reads their ids or any statistics.

    Args:
        reward: a name of `rlif.rewards.REWARDS`, or a function as rlif's loop takes it, marked by `rlif.rewards.uses`.
        answer_column: of the dataset, with the gold answers, for the rewards that need them.
        answer_style: where the answers of completions are looked for: "strict" or "lenient" (`rlif.answers.extract`).
            None: lenient if prompts are conversations.

    Raises:
        UserError: there is no such reward.
    """
    if isinstance(reward, str):
        if reward not in REWARDS:
            near = difflib.get_close_matches(reward, REWARDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"reward: got {reward!r}, expected one of {', '.join(REWARDS)}{hint}")
        return TRLReward(describe_reward(reward, REWARDS[reward], 1.0), answer_column, answer_style)
    return TRLReward(
        describe_reward(getattr(reward, "__name__", type(reward).__name__), reward, 1.0), answer_column, answer_style
    )


def calling_trainer(columns: dict[str, Any]) -> Any:
    """Return the trainer that calls a reward function, by the bound method that it hands to it.

    Raises:
        UserError: nobody who calls is a trainer.
    """
    trainer = getattr(columns.get("log_metric"), "__self__", None)
    if trainer is None:
        raise UserError("trl_reward: got a call without `log_metric`, expected to be called by a trainer of TRL")
    return trainer


def num_generations(trainer: Any) -> int:
    """Return the number of completions of each prompt in what the trainer is just doing, training or evaluation."""
    return int(trainer.num_generations if trainer.model.training else trainer.num_generations_eval)


def gold_answers(values: Iterable[object], place: str) -> Iterator[GoldAnswer | None]:
    """Yield a dataset's gold answers as rlif compares them.

    Args:
        values: of the rows, None for a row without one.
        place: of an answer, with {} for the number of its row, from 1.

    Raises:
        UserError: one is of a type that is no answer, which it names (`rlif.answers.gold`).
    """
    for row, value in enumerate(values, start=1):
        try:
            yield gold_answer(value)
        except TypeError as error:
            raise UserError(f"{place.format(row)}: {error}") from error


def as_stored(values: Iterable[object], dataset: Any, column: str) -> Iterable[object]:
    """Give a column's values the width back that they have in the dataset.

    `datasets` hands a float32 over as a Python float, which writes 0.1 as 0.10000000149011612.
    """
    feature = (getattr(dataset, "features", None) or {}).get(column)
    kind = NARROW.get(getattr(getattr(feature, "feature", feature), "dtype", ""))  # of a list its items
    return values if kind is None else [_narrowed(each, kind) for each in values]


def _narrowed(value: object, kind: type[object]) -> object:
    """A float, or a list of them, in its own width; what is of another type, as an evaluation's may be, as it is."""
    items = value if isinstance(value, list) else [value]
    is_narrow = value is not None and all(isinstance(item, float | None) for item in items)
    return np.asarray(value, kind) if is_narrow else value


def check_answers(dataset: Any, column: str, reward: str, argument: str) -> None:
    """Check before any work that a dataset has gold answers; of one that is streamed, that it has their column.

    The rows of a column are of one type, so the first that has an answer tells.

    Raises:
        UserError: it has no such column, no answer in it, or something else.
    """
    if isinstance(dataset, dict):  # TRL takes several to evaluate on
        for name, each in dataset.items():
            check_answers(each, column, reward, f"{argument}[{name!r}]")
        return
    columns = getattr(dataset, "column_names", None)
    if columns is not None and column not in columns:
        raise UserError(
            f"answer_column: got {column!r}, expected a column of {argument} with gold answers for {reward}; it has "
            f"{', '.join(columns)}"
        )
    if isinstance(dataset, Dataset):
        answers = gold_answers(dataset[column], f"{column}, row {{}} of {argument}")
        if not any(answer is not None for answer in answers):
            raise UserError(f"{column}: got no gold answer in {argument}, expected some for {reward}")


def style_of(prompts: Sequence[Any]) -> AnswerStyle:
    """Where the answers to a trainer's prompts are looked for: in prose too if some are conversations."""
    return "strict" if all(isinstance(prompt, str) for prompt in prompts) else "lenient"


def rollout_of(
    trainer: Any, prompts: Sequence[Any], prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]
) -> Rollout:
    """N completions in the form in which rlif's rewards see them, answers and statistics left out."""
    device, padding = trainer.accelerator.device, trainer._tokenizer.pad_token_id
    ids, mask = _padded(prompt_ids, padding, "left", device)
    drawn, drawn_mask = _padded(completion_ids, padding, "right", device)
    ends = [row[-1] in trainer.eos_token_ids if row else False for row in completion_ids]
    return Rollout(
        prompts=[prompt if isinstance(prompt, str) else str(prompt) for prompt in prompts],
        answers=[None] * len(prompts),
        texts=trainer._tokenizer.batch_decode([list(row) for row in completion_ids], skip_special_tokens=True),
        prompt_ids=ids,
        prompt_mask=mask,
        completion_ids=drawn,
        completion_mask=drawn_mask,
        finished=torch.tensor(ends, device=device),
        num_generations=num_generations(trainer),
        answer_style=style_of(prompts),
    )


def forward_stats(trainer: Any, fused: FusedTokenStats, rollout: Rollout, outputs: tuple[str, ...]) -> TokenStats:
    """Compute the policy's statistics of a rollout by a forward without gradient: (N, T) fields, 0 outside the mask."""
    training = trainer.model.training
    args = trainer.args
    rows = args.per_device_train_batch_size if training else args.per_device_eval_batch_size
    if fused.unfit is not None:
        return _stats_of_logits(trainer, rollout, outputs, rows)
    with (
        torch.no_grad(),
        disable_gradient_checkpointing(trainer.model, args.gradient_checkpointing_kwargs),
        fused.recording(outputs) as recorded,
    ):
        trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([rollout.prompt_ids, rollout.completion_ids], dim=1),
            torch.cat([rollout.prompt_mask, rollout.completion_mask], dim=1).long(),
            rollout.completion_ids.shape[1],
            batch_size=rows,
        )
    return joined(recorded, rollout.completion_ids.shape[1])


def _stats_of_logits(trainer: Any, rollout: Rollout, outputs: tuple[str, ...], batch_size: int) -> TokenStats:
    """Compute the same from the model's own logits, of `batch_size` completions at a time."""
    ids = torch.cat([rollout.prompt_ids, rollout.completion_ids], dim=1)
    mask = torch.cat([rollout.prompt_mask, rollout.completion_mask], dim=1).long()
    length = rollout.completion_ids.shape[1]
    parts = []
    with (
        torch.no_grad(),
        disable_gradient_checkpointing(trainer.model, trainer.args.gradient_checkpointing_kwargs),
        trainer.accelerator.autocast(),
    ):
        for start in range(0, len(ids), batch_size):
            rows = slice(start, start + batch_size)
            logits = trainer.model(input_ids=ids[rows], attention_mask=mask[rows]).logits[:, -length - 1 : -1]
            parts.append(
                token_stats(
                    logits.float() if logits.dtype == torch.float64 else logits,
                    rollout.completion_ids[rows],
                    mask=rollout.completion_mask[rows],
                    temperature=float(trainer.temperature),
                    outputs=outputs,
                )
            )
    return joined(parts, length)


def joined(parts: Sequence[TokenStats], length: int) -> TokenStats:
    """Join (B, S - 1) statistics of whole sequences, one after the other, as (N, length) ones of the completions."""
    fields = zip(*parts, strict=True)
    return TokenStats(*(None if field[0] is None else torch.cat(field)[:, -length:] for field in fields))


def with_stats(rollout: Rollout, stats: TokenStats) -> Rollout:
    """Return the rollout with its statistics."""
    return replace(rollout, stats=stats)


def _padded(rows: Sequence[Sequence[int]], value: int, side: str, device: torch.device) -> tuple[Tensor, Tensor]:
    tensors = [torch.tensor(list(row), dtype=torch.long) for row in rows]
    ids = pad(tensors, padding_value=value, padding_side=side)
    mask = pad([torch.ones_like(row) for row in tensors], padding_value=0, padding_side=side)
    return ids.to(device), mask.bool().to(device)
