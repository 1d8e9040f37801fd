"""A reward model: a causal language model's backbone with a scalar head, as transformers' sequence classifiers have it.

The directory that it is saved in loads with AutoModelForSequenceClassification, as TRL's reward models do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from rlif.errors import UserError
from rlif.models.language_model import positions
from rlif.models.loading import loading, path_or_id


@dataclass(frozen=True)
class RewardModel:
    """Scores a completion where transformers reads a sequence classifier: at its last token other than padding.

    Where a tokenizer has no padding token and the end token stands for it, that is the token before the end.
    """

    model: PreTrainedModel
    pad_token_id: int
    """That of the model's configuration."""

    def rewards(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        """Reward each completion: (N,) float32, differentiable.

        Args:
            prompts: N lists of token ids.
            completions: N lists of at least one token id.
        """
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        length, device = max(map(len, rows)), self.model.device
        input_ids = torch.tensor([row + [self.pad_token_id] * (length - len(row)) for row in rows], device=device)
        mask = torch.tensor([[t < len(row) for t in range(length)] for row in rows], device=device)
        hidden = self.model.base_model(
            input_ids=input_ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
        ).last_hidden_state
        places = torch.arange(length, device=device)
        read = (places * (mask & (input_ids != self.pad_token_id))).argmax(dim=1)
        last = hidden[torch.arange(len(rows), device=device), read]
        return self.model.score(last).squeeze(-1).float()


def load_reward_model(
    name: str, *, device: torch.device, dtype: torch.dtype, pad_token_id: int, new_head: bool = False
) -> RewardModel:
    """Load a reward model, or begin one from a causal language model.

    Args:
        name: directory or hub id.
        device: to load it to.
        dtype: of its weights.
        pad_token_id: fills rows up and is never attended to, where the model's configuration has none; a model that
            has one was trained to be read before it.
        new_head: whether the head may be missing; it is then drawn at random.

    Raises:
        UserError: it cannot be loaded, or is no model with one score for a whole sequence.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a table of missing weights is printed otherwise, where a new head is meant
    try:
        with loading("reward_model", name):
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path_or_id(name),
                num_labels=1,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(key for key in info["missing_keys"] if not (new_head and key.startswith("score.")))
    if missing:
        raise UserError(
            f"reward_model: {name} lacks {', '.join(missing[:3])}, which would be random; expected all weights"
        )
    if not hasattr(model, "score"):
        raise UserError(f"reward_model: {name} is a {type(model).__name__}, expected one with a linear `score` head")
    config = model.config.get_text_config()
    if new_head or config.pad_token_id is None:
        config.pad_token_id = pad_token_id
    return RewardModel(model.to(device).eval(), config.pad_token_id)
