"""`sample_tokens`: draw the next token of every row, and measure the distribution that it was drawn from.

On a CPU both come from one read of the logits: what is drawn is where the running sum of exponentials, which the
statistics need anyway, reaches a random number. Elsewhere the two follow one another.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.backends import local_backend, order
from rlif_kernels.checks import RowArguments, check_logits, check_tensor, row_arguments
from rlif_kernels.functional import STATISTICS, op_fields
from rlif_kernels.op_values import shaped_like_rows, token_stats_of
from rlif_kernels.rows import Rows
from rlif_kernels.stats import DEFAULT_OUTPUTS, TOP_FIELDS, TokenStats
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
    top_logprobs: int | None = None,
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
        top_logprobs: of the k largest columns, as `token_stats` has it.
        backend: "cpu" (C) draws and measures in one read, but for `target_rank`, which takes one more; with "triton"
            and "torch" torch draws, and they compute the statistics. None picks as for `token_stats`.

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
    measured = bool(outputs) or top_logprobs is not None
    # Some field the check of the other arguments asks for at least.
    names = outputs or (TOP_FIELDS if measured else DEFAULT_OUTPUTS)[:2]
    like_targets = torch.empty(uniform.shape, dtype=torch.int64, device=uniform.device)
    arguments = row_arguments(
        logits, "logits", logits.shape[-1], like_targets, temperature, None, None, None, names, backend, None,
        top_logprobs=top_logprobs,
    )  # fmt: skip
    if isinstance(temperature, Tensor):
        raise TypeError("temperature is a Tensor; expected a positive number")
    number = float(temperature)

    def sample(logits: Tensor, uniform: Tensor) -> tuple[Tensor | None, ...]:
        drawn, stats = _sample(logits, uniform, number, arguments, top_logprobs, measured)
        return drawn, *stats

    drawn, *stats = detached("sample_tokens", sample, logits.resolve_neg(), uniform.resolve_neg())
    return SampledTokens(drawn, TokenStats(*stats))


def _sample(
    logits: Tensor,
    uniform: Tensor,
    temperature: float,
    arguments: RowArguments,
    top_logprobs: int | None,
    measured: bool,
) -> tuple[Tensor, TokenStats]:
    if local_backend(arguments.backend, logits) is cpu_backend:
        names = op_fields(arguments.outputs) if measured else ()
        rows = arguments.rows._replace(temperature=temperature)
        drawn, fields = _sample_in_c(logits.detach(), uniform.double().contiguous().view(-1), rows, names)
        drawn = drawn.view(uniform.shape)
        if not measured:
            return drawn, TokenStats()
        values = [shaped_like_rows(fields[name], logits) for name in names]
        return drawn, token_stats_of(values, names, arguments._replace(rows=rows._replace(targets=drawn)))
    drawn = _draw(logits.reshape(-1, logits.shape[-1]), temperature, uniform.reshape(-1))
    drawn = drawn.view(uniform.shape)
    if not measured:
        return drawn, TokenStats()
    return drawn, token_stats(
        logits, drawn.clamp(min=0), temperature=temperature, outputs=arguments.outputs,
        top_logprobs=top_logprobs, backend=None if arguments.backend == "auto" else arguments.backend,
    )  # fmt: skip


def _sample_in_c(logits: Tensor, uniform: Tensor, rows: Rows, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """The drawn tokens (N,), and of OP_FIELDS those that are named."""
    drawn, fields, row_state = cpu_backend.sample(
        logits, uniform, rows, [name for name in names if name in STATISTICS and name != "target_rank"]
    )
    rows = rows._replace(targets=drawn.view(rows.targets.shape))
    if "top_logprobs" in names:
        chosen = order.Chosen(logits, rows, fields["top_ids"])
        fields["top_logprobs"] = order.shown(order.top_logprobs(cpu_backend, chosen, row_state), rows)
    if "target_rank" in names:
        above = order.logits_of_targets(logits, rows, None)
        fields["target_rank"] = order.count_larger(logits, rows, above, None)[:, 0]
    return drawn, fields


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
