"""Every completion token is scored by the distribution that it was drawn from, not by the one before or after."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlif.data.prompts import Prompt
from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel
from rlif.rollouts import sample as sample_module
from rlif.rollouts.encode import encode_prompts, pad_left
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import Scorer
from rlif_kernels import TokenStats
from tiny_models import EOS

VOCABULARY = 11


class TableModel(nn.Module):
    """A model that anyone can work out: the logits at position p of token x are `table[p, x]`, whatever came before."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.randn(12, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
        self.table = nn.Parameter(table)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, use_cache: bool, logits_to_keep: int
    ) -> SimpleNamespace:
        assert not use_cache
        return SimpleNamespace(logits=self.table[position_ids, input_ids][:, -logits_to_keep:])


def make_rollout(prompts: list[list[int]], completions: list[list[int]]) -> Rollout:
    prompt_ids, prompt_mask = pad_left(prompts, 0, torch.device("cpu"))
    length = max(map(len, completions))
    return Rollout(
        prompts=["" for _ in prompts],
        answers=[None for _ in prompts],
        texts=["" for _ in prompts],
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        completion_ids=torch.tensor([ids + [0] * (length - len(ids)) for ids in completions]),
        completion_mask=torch.tensor([[t < len(ids) for t in range(length)] for ids in completions]),
        finished=torch.ones(len(prompts), dtype=torch.bool),
        num_generations=len(prompts),
    )


def test_token_i_is_scored_by_the_position_before_it_the_first_by_the_end_of_the_prompt() -> None:
    prompts = [[3, 1, 4], [5], [2, 6]]
    completions = [[7, 8, 1], [9, 2, 6, 10], [1]]  # the last token of each is its EOS; the third is nothing else
    rollout, model, temperature = make_rollout(prompts, completions), TableModel(), 0.7
    stats = Scorer(model, None)(rollout, temperature)  # type: ignore[arg-type]
    assert stats.logprob is not None
    assert stats.entropy is not None
    assert stats.self_certainty is not None
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        text = prompt + completion
        for i in range(4):
            values = [field[row, i].item() for field in (stats.logprob, stats.entropy, stats.self_certainty)]
            if i >= len(completion):
                assert values == [0.0, 0.0, 0.0]
                continue
            position = len(prompt) + i - 1
            log_p = (model.table[position, text[position]] / temperature).log_softmax(dim=-1)
            expected = [
                log_p[completion[i]],
                -(log_p.exp() * log_p).sum(),
                -log_p.mean() - math.log(VOCABULARY),
            ]
            # float32 sums of 11 terms of order 1
            assert values == pytest.approx([value.item() for value in expected], abs=1e-5)


def test_the_gradient_reaches_the_scoring_positions_and_no_others() -> None:
    rollout, model = make_rollout([[3, 1], [5]], [[7, 8], [9, 1, 10]]), TableModel()
    stats = Scorer(model, None)(rollout, 1.0)  # type: ignore[arg-type]
    assert stats.logprob is not None
    stats.logprob.sum().backward()
    assert model.table.grad is not None
    touched = model.table.grad.abs().sum(dim=-1).nonzero().tolist()
    assert touched == [[0, 5], [1, 1], [1, 9], [2, 1], [2, 7]]  # (position, token) that predicts each completion token


@pytest.mark.parametrize("model_dir", ["qwen3", "llama", "mistral"], indirect=True)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_equal_the_probabilities_that_sampling_used(
    language_model: LanguageModel, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    draw_tokens = sample_module.draw_tokens

    def record(logits: Tensor, temperature: float, *rest: Any) -> tuple[Tensor, TokenStats]:
        seen.append((logits / temperature).log_softmax(dim=-1))
        return draw_tokens(logits, temperature, *rest)

    monkeypatch.setattr(sample_module, "draw_tokens", record)
    language_model = replace(language_model, eos_token_ids=())
    prompts = encode_prompts(language_model, [Prompt("1+2="), Prompt("10+200="), Prompt("7")], 12)
    rollout = sample(
        language_model,
        prompts,
        num_generations=8,
        max_completion_length=12,
        temperature=temperature,
        seeds=[(0,), (1,), (2,)],
    )
    stats = Scorer(language_model.model, fused_head(language_model.model))(rollout, temperature)
    assert stats.logprob is not None
    drawn = torch.stack(seen, dim=1).gather(2, rollout.completion_ids[:, :, None]).squeeze(2)
    # Two float32 routes through two layers with activations of order 10: 1e-4 is some 100 roundings.
    torch.testing.assert_close(stats.logprob.detach(), drawn, atol=1e-4, rtol=1e-4)


def test_padding_neither_changes_the_scores_nor_the_gradients(language_model: LanguageModel) -> None:
    model = language_model.model
    prompts, completions = [[3, 4, 5, 6, 7], [8]], [[9, 10], [11, 12, 13, EOS]]

    def gradient(rollout: Rollout) -> tuple[list[Tensor], list[float]]:
        model.zero_grad()
        stats = Scorer(model, fused_head(model))(rollout, 1.0)
        assert stats.logprob is not None
        stats.logprob.sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None], stats.logprob.sum(dim=1).tolist()

    together, scores = gradient(make_rollout(prompts, completions))
    alone = [gradient(make_rollout([p], [c])) for p, c in zip(prompts, completions, strict=True)]
    assert scores == pytest.approx([score for _, (score,) in alone], abs=1e-4)
    for whole, first, second in zip(together, alone[0][0], alone[1][0], strict=True):
        # float32 gradients of order 1 to 10 that went through two layers
        torch.testing.assert_close(whole, first + second, atol=1e-3, rtol=1e-3)
