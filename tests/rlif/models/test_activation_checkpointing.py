"""Checkpointed layers compute their activations again, and the same ones."""

from __future__ import annotations

import torch
from transformers import OPTConfig, OPTForCausalLM

from rlif.models.activation_checkpointing import enable_checkpointing
from rlif.models.fused_head import fused_head
from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import Scorer
from tiny_models import CHARACTERS, frozen_start_model


def test_dropout_stays_off_while_layers_are_checkpointed() -> None:
    # OPT's layers apply a dropout of their own, in training mode, besides those of modules inside them.
    sizes = dict(
        vocab_size=3 + len(CHARACTERS), hidden_size=32, ffn_dim=48, num_hidden_layers=2, word_embed_proj_dim=32
    )
    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig(**sizes, num_attention_heads=4, dropout=0.5, pad_token_id=0)).eval()
    head, ids = fused_head(model), torch.zeros(2, 3, dtype=torch.long)
    rollout = Rollout([""] * 2, [None] * 2, [""] * 2, ids, ids == 0, ids, ids == 0, torch.ones(2) > 0, 2)
    expected = Scorer(model, head)(rollout, 1.0).logprob
    enable_checkpointing(model)
    logprob = Scorer(model, head)(rollout, 1.0).logprob
    assert torch.equal(logprob, expected)
    logprob.sum().backward()
    assert frozen_start_model(model).logprob(rollout, 1.0).equal(expected.detach())
