"""The score of a reward model, which was trained on preferences: `--reward reward_model:DIRECTORY`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlif.errors import UserError
from rlif.models.reward_model import RewardModel, load_reward_model
from rlif.rewards.registry import REWARD_MODEL
from rlif.rollouts.microbatches import pack

# Of one forward of the reward model, padding included: as many as the loop's own forwards have unless told otherwise.
MAX_TOKENS = 8192


class LearnedReward:
    """A reward function that asks a reward model; it is loaded when the first completion comes."""

    outputs: tuple[str, ...] = ()
    needs_answers = False

    def __init__(self, directory: str) -> None:
        """`directory` is one that `rlif self-feedback train --objective reward_model` or transformers wrote.

        Raises:
            UserError: there is no model in it.
        """
        if not (Path(directory).expanduser() / "config.json").is_file():
            raise UserError(f"reward: got {REWARD_MODEL}{directory}, expected the directory of a saved reward model")
        self.directory = directory
        self.model: RewardModel | None = None

    def __call__(
        self,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Tensor:
        """(n,) float32: the model's score of each completion, where transformers reads it.

        Raises:
            UserError: the model cannot be loaded, or knows fewer tokens than the policy.
        """
        if self.model is None:
            pad = tokenizer.pad_token_id or 0
            self.model = load_reward_model(
                self.directory, device=completion_ids.device, dtype=torch.float32, pad_token_id=pad
            )
        largest = int(max(prompt_ids.max(), completion_ids.max()))
        known = self.model.model.get_input_embeddings().num_embeddings
        if largest >= known:
            raise UserError(
                f"reward: the reward model in {self.directory} knows {known} tokens, but the policy has token "
                f"{largest}; expected one that was trained from a model with the policy's tokenizer"
            )
        prompts = [ids[mask].tolist() for ids, mask in zip(prompt_ids, prompt_mask, strict=True)]
        completions = [ids[mask].tolist() for ids, mask in zip(completion_ids, completion_mask, strict=True)]
        rows = [[row] for row in range(len(prompts))]
        rewards = torch.zeros(len(prompts), device=completion_ids.device)
        for part in pack(rows, [len(ids) for ids in prompts], [len(ids) for ids in completions], MAX_TOKENS):
            rewards[part] = self.model.rewards([prompts[row] for row in part], [completions[row] for row in part])
        return rewards
