"""Tokens are drawn with their probabilities, by the numbers that are given, and measured as `token_stats` does."""

import sys

import pytest
import torch

from comparison import DEVICE
from rlif_kernels import sample_tokens, token_stats
from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.stats import FIELDS

module = sys.modules[sample_tokens.__module__]  # by its name one finds the function


def inversion(logits, uniform, temperature):
    """The definition: the first token at which the cumulative probability reaches the number."""
    reached = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return (reached < uniform[..., None] * reached[..., -1:]).sum(-1), reached / reached[..., -1:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_columns", [1, 5, 16, 127, 1024, 1025, 40009])
def test_the_token_is_where_the_cumulative_probability_reaches_the_number(num_columns, dtype, backend):
    logits = (3 * torch.randn(3, 8, num_columns, device=DEVICE)).to(dtype)
    uniform = 1 - torch.rand(3, 8, device=DEVICE, dtype=torch.float64)
    token_ids, stats = sample_tokens(logits, uniform, temperature=0.7, backend=backend)
    assert stats == (None,) * len(FIELDS)
    expected, reached = inversion(logits, uniform, 0.7)
    # A number within rounding of a boundary between tokens may fall on either side of it: 1e-6 is 16 float32 roundings.
    low = torch.where(token_ids > 0, reached.gather(-1, (token_ids - 1).clamp(min=0)[..., None])[..., 0], 0.0)
    high = reached.gather(-1, token_ids[..., None])[..., 0]
    assert ((uniform > low - 1e-6) & (uniform <= high + 1e-6)).all()
    assert (token_ids == expected).float().mean() > 0.9


@pytest.mark.slow_interpreted
def test_the_statistics_are_those_of_token_stats_to_the_bit(backend):
    logits = 3 * torch.randn(4, 5, 3001, device=DEVICE)
    logits[0, :, ::3] = -torch.inf
    uniform = 1 - torch.rand(4, 5, device=DEVICE, dtype=torch.float64)
    token_ids, stats = sample_tokens(logits, uniform, temperature=1.3, outputs=FIELDS, backend=backend)
    expected = token_stats(logits, token_ids, temperature=1.3, outputs=FIELDS, backend=backend)
    for value, target in zip(stats, expected, strict=True):
        assert torch.equal(value, target)


@pytest.mark.parametrize("uniform", [2**-53, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_token_of_probability_zero_is_never_drawn_whatever_the_number(uniform, dtype, backend):
    logits = torch.full((2, 3000), -torch.inf, device=DEVICE)
    logits[:, [2, 2100]] = torch.tensor([0.0, 5.0], device=DEVICE)
    numbers = torch.full((2,), uniform, dtype=dtype, device=DEVICE)
    token_ids, _ = sample_tokens(logits, numbers, backend=backend)
    assert token_ids.tolist() == [2 if uniform < 0.001 else 2100] * 2


@pytest.mark.parametrize("num_columns", [964, 1500, 3000])
def test_a_token_that_a_very_low_logit_rules_out_is_not_drawn_by_rounding_either(num_columns, backend):
    # What transformers' masks put in: finite, and of probability 0. The numbers are as near to 1 as they come.
    logits = 3 * torch.randn(20, num_columns, device=DEVICE)
    logits[:, num_columns // 2 :] = torch.finfo(torch.float32).min
    uniform = torch.tensor([1.0, 1 - 2**-53, 1 - 1e-9, 1 - 1e-8] * 5, dtype=torch.float64, device=DEVICE)
    token_ids, _ = sample_tokens(logits, uniform, backend=backend)
    assert (token_ids < num_columns // 2).all()


def test_a_number_outside_its_range_reads_nothing_outside_the_row(backend):
    logits = torch.randn(3, 3000, device=DEVICE)
    logits[:, :2000] = -torch.inf
    uniform = torch.tensor([0.0, 1.001, torch.inf], dtype=torch.float64, device=DEVICE)
    token_ids, _ = sample_tokens(logits, uniform, backend=backend)
    assert ((token_ids >= 0) & (token_ids < 3000)).all()


def test_a_row_that_is_no_distribution_gets_minus_one_and_no_other_row_is_touched(backend):
    logits = torch.randn(6, 300, device=DEVICE)
    logits[1, 7], logits[2, 9], logits[3] = torch.nan, torch.inf, -torch.inf
    uniform = torch.full((6,), 0.4, dtype=torch.float64, device=DEVICE)
    uniform[4] = torch.nan
    token_ids, _ = sample_tokens(logits, uniform, backend=backend)
    alone, _ = sample_tokens(logits[::5], uniform[::5], backend=backend)
    assert token_ids[1:5].tolist() == [-1] * 4
    assert torch.equal(token_ids[::5], alone)


def test_frequencies_are_the_probabilities(backend):
    count, logits = 4000, 2 * torch.randn(40, device=DEVICE)
    uniform = 1 - torch.rand(count, dtype=torch.float64, device=DEVICE)
    token_ids, _ = sample_tokens(logits.expand(count, -1), uniform, backend=backend)
    probabilities = logits.double().softmax(-1)
    frequency = torch.bincount(token_ids, minlength=40) / count
    # Five standard deviations of a binomial share.
    deviation = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((frequency - probabilities).abs() <= 5 * deviation + 1 / count).all()


def test_what_is_drawn_together_does_not_change_what_is_drawn(backend, monkeypatch):
    logits = 3 * torch.randn(37, 1000, device=DEVICE)
    uniform = 1 - torch.rand(37, dtype=torch.float64, device=DEVICE)
    together, _ = sample_tokens(logits, uniform, backend=backend)
    one_by_one = [sample_tokens(logits[i : i + 1], uniform[i : i + 1], backend=backend)[0] for i in range(37)]
    assert torch.equal(torch.cat(one_by_one), together)
    monkeypatch.setattr(module, "CACHED_LOGITS", 3000)
    assert torch.equal(sample_tokens(logits, uniform, backend=backend)[0], together)


def test_no_rows_and_no_leading_dimension_are_fine(backend):
    none, _ = sample_tokens(torch.randn(0, 9, device=DEVICE), torch.zeros(0, device=DEVICE), backend=backend)
    assert none.shape == (0,)
    one, stats = sample_tokens(
        torch.randn(9, device=DEVICE), torch.tensor(0.5, device=DEVICE), outputs=("entropy",), backend=backend
    )
    assert one.shape == stats.entropy.shape == ()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"uniform": torch.rand(3)}, ValueError, r"uniform has shape \(3,\) .*; expected \(2,\)"),
        ({"uniform": torch.ones(2, dtype=torch.int64)}, TypeError, "uniform has dtype torch.int64; expected"),
        ({"uniform": 0.5}, TypeError, "uniform is a float"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0; expected a positive number"),
        ({"temperature": torch.ones(2)}, TypeError, "temperature is a Tensor; expected a positive number"),
        ({"outputs": ("perplexity",)}, ValueError, "outputs is .*perplexity"),
        ({"outputs": "entropy"}, ValueError, "outputs is 'entropy'; expected a non-empty tuple"),
        ({"backend": "numpy"}, ValueError, "backend is 'numpy'"),
    ],
)
def test_bad_input_is_named(change, error, message):
    arguments = {"logits": torch.randn(2, 7), "uniform": torch.rand(2)} | change
    with pytest.raises(error, match=message):
        sample_tokens(arguments.pop("logits"), arguments.pop("uniform"), **arguments)


def test_the_c_backend_serves_a_cpu_where_there_is_a_compiler(monkeypatch):
    if not cpu_backend.serves(torch.zeros(1)):
        pytest.skip("there is no C compiler here")
    monkeypatch.setattr(module, "_draw", lambda *_: pytest.fail("torch drew"))
    sample_tokens(torch.randn(2, 50), torch.rand(2), outputs=("entropy",))
