"""Completions that branch begin with the most likely first tokens, one each."""

from __future__ import annotations

import pytest
import torch

from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from tiny_models import EOS


def branches(language_model: LanguageModel, count: int, temperature: float, length: int = 5) -> list[list[int]]:
    prompt = EncodedPrompt("", None, language_model.tokenizer("12+3=")["input_ids"])
    rollout = sample(
        language_model, [prompt, prompt], num_generations=count, max_completion_length=length, temperature=temperature,
        seeds=[(0, 0), (0, 1)], branch=True,
    )  # fmt: skip
    rows = zip(rollout.completion_ids.tolist(), rollout.lengths()[1], strict=True)
    return [ids[:length] for ids, length in rows]


def test_branches_begin_with_the_most_likely_tokens_and_go_on_greedily(language_model: LanguageModel) -> None:
    ids = language_model.tokenizer("12+3=")["input_ids"]
    found = branches(language_model, 4, 0.0)
    with torch.no_grad():
        logits = language_model.model(input_ids=torch.tensor([ids])).logits[0, -1]
    expected = [token for token in logits.argsort(descending=True).tolist() if token != EOS][:4]
    assert [row[0] for row in found] == expected * 2  # of both prompts
    for row in found[:4]:
        begun = torch.tensor([[*ids, row[0]]])
        rest = language_model.model.generate(begun, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert row[1:] == rest[0, begun.shape[1] :].tolist()


def test_branches_go_on_by_sampling_where_that_is_asked_for(language_model: LanguageModel) -> None:
    found = branches(language_model, 4, 1.5)
    assert [row[0] for row in found[:4]] == [row[0] for row in found[4:]]  # the same prompt
    assert [row[1:] for row in found[:4]] != [row[1:] for row in found[4:]]  # another seed


def test_every_token_but_the_end_can_begin_a_branch_and_no_more(language_model: LanguageModel) -> None:
    vocab_size = language_model.model.config.vocab_size
    found = branches(language_model, vocab_size - 1, 0.0, length=1)
    assert {row[0] for row in found} == set(range(vocab_size)) - {EOS}
    with pytest.raises(
        UserError, match=f"num_generations: got {vocab_size} branches, expected at most {vocab_size - 1}"
    ):
        branches(language_model, vocab_size, 0.0)
