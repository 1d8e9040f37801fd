"""What every backend is told of the rows of logits, and the state that its forward leaves for its backward."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """What comes with the rows of (..., V) logits; N is their number."""

    targets: Tensor
    """(...) int64: the chosen column; IGNORE_INDEX in a row to skip."""
    temperature: float | Tensor
    """One number for all rows, or (...) float32, one for each."""
    softcap: float
    """0: none."""
    num_columns: int
    """Columns to read, from the first; the gradient of the others is 0."""

    @property
    def num_rows(self) -> int:
        return self.targets.numel()

    @property
    def flat_temperature(self) -> float | Tensor:
        """The temperature as a number, or (N,)."""
        return self.temperature.view(-1) if isinstance(self.temperature, Tensor) else self.temperature

    @property
    def split_temperature(self) -> tuple[Tensor | None, float]:
        """The temperatures of the rows, or None and the one of all: for callees that want the two apart."""
        return (self.temperature, 1.0) if isinstance(self.temperature, Tensor) else (None, self.temperature)

    def take(self, index: slice | Tensor) -> "Rows":
        """Return some of the rows, by their numbers from 0 to N - 1, flat."""
        temperature = self.flat_temperature
        if isinstance(temperature, Tensor):
            temperature = temperature[index]
        return self._replace(targets=self.targets.view(-1)[index], temperature=temperature)


class RowState(NamedTuple):
    """What lets the backward of a row skip every reduction.

    Ops and kernels keep it as one tensor (STATE_ROWS, N) float32, whose rows ``RowState(*tensor)`` names.
    """

    m: Tensor
    """What the sums are relative to: the largest (capped) logit; in Triton's unguarded rows over the temperature and
    in units of log 2."""
    log_s: Tensor
    """Logarithm of the sum of exponentials, relative to m."""
    n: Tensor
    """Columns in the support; negative in a row that needed guards, to tell the backward."""
    entropy: Tensor
    sum_sq_probs: Tensor
    complement: Tensor
    """1 - p of the target, as a sum of the others."""
    largest: Tensor
    """The largest |logit|, where Triton has a softcap; 0 elsewhere."""


STATE_ROWS = len(RowState._fields)


def empty_results(like: Tensor, num_rows: int, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """The requested fields, (N,) or (N, 2), and the row state, for a forward to write to: a masked row's are 0."""
    state = like.new_empty((STATE_ROWS, num_rows), dtype=torch.float32)
    return {name: state.new_empty((num_rows, 2) if name == "top_probs" else num_rows) for name in outputs}, state


def zero_results(like: Tensor, num_rows: int, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """`empty_results` for a forward that does not look at masked rows."""
    fields, state = empty_results(like, num_rows, outputs)
    for result in (*fields.values(), state):
        result.zero_()
    return fields, state


def row_coefficients(grads: dict[str, Tensor], row_state: Tensor, rows: Rows) -> dict[str, Tensor]:
    """Return the upstream gradients folded into the terms of one polynomial per row, the temperature included:

    dx_j = p_j (c_p + c_plogp log p_j + c_pp p_j) - c_1 + c_y 1[j=y],   c_p = c_rest - c_y

    At the target that is p_y (c_rest + ...) - c_1 + c_y (1 - p_y), which does not cancel where p_y is nearly 1.
    """
    state, scale = RowState(*row_state), rows.flat_temperature
    zero = torch.zeros_like(state.n)
    g_y, g_h, g_u, g_lse, g_q = (
        grads.get(name, zero) for name in ("logprob", "entropy", "self_certainty", "logsumexp", "sum_sq_probs")
    )
    rest = g_u + g_lse - g_h * state.entropy - 2 * g_q * state.sum_sq_probs
    coefficients = {"p": (rest - g_y) / scale}
    if "logprob" in grads:
        coefficients |= {"y": g_y / scale, "rest": rest / scale}
    if "entropy" in grads:
        coefficients["plogp"] = -g_h / scale
    if "self_certainty" in grads:
        coefficients["1"] = g_u / state.n.abs() / scale
    if "sum_sq_probs" in grads:
        coefficients["pp"] = 2 * g_q / scale
    return coefficients


def row_offsets(logits: Tensor) -> Tensor:
    """Where each row of (..., V) logits starts, in elements from the first: (N,) int64, whatever the strides."""
    offsets = torch.zeros((), dtype=torch.int64, device=logits.device)
    for size, stride in zip(logits.shape[:-1], logits.stride()[:-1], strict=True):
        offsets = offsets[..., None] + torch.arange(size, device=logits.device) * stride
    return offsets.reshape(-1)
