"""NFT is its paper's loss, and at the start model the policy gradient of the verdicts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlif.errors import UserError
from rlif.files.jsonl import Row
from rlif.models.language_model import load_language_model
from rlif.self_feedback.nft import JudgedCompletion, judged_completions, nft_loss
from rlif.self_feedback.options import RankOptions, SelfFeedbackConfig, TrainOptions
from rlif.self_feedback.train import train_model
from tiny_models import EOS

MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, True]])
POSITIVE = torch.tensor([True, False, False, True])
SHARE = torch.tensor([0.5, 0.25, 0.5, 0.75], dtype=torch.float64)


def test_the_loss_is_the_papers_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(4, 3, generator=generator, dtype=torch.float64)
    new = old + 0.8 * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    loss = nft_loss(new, old, MASK, POSITIVE, SHARE)
    clipped = 0
    for row in range(4):
        q, terms = float(SHARE[row]), []
        for t in range(int(MASK[row].sum())):
            ratio = math.exp(new[row, t]) / math.exp(old[row, t])
            if POSITIVE[row]:
                terms.append(math.log(ratio))
            else:
                implied = (1 - q * ratio) / (1 - q)
                clipped += implied < 1
                terms.append(math.log(max(1.0, implied)))
        # A few roundings of float64.
        assert float(loss[row]) == pytest.approx(-(1 - q) * sum(terms) / len(terms), abs=1e-12)
    assert clipped  # or the floor is not tested


def test_a_clipped_token_still_pushes() -> None:
    logprob = torch.full((1, 1), -0.5, requires_grad=True)
    nft_loss(
        logprob, torch.full((1, 1), -1.0), MASK[:1, :1], torch.tensor([False]), torch.tensor([0.5])
    ).sum().backward()
    assert logprob.grad is not None
    # Down, with the slope of the implied ratio, -q R / (1 - q), weighted by 1 - q, as the value is clipped to log 1.
    assert logprob.grad.item() == pytest.approx(0.5 * math.exp(0.5))


def test_at_the_start_model_it_is_the_policy_gradient_of_verdict_less_its_mean() -> None:
    old = -torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logprob = old.clone().requires_grad_()
    nft_loss(logprob, old, MASK, POSITIVE, SHARE).sum().backward()
    advantage = POSITIVE.double() - SHARE
    expected = torch.where(MASK, -advantage[:, None] / MASK.sum(dim=1, keepdim=True), 0.0)
    torch.testing.assert_close(logprob.grad, expected)


def completion(ids: list[int], confidence: float, span: list[int] | None) -> Row:
    return {
        "ids": ids,
        "finished": True,
        "answer": None,
        "span": span,
        "confidence": {"probability_disparity": confidence},
    }


def test_prompts_with_verdicts_of_both_kinds_are_judged_and_no_others() -> None:
    options = RankOptions(confidence="probability_disparity", threshold=0.9)
    sure, unsure, silent = completion([3], 0.95, [0, 1]), completion([4], 0.3, [0, 1]), completion([5], 1.0, None)
    rows = [
        {"prompt_ids": [7], "completions": [sure, sure, unsure, silent]},
        {"prompt_ids": [8], "completions": [sure, sure]},
        {"prompt_ids": [9], "completions": [unsure, silent]},
    ]
    assert judged_completions(rows, options) == [
        JudgedCompletion([7], [3], True, 0.5),
        JudgedCompletion([7], [3], True, 0.5),
        JudgedCompletion([7], [4], False, 0.5),
        JudgedCompletion([7], [5], False, 0.5),
    ]
    with pytest.raises(UserError, match="threshold: none of 2 prompts has completions on both sides"):
        judged_completions(rows[1:], options)
    with pytest.raises(UserError, match="confidence: p_true is not among the samples' scores"):
        judged_completions(rows, replace(options, confidence="p_true"))


def test_what_was_cut_off_is_negative_unless_it_is_asked_for() -> None:
    cut_off = completion([3], 0.95, [0, 1]) | {"finished": False}
    rows = [{"prompt_ids": [7], "completions": [cut_off, completion([4], 0.92, [0, 1])]}]
    options = RankOptions(confidence="probability_disparity", threshold=0.9)
    assert [each.positive for each in judged_completions(rows, options)] == [False, True]
    with pytest.raises(UserError, match="threshold: none of 1 prompts"):  # then both are positive
        judged_completions(rows, replace(options, choose_unfinished=True))


def test_training_raises_positive_completions_over_negative_ones(model_dir: Path, tmp_path: Path) -> None:
    completions = [
        JudgedCompletion([3 + a, 13, 14], [3 + b, 5 if positive else 6, EOS], positive, 0.5)
        for a in range(6)
        for b in range(2)
        for positive in (True, False)
    ]
    options = TrainOptions(objective="nft", learning_rate=1e-3, num_train_epochs=3, pairs_per_step=8)
    config = SelfFeedbackConfig(stage="train", model="m", data="d", device="cpu", train=options).resolved()
    start = load_language_model(str(model_dir), device="cpu", dtype="float32")
    rows = train_model(config, start, str(model_dir), completions, tmp_path)
    assert len(rows) == 9
    assert abs(rows[0]["loss"]) < 1e-5  # every ratio is 1
    assert rows[-1]["accuracy"] > 0.8
    assert rows[-1]["loss"] < rows[0]["loss"]
    # In parts, the same first step: the gradient does not depend on the division.
    again = load_language_model(str(model_dir), device="cpu", dtype="float32")
    parts = train_model(
        replace(config, max_tokens_per_forward=12), again, str(model_dir), completions, tmp_path / "parts"
    )
    assert parts[0]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-4)  # float32 sums in another order
