"""TRL's GRPOTrainer with rlif's rewards, scored from what the trainer computes anyway."""

from __future__ import annotations

import difflib
import logging
import os
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from trl import GRPOTrainer

from rlif.answers.extract import AnswerStyle
from rlif.errors import UserError
from rlif.integrations.trl.drawing import Drawing, NotServedError, draw, drawing_of
from rlif.integrations.trl.fused import FusedTokenStats
from rlif.integrations.trl.loss import fused_loss
from rlif.integrations.trl.rewards import (
    TRLReward,
    check_answers,
    forward_stats,
    joined,
    rollout_of,
    trl_reward,
    with_stats,
)
from rlif.integrations.trl.sampling import SamplingRecorder
from rlif.rewards import REWARDS
from rlif.rollouts.rollout import Rollout
from rlif_kernels import TokenStats

logger = logging.getLogger(__name__)

WITH_IMAGES = (
    "whose statistics neither generate nor a forward for the old log-probabilities provides; expected text, "
    "num_iterations of 2 or more, or with vLLM vllm_importance_sampling_correction"
)
StatsSource = Literal["old_logps", "sampling", "forward"]
Sampler = Literal["rlif", "transformers"]


class Drawn(NamedTuple):
    """What TRL has generated and not yet rewarded."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    tool_mask: list[list[int]] | None
    """Of each completion 1 for a token of the policy, 0 for one of a tool; None if all are the policy's."""
    has_images: bool


class RLIFTrainer(GRPOTrainer):
    """GRPOTrainer whose `reward_funcs` may name rewards of rlif, among any others that TRL takes.

    The statistics that confidence rewards read come from, in this order,

    - `old_logps`: the forward that TRL itself does before the rewards, for the ratio (num_iterations > 1, generations
      that last for several optimizer steps, vLLM with importance sampling correction);
    - `sampling`: the logits that the completions were drawn from, so that no further forward is needed;
    - `forward`: one more forward without gradient through the fused head (vLLM without that correction, continuous
      batching, tools, a rollout_func). With mask_truncated_completions TRL's own forward does not see the completions
      that were cut off, which have a reward all the same, so that it is passed over.

    Distributions are the policy's own at `args.temperature`, before top-k, top-p and penalties; the EOS counts, padding
    and what tools returned do not. Loss and gradient come from `linear_grpo_loss` where it knows TRL's options, else
    from log-probabilities and entropies by `linear_token_stats`; a model whose head is of another form than these take
    is left to TRL's own functions, which a warning says once. TRL computes its metrics itself, in each of these cases.

    Attributes:
        sampler: who draws the completions: "rlif", or "transformers" where it was asked for or rlif cannot.
        stats_source: where the last statistics came from; None before the first, and where no reward reads any.
        scored_rollout: what is being rewarded; None otherwise.
        fused_token_stats: see `use_fused_token_stats`.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: Any = None,
        *positional: Any,
        answer_column: str = "answer",
        answer_style: AnswerStyle | None = None,
        sampler: Sampler = "rlif",
        **options: Any,
    ) -> None:
        """As TRL's, and

        Args:
            reward_funcs: one, or a list or tuple, of names of `rlif.rewards.REWARDS`, functions marked by
                `rlif.rewards.uses`, and whatever TRL takes. `args.reward_weights` weighs them all.
            answer_column: of the dataset, with the gold answers, for rewards that need them.
            answer_style: where the answers of completions are looked for, "strict" or "lenient". None: lenient if
                prompts are conversations.
            sampler: "rlif" draws as `rlif train` does, each prompt computed once for its completions and each token
                from one read of the logits, by random numbers of its own. "transformers" draws as TRL does, by TRL's
                random numbers; so does "rlif" where TRL asks generate for what rlif's sampling has not
                (penalties, min-p, beams, images, a cache of another kind), or the weights are sharded.

        Raises:
            UserError: no such reward or sampler, no gold answers where a reward needs them, or weights that are sharded
                by DeepSpeed ZeRO-3.
        """
        if sampler not in get_args(Sampler):
            raise UserError(f"sampler: got {sampler!r}, expected one of {', '.join(get_args(Sampler))}")
        functions = reward_funcs if isinstance(reward_funcs, list | tuple) else [reward_funcs]
        functions = [_reward(each, answer_column, answer_style) for each in functions if each is not None]
        internal = [each.reward for each in functions if isinstance(each, TRLReward)]
        given = dict(zip(("train_dataset", "eval_dataset"), positional, strict=False)) | options
        columns = getattr(given.get("train_dataset"), "column_names", None)
        needy = [reward.name for reward in internal if reward.needs_answers]
        for argument in ("train_dataset", "eval_dataset") if needy else ():
            check_answers(given.get(argument), answer_column, needy[0], argument)
        self._stats_outputs = tuple(dict.fromkeys(field for reward in internal for field in reward.outputs))
        self.stats_source: StatsSource | None = None
        self.sampler: Sampler = sampler
        self._drawing: Drawing | None = None
        self.scored_rollout: Rollout | None = None
        self._drawn: Drawn | None = None
        self._stats: TokenStats | None = None
        super().__init__(model, functions, args, *positional, **options)
        self.fused_token_stats = FusedTokenStats(self, optional=True)
        pictured = [name for name in ("image", "images") if name in (columns or ())]
        if pictured and self._stats_outputs and self._planned_source == "forward":
            reader = next(reward.name for reward in internal if reward.outputs)
            raise UserError(
                f"reward_funcs: got the confidence reward {reader} and a column {pictured[0]}, {WITH_IMAGES}"
            )
        if self.fused_token_stats.unfit is not None and self.accelerator.is_main_process:
            logger.warning("%s", self.fused_token_stats.unfit)
        if self.beta == 0 and self._stats_outputs and self.accelerator.is_main_process:
            logger.warning(
                "beta is 0, TRL's default: without a penalty for leaving the start model, training on confidence "
                "collapses soon; try GRPOConfig(beta=0.005)"
            )

    @property
    def _planned_source(self) -> StatsSource:
        generate_every = self.args.steps_per_generation * self.num_iterations
        corrects = self.use_vllm and self.vllm_importance_sampling_correction
        # TRL's own condition for that forward.
        has_old_logps = self.args.gradient_accumulation_steps % generate_every != 0 or corrects
        if has_old_logps and self.fused_token_stats.unfit is None and not self.mask_truncated_completions:
            return "old_logps"
        is_plain = not (
            self.use_vllm or self.use_transformers_continuous_batching or self.tools or self.rollout_func is not None
        )
        return "sampling" if is_plain else "forward"

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> Any:
        outputs = self._stats_outputs if self._planned_source == "sampling" else ()
        drawing = self._drawing_of(prompt_ids) if images is None and not multimodal_fields else None
        if drawing is not None:
            completion_ids, stats = draw(self, drawing, prompt_ids, outputs)
            if outputs:
                self._stats = stats
                self._came_from("sampling")
            return completion_ids, None
        if not outputs:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        recorder = SamplingRecorder(
            self._stats_outputs,
            temperature=self.temperature,
            max_length=self.max_completion_length,
            eos_token_ids=self.eos_token_ids,
        )
        with self.fused_token_stats.listening(recorder):
            completion_ids, logprobs = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, *args, **kwargs
            )
        self._stats = recorder.stats(completion_ids)
        if self._stats is not None:
            self._came_from("sampling")
        return completion_ids, logprobs

    def _drawing_of(self, prompt_ids: list[list[int]]) -> Drawing | None:
        """Return how rlif draws the completions, or None where transformers is to; decided once for all."""
        if self.use_vllm or self.use_transformers_continuous_batching or not all(prompt_ids):
            return None
        if self._drawing is None and self.sampler == "rlif":
            try:
                self._drawing = drawing_of(self)
            except NotServedError as reason:
                self.sampler = "transformers"
                if self.accelerator.is_main_process:
                    logger.info("completions are drawn by transformers: %s", reason)
        return self._drawing

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        prompt_ids, completion_ids, tool_mask, _, _, _, images, _ = generated
        self._drawn = Drawn(prompt_ids, completion_ids, tool_mask, images is not None)
        return generated

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self._drawn = self._stats = self.scored_rollout = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        # Between generation and rewards the first call is that of the old log-probabilities, where there is one.
        is_old = self._drawn is not None and self._stats is None and self._planned_source == "old_logps"
        if not (self._stats_outputs and is_old):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        with self.fused_token_stats.recording(self._stats_outputs) as recorded:
            result = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        self._stats = joined(recorded, logits_to_keep)
        self._came_from("old_logps")
        return result

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        fused = self.fused_token_stats
        serves = torch.is_grad_enabled() and fused.active and fused.unfit is None
        loss = fused_loss(self, inputs) if serves else None
        if loss is None:
            return super()._compute_loss(model, inputs)
        found: list[Tensor] = []

        def forward(**given: Any) -> Any:
            outputs = model(**given)
            found.append(outputs.loss)
            return outputs

        with fused.learning(loss):
            value = super()._compute_loss(forward, inputs)
        # TRL's value has no gradient but that of experts' routers; the rest is of the loss that the head computed.
        return value + (found[0] - found[0].detach())

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        if any(isinstance(each, TRLReward) for each in self.reward_funcs):
            assert self._drawn is not None
            drawn = self._drawn
            rollout = rollout_of(self, prompts, drawn.prompt_ids, drawn.completion_ids)
            if self._stats_outputs:
                if not self.fused_token_stats.active:
                    names = ", ".join(self.reward_func_names)
                    raise UserError(
                        f"fused_token_stats: got what was undone, expected it in place for the rewards {names}; "
                        "GRPOTrainer with trl_reward does without"
                    )
                rollout = with_stats(rollout, self._stats_of(rollout, drawn))
            if drawn.tool_mask is not None:
                rollout = without_tools(rollout, drawn.tool_mask, self._tokenizer)
            self.scored_rollout = rollout
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _stats_of(self, rollout: Rollout, drawn: Drawn) -> TokenStats:
        if self._stats is None:
            if drawn.has_images:
                raise UserError(f"reward_funcs: got a confidence reward of prompts with images, {WITH_IMAGES}")
            self._stats = forward_stats(self, self.fused_token_stats, rollout, self._stats_outputs)
            self._came_from("forward")
        # TRL may have padded the completions to a multiple.
        length = rollout.completion_mask.shape[1]
        return TokenStats(*(None if field is None else field[:, :length] for field in self._stats))

    def _came_from(self, source: StatsSource) -> None:
        if self.stats_source != source and self.accelerator.is_main_process:
            logger.info("the statistics for confidence rewards come from: %s", source)
        self.stats_source = source


def without_tools(rollout: Rollout, tool_mask: list[list[int]], tokenizer: Any) -> Rollout:
    """Return the rollout of those tokens alone that the policy drew, side by side.

    Args:
        rollout: N completions, with the results of tools among the tokens.
        tool_mask: of each completion 1 for a token of the policy, 0 for one of a tool.
        tokenizer: that decodes them.
    """
    drawn = torch.zeros_like(rollout.completion_mask)
    for row, own in enumerate(tool_mask):
        drawn[row, : len(own)] = torch.tensor(own, dtype=torch.bool, device=drawn.device)
    drawn &= rollout.completion_mask
    order = (~drawn).long().argsort(dim=1, stable=True)
    ids, mask = rollout.completion_ids.gather(1, order), drawn.gather(1, order)
    rows = torch.arange(len(order), device=order.device)[:, None]
    stats = rollout.stats
    if stats is not None:
        fields = (None if field is None else field[rows, order] for field in stats)
        # A field of top_probs has a dimension of its own.
        stats = TokenStats(*(f if f is None else f * (mask if f.ndim == 2 else mask[..., None]) for f in fields))
    texts = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
    return replace(
        rollout,
        completion_ids=ids,
        completion_mask=mask,
        texts=tokenizer.batch_decode(texts, skip_special_tokens=True),
        stats=stats,
    )


def _reward(reward: Any, answer_column: str, answer_style: AnswerStyle | None) -> Any:
    if isinstance(reward, str):
        if reward in REWARDS:
            return trl_reward(reward, answer_column=answer_column, answer_style=answer_style)
        near = difflib.get_close_matches(reward, REWARDS, n=1)
        if near and not os.path.exists(reward):
            raise UserError(f"reward_funcs: got {reward!r}, did you mean {near[0]}? A path or hub id is a reward model")
        if ":" in reward and not os.path.exists(reward):  # as on rlif's command line
            raise UserError(
                f"reward_funcs: got {reward!r}, expected one of {', '.join(REWARDS)}, a function itself, or the path "
                "or hub id of a reward model"
            )
    elif hasattr(reward, "outputs") and hasattr(reward, "needs_answers"):  # the marks of rlif.rewards.uses
        return trl_reward(reward, answer_column=answer_column, answer_style=answer_style)
    return reward
