"""Reward-weighted regression is its formula, on the last attempt alone, of the attempts that are kept."""

from __future__ import annotations

import math

import pytest
import torch

from rlif.errors import UserError
from rlif.introspection.learn import Attempt, RewardWeightedRegression, attempts_to_learn
from rlif.introspection.options import Keep
from rlif.models.language_model import LanguageModel
from rlif.scoring.scorer import Scorer


def turn(context: list[int], ids: list[int], reward: float, text: str = "1") -> dict[str, object]:
    return {"prompt_ids": context, "ids": ids, "text": text, "reward": reward}


def test_the_loss_is_the_weight_times_the_mean_nll_of_the_attempt(language_model: LanguageModel) -> None:
    model = language_model.model
    attempts = [Attempt([4, 5, 6, 7], [8, 9, 1], math.exp(2.5)), Attempt([4], [5], 1.0), Attempt([6, 4], [9, 9], 0.1)]
    objective = RewardWeightedRegression(Scorer(model, None), language_model, attempts)
    assert objective.sequences(1) == [([4], [5])]
    result = objective([0, 1, 2])
    result.loss.sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    expected = []
    for each in attempts:
        ids = torch.tensor([each.prompt_ids + each.ids])
        logits = model(input_ids=ids).logits[0, len(each.prompt_ids) - 1 : -1]
        expected.append(each.weight * torch.nn.functional.cross_entropy(logits, torch.tensor(each.ids)))
    torch.stack(expected).sum().backward()
    # Sums of float32 in another order.
    torch.testing.assert_close(result.loss, torch.stack(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.metrics["nll"] * result.metrics["weight"], result.loss.detach())
    for name, weight in model.named_parameters():
        # Rounding of float32 over a few dozen sums; a context that had a loss would change whole rows.
        assert (gradients[name] - weight.grad).norm() <= 1e-5 * weight.grad.norm(), name


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("all", [[1], [2], [3], [4], [5], [6]]),
        ("better", [[1], [3], [4], [6]]),
        ("best", [[1], [3], [4], [6]]),
        ("success", [[3], [6]]),
    ],
)
def test_which_attempts_are_learned(keep: Keep, kept: list[list[int]]) -> None:
    rows = [
        {"turns": [turn([0], [1], 0), turn([0], [2], -1), turn([0], [3], 1)]},
        {"turns": [turn([9], [4], 0), turn([9], [5], -1), turn([9], [6], 1), turn([9], [6], 1)]},  # one twice
        {"turns": []},
    ]
    found = attempts_to_learn(rows, keep, tau=0.4)
    assert [each.ids for each in found] == kept
    assert found[-1].weight == pytest.approx(math.exp(2.5))


def test_best_and_better_part_where_an_attempt_only_repairs_what_the_last_one_lost() -> None:
    rows = [{"turns": [turn([0], [1], 0), turn([0], [2], -1), turn([0], [3], 0), turn([0], [4], -1)]}]
    assert [each.ids for each in attempts_to_learn(rows, "better", 1.0)] == [[1], [3]]
    rows = [{"turns": [turn([0], [1], 1), turn([0], [2], -1), turn([0], [3], 0)]}]
    assert [each.ids for each in attempts_to_learn(rows, "better", 1.0)] == [[1], [3]]
    assert [each.ids for each in attempts_to_learn(rows, "best", 1.0)] == [[1]]


def test_attempts_that_lost_their_way_are_left_out() -> None:
    texts = ["", " \n", "so " * 151, "x" * 301, "so " * 150, "x" * 300]
    rows = [{"turns": [turn([0], [number], 0, text)]} for number, text in enumerate(texts)]
    assert [each.ids for each in attempts_to_learn(rows, "all", 0.4)] == [[4], [5]]
    with pytest.raises(UserError, match=r"^keep: got 'success', by which no attempt is left to learn from"):
        attempts_to_learn(rows, "success", 0.4)
    with pytest.raises(UserError, match=r"^tau: got 0.001, with which exp\(1 / tau\) is no number"):
        attempts_to_learn([{"turns": [turn([0], [1], 1.0)]}], "all", 0.001)
