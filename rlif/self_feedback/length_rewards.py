"""What a learned reward says of completions under their prompts, and under prompts with a length instruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rlif.errors import UserError
from rlif.files.directories import is_whole
from rlif.files.fingerprint import fingerprint
from rlif.files.jsonl import Row
from rlif.metrics.bootstrap import Floats
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.reward_model import load_reward_model
from rlif.scoring.scorer import make_scorer
from rlif.scoring.sequences import Ids
from rlif.self_feedback.length_prompts import Instruction, check_instructed, prompt_encoder, with_instruction
from rlif.self_feedback.options import SelfFeedbackConfig
from rlif.self_feedback.reference_logprobs import kept_numbers, reference_logprobs
from rlif.self_feedback.train import FOLDERS
from rlif.training.checkpoint import model_fingerprint

Sequences = list[tuple[Ids, Ids]]


def instructed_sequences(
    rows: Sequence[Row],
    instructions: Sequence[tuple[Instruction, ...]],
    language_model: LanguageModel,
    config: SelfFeedbackConfig,
) -> Sequences:
    """Return each completion under its prompt, and then under the prompt with each of its instructions.

    Args:
        rows: of samples.jsonl.
        instructions: of each completion, prompt by prompt.
        language_model: that reads them.
        config: resolved.

    Raises:
        UserError: an instruction cannot be written into a prompt, or leaves no room for the completion.
    """
    assert config.length.length_instructions is not None
    encode = prompt_encoder(language_model, config, sampled=True)
    sequences: Sequences = []
    of_completions = iter(instructions)
    for row in rows:
        known: dict[Instruction, Ids] = {}
        for completion in row["completions"]:
            ids = completion["ids"]
            sequences.append((row["prompt_ids"], ids))
            for each in next(of_completions):
                if each not in known:
                    content = with_instruction(row["prompt"], each, config.length.length_instructions)
                    known[each] = encode(content, f"eval_data: prompt {row['index'] + 1} with an instruction")
                where = f"prompt {row['index'] + 1} of eval_data, with an instruction of n or {each.direction},"
                check_instructed(row["prompt_ids"], known[each], len(ids), language_model, where)
                sequences.append((known[each], ids))
    return sequences


def learned_model(config: SelfFeedbackConfig) -> str:
    """Return where the model or the reward model is that `train` made, or that the options name.

    Raises:
        UserError: there is none.
    """
    folder = config.output_dir / FOLDERS[config.train.objective]
    if config.tuned_model is None and not is_whole(folder):
        raise UserError(f"tuned_model: got none, and {folder} does not exist; expected `train` to have run")
    return config.tuned_model or str(folder)


def learned_rewards(config: SelfFeedbackConfig, start: LanguageModel, tuned: str, sequences: Sequences) -> Floats:
    """Compute the reward of each sequence: a reward model's, or log pi_tuned - log pi_start in nats, DPO's over beta.

    What is computed is kept in output_dir/length, and an interrupted computation goes on from there.

    Args:
        config: resolved.
        start: the start model.
        tuned: a directory, of a reward model or of the tuned model as the objective has it.
        sequences: N pairs of prompt and completion.

    Returns:
        (N,).
    """
    if config.train.objective == "reward_model":
        reward_model = load_reward_model(
            tuned, device=start.device, dtype=getattr(torch, config.dtype), pad_token_id=start.pad_token_id
        )

        def rewards(prompts: list[Ids], completions: list[Ids]) -> list[list[float]]:
            return reward_model.rewards(prompts, completions).unsqueeze(1).tolist()

        place = _kept_in(config, reward_model.model, sequences)
        return np.array(kept_numbers(rewards, start, sequences, title="Rewards", **place))[:, 0]

    def logprobs(language_model: LanguageModel, title: str) -> Floats:
        scorer, place = make_scorer(language_model.model, config), _kept_in(config, language_model.model, sequences)
        return np.array(reference_logprobs(scorer, language_model, sequences, title=title, **place))[:, 0]

    before = logprobs(start, "Log-probabilities of the start model")
    return logprobs(load_with_options(config, tuned), "Log-probabilities of the tuned model") - before


def _kept_in(config: SelfFeedbackConfig, model: PreTrainedModel, sequences: Sequences) -> dict[str, Any]:
    """Say where a model's numbers are kept: another model's, and those of other completions, stand elsewhere."""
    origin = {"model": model_fingerprint(model)[:16], "completions": fingerprint(sequences)[:16]}
    return {
        "path": config.output_dir / "length" / f"reference_logprobs-{fingerprint([origin])[:16]}.jsonl",
        "settings": origin,
        "max_tokens_per_forward": config.max_tokens_per_forward,
    }
