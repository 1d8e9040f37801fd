"""Rollouts and statistics of given completions, for tests of what is said of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlif.answers.matching import GoldAnswer
from rlif.rollouts.rollout import Rollout
from rlif_kernels import TokenStats, token_stats
from tiny_models import make_tokenizer

TOKENIZER = make_tokenizer()
VOCAB_SIZE = len(TOKENIZER)


def make_rollout(
    texts: Sequence[str], *, answer: GoldAnswer | None = "2", num_generations: int | None = None
) -> Rollout:
    """A rollout of these completions, each with an EOS, for prompts "1+1=" with the same gold answer."""
    ids = [TOKENIZER(text)["input_ids"] + [TOKENIZER.eos_token_id] for text in texts]
    mask = torch.arange(max(map(len, ids))) < torch.tensor([len(row) for row in ids])[:, None]
    tokens = torch.cat([torch.tensor(row) for row in ids])
    return Rollout(
        prompts=["1+1="] * len(texts),
        answers=[answer] * len(texts),
        texts=TOKENIZER.batch_decode(ids, skip_special_tokens=True),
        prompt_ids=torch.zeros(len(texts), 1, dtype=torch.long),
        prompt_mask=torch.ones(len(texts), 1, dtype=torch.bool),
        completion_ids=torch.zeros(mask.shape, dtype=torch.long).masked_scatter(mask, tokens),
        completion_mask=mask,
        finished=torch.ones(len(texts), dtype=torch.bool),
        num_generations=num_generations or len(texts),
    )


def make_stats(rollout: Rollout, outputs: tuple[str, ...] = TokenStats._fields) -> tuple[Tensor, TokenStats]:
    """Random logits for the rollout, and their statistics."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(*rollout.completion_ids.shape, VOCAB_SIZE, generator=generator)
    logits.requires_grad_()
    return logits, token_stats(logits, rollout.completion_ids, mask=rollout.completion_mask, outputs=outputs)
