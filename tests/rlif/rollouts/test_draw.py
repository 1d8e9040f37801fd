"""A token is drawn with its probability, from random numbers that a prompt's seed alone decides."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from rlif.errors import UserError
from rlif.rollouts.draw import draw_tokens, truncate, uniform_numbers

CPU = torch.device("cpu")


def one_number_a_row(rows: int) -> Tensor:
    return uniform_numbers([(0,)], rows, 1, CPU).squeeze(1)


def test_the_numbers_of_a_prompt_depend_on_its_seed_alone() -> None:
    numbers = uniform_numbers([(0, 1, 0), (0, 1, 1), (7, 1, 0)], 4, 9, CPU)
    assert numbers.shape == (12, 9)
    assert len(numbers.unique()) == 12 * 9
    assert torch.equal(uniform_numbers([(0, 1, 1)], 4, 9, CPU), numbers[4:8])
    assert torch.equal(uniform_numbers([(0, 1, 1)], 4, 5, CPU), numbers[4:8, :5])


def test_the_numbers_are_uniform_in_the_unit_interval_without_zero() -> None:
    numbers = uniform_numbers([(seed,) for seed in range(100)], 8, 64, CPU)
    assert numbers.dtype == torch.float64
    assert numbers.min() > 0
    assert numbers.max() <= 1
    share = torch.histc(numbers, bins=20, min=0, max=1) / numbers.numel()
    # Five standard deviations of a binomial share.
    assert ((share - 0.05).abs() <= 5 * (0.05 * 0.95 / numbers.numel()) ** 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draws_from_a_large_vocabulary_have_its_probabilities(dtype: torch.dtype) -> None:
    vocab_size, count, temperature = 100_000, 400, 0.8
    logits = torch.randn(vocab_size).mul(3).to(dtype)
    drawn, _ = draw_tokens(logits.expand(count, -1), temperature, one_number_a_row(count))
    # Twenty stretches of the vocabulary, of 5000 tokens each, stand for tokens too rare to be counted.
    probabilities = (logits.double() / temperature).softmax(-1).view(20, -1).sum(-1)
    frequency = torch.bincount(drawn // 5000, minlength=20) / count
    # Five standard deviations of a binomial share.
    deviation = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((frequency - probabilities).abs() <= 5 * deviation + 1 / count).all()


@pytest.mark.parametrize("uniform", [2**-53, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_token_of_probability_zero_is_never_drawn_whatever_the_random_number(
    uniform: float, dtype: torch.dtype
) -> None:
    logits = torch.tensor([-torch.inf, -torch.inf, 0.0, -torch.inf, 5.0, -torch.inf]).expand(3, -1)
    tokens, _ = draw_tokens(logits, 1.0, torch.full((3,), uniform, dtype=dtype))
    assert set(tokens.tolist()) <= {2, 4}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("top_k", [None, 2])
def test_logits_that_are_not_finite_are_an_error_and_not_a_token(bad: float, top_k: int | None) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, bad, 1.0]])
    if top_k:
        logits = truncate(logits, 1.0, top_k=top_k, top_p=1.0)
    with pytest.raises(UserError, match="weights have diverged"):
        draw_tokens(logits, 1.0, one_number_a_row(2))


@pytest.mark.parametrize("temperature", [0.7, 1.3])
@pytest.mark.parametrize("top_k", [None, 0, 1, 5, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
def test_top_k_and_top_p_keep_the_tokens_that_transformers_keeps(
    temperature: float, top_k: int | None, top_p: float
) -> None:
    logits = torch.randn(50, 40).mul(2)
    expected: Tensor = logits / temperature
    ids = torch.zeros(50, 1, dtype=torch.long)
    if top_k:
        expected = TopKLogitsWarper(top_k)(ids, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(ids, expected)
    kept = truncate(logits, temperature, top_k=top_k, top_p=top_p)
    assert torch.equal(kept.isfinite(), expected.isfinite())
    assert torch.equal(kept[kept.isfinite()], logits[kept.isfinite()])


def test_temperature_zero_takes_the_most_likely_token() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    assert draw_tokens(logits, 0.0, one_number_a_row(2))[0].tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.3, 0.1, 0.1, 0.5]], dtype=torch.float64).log().to(dtype)
    assert truncate(logits, 1.0, top_k=None, top_p=0.8).isfinite().tolist() == [[True, False, False, True]]
    assert truncate(logits, 1.0, top_k=None, top_p=0.81).isfinite().sum() == 3
    assert truncate(logits, 1.0, top_k=3, top_p=0.9).isfinite().sum() == 3


@given(shares=st.lists(st.integers(1, 30), min_size=2, max_size=12), wanted=st.integers(1, 99))
def test_no_token_too_many_is_in_the_nucleus_whatever_the_rounding(shares: list[int], wanted: int) -> None:
    logits = torch.tensor([shares], dtype=torch.float64).div(sum(shares)).log().float()
    kept = truncate(logits, 1.0, top_k=None, top_p=wanted / 100).isfinite().sum()
    sums = list(accumulate(sorted(shares, reverse=True)))
    assert kept == next(n for n, reached in enumerate(sums, start=1) if 100 * reached >= wanted * sums[-1])
