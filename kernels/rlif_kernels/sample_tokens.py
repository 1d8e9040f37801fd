"""`sample_tokens`: draw the next token of every row, and measure the distribution that it was drawn from.

On a CPU both come from one read of the logits: what is drawn is where the running sum of exponentials, which the
statistics need anyway, reaches a random number. Elsewhere the two follow one another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.backends import local_backend
from rlif_kernels.checks import check_logits, check_tensor, row_arguments
from rlif_kernels.stats import FIELDS, TokenStats
from rlif_kernels.token_stats import token_stats
from rlif_kernels.transforms import detached

# Tokens that are summed before the cumulative sum: the sums are a hundredth of the vocabulary, which most sizes divide.
DRAW_BLOCK = 128
# Logits that are drawn from at a time, 2 MB: as many as a processor's own cache holds.
CACHED_LOGITS = 1 << 19


class SampledTokens(NamedTuple):
    """The drawn token of each row of logits, and its statistics."""

    token_ids: Tensor
    """(...) int64: the drawn token; -1 where the row is no distribution (NaN, +inf, or nothing but -inf), or the random
    number is NaN."""
    stats: TokenStats
    """Of the drawn token and its distribution; fields that were not requested are None."""


@torch.no_grad()
def sample_tokens(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    outputs: tuple[str, ...] = (),
    backend: str | None = None,
) -> SampledTokens:
    """Draw a token from each row of softmax(logits / temperature), and the statistics of row and token with it.

    By inversion: the token is the first at which the cumulative probability, in the order of the vocabulary, reaches
    the row's random number. So a row's token depends on its own logits and number alone, and a token of probability 0
    is never drawn. torch.multinomial draws a random number for every token of the vocabulary, which on a CPU takes
    longer than a small model.

    Args:
        logits: (..., V) float32, bfloat16 or float16. The last dimension is contiguous; any other strides will do.
        uniform: (...) float64 (float32 will do where a device has nothing better) random numbers in (0, 1].
        temperature: the logits are divided by it: a positive float, or a tensor of one, which is read.
        outputs: fields of `TokenStats` to compute too; none by default.
        backend: "cpu" (C) draws and measures in one read; with "triton" and "torch" torch draws, and they compute
            the statistics. None picks as for `token_stats`.

    Returns:
        `SampledTokens`, detached. Statistics of a row that is no distribution are not to be used.

    Raises:
        ValueError: shapes or devices that do not match, V = 0, a temperature that is not positive, an unknown output
            or backend.
        TypeError: dtypes other than those above.
    """
    check_logits(logits)
    check_tensor("uniform", uniform)
    if uniform.shape != logits.shape[:-1] or uniform.device != logits.device:
        raise ValueError(
            f"uniform has shape {tuple(uniform.shape)} on {uniform.device}; expected {tuple(logits.shape[:-1])}, the "
            f"shape of logits less its last one, on {logits.device}"
        )
    if uniform.dtype not in (torch.float64, torch.float32):
        raise TypeError(f"uniform has dtype {uniform.dtype}; expected torch.float64 or torch.float32")
    if isinstance(temperature, Tensor) and temperature.ndim == 0:
        temperature = temperature.item()
    names = outputs or FIELDS[:1]  # what the check of the other arguments asks for at least
    like_targets = torch.empty(uniform.shape, dtype=torch.int64, device=uniform.device)
    arguments = row_arguments(
        logits, "logits", logits.shape[-1], like_targets, temperature, None, None, None, names, backend, None
    )
    if isinstance(temperature, Tensor):
        raise TypeError("temperature is a Tensor; expected a positive number")
    number = float(temperature)

    def sample(logits: Tensor, uniform: Tensor) -> tuple[Tensor | None, ...]:
        drawn, stats = _sample(logits, uniform, number, outputs, arguments.backend)
        return drawn, *stats

    drawn, *stats = detached("sample_tokens", sample, logits.resolve_neg(), uniform.resolve_neg())
    return SampledTokens(drawn, TokenStats(*stats))


def _sample(
    logits: Tensor, uniform: Tensor, temperature: float, outputs: Sequence[str], backend: str
) -> tuple[Tensor, TokenStats]:
    if local_backend(backend, logits) is cpu_backend:
        numbers = uniform.double().contiguous()
        drawn, fields = cpu_backend.sample(logits.detach(), numbers.view(-1), temperature, outputs)
        shaped = {name: values.view(uniform.shape + values.shape[1:]) for name, values in fields.items()}
        return drawn.view(uniform.shape), TokenStats(**shaped)
    drawn = _draw(logits.reshape(-1, logits.shape[-1]), temperature, uniform.reshape(-1))
    drawn = drawn.view(uniform.shape)
    if not outputs:
        return drawn, TokenStats()
    names = None if backend == "auto" else backend
    targets = drawn.clamp(min=0)
    return drawn, token_stats(logits, targets, temperature=temperature, outputs=tuple(outputs), backend=names)


def _draw(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """(N,) int64 from (N, V) logits, in torch."""
    # On a CPU the temporaries of a few rows stay in the cache; those of all would come anew from the system each time.
    rows = max(1, CACHED_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    parts = zip(logits.split(rows), uniform.split(rows), strict=True)
    return torch.cat([_draw_part(some, temperature, numbers) for some, numbers in parts])


def _draw_part(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    padding = -probabilities.shape[1] % DRAW_BLOCK
    if padding:
        probabilities = torch.nn.functional.pad(probabilities, (0, padding))
    blocks = probabilities.unflatten(1, (-1, DRAW_BLOCK))
    # Summed in the dtype of the random numbers: near 1 the steps of float32 are as large as a rare token's probability.
    reached = blocks.sum(dim=-1).cumsum(dim=-1, dtype=uniform.dtype)
    total = reached[:, -1:]
    # In (0, total]: a block of probability 0 is never the first to reach it, and some block always does.
    goal = total * uniform[:, None]
    # NaN is reached nowhere: such rows get -1 in the end, whatever block is looked through for them.
    block = torch.searchsorted(reached, goal).clamp(max=reached.shape[1] - 1)
    within = blocks.take_along_dim(block[:, :, None], dim=1).squeeze(1).cumsum(dim=-1, dtype=uniform.dtype)
    # The same holds within the block, once rounding is kept from leading out of it.
    goal = goal - (reached.gather(1, block) - within[:, -1:])
    goal = torch.minimum(goal.clamp(min=torch.finfo(uniform.dtype).tiny), within[:, -1:])
    drawn = (block * DRAW_BLOCK + torch.searchsorted(within, goal)).squeeze(1)
    return drawn.where(goal.squeeze(1).isfinite(), -1)
