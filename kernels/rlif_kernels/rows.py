"""What every backend is told of the rows of logits, and the state that its forward leaves for its backward."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rlif_kernels.functional import STATISTICS, dtype_of, shape_of
from rlif_kernels.stats import IGNORE_INDEX

# Fields that have a number for each of a row's targets.
PER_TARGET = ("logprob", "target_rank")


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
    choices: Tensor | None = None
    """(..., K) int64, where rows have K targets each, IGNORE_INDEX for one to skip; `targets` then says of a row only
    whether it counts."""
    top: int = 0
    """k of the fields of the k largest columns; 0 where nobody asks for them."""
    rank_above: Tensor | None = None
    """(N,) float32: the target's logit, of which `target_rank` counts those that are larger; known where that is asked
    for."""

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
        choices = None if self.choices is None else self.flat_targets[index]
        return self._replace(targets=self.targets.view(-1)[index], temperature=temperature, choices=choices)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The dimensions that a field of an op has after those of the rows."""
        if self.choices is not None and name in PER_TARGET:
            return (self.choices.shape[-1],)
        return shape_of(name, self.top)

    @property
    def given_targets(self) -> Tensor:
        """The targets as the caller gave them, (...) or (..., K)."""
        return self.targets if self.choices is None else self.choices

    @property
    def flat_targets(self) -> Tensor:
        """(N, 1) or (N, K)."""
        return self.given_targets.reshape(self.num_rows, 1 if self.choices is None else self.choices.shape[-1])

    @classmethod
    def of(
        cls,
        targets: Tensor,
        num_dims: int,
        temperature: float | Tensor,
        softcap: float,
        num_columns: int,
        top: int = 0,
    ) -> "Rows":
        """The rows of a source of `num_dims` dimensions before its last, from one target each or (..., K)."""
        if targets.ndim == num_dims:
            return cls(targets, temperature, softcap, num_columns, top=top)
        counts = (targets != IGNORE_INDEX).any(-1)
        return cls(torch.where(counts, 0, IGNORE_INDEX), temperature, softcap, num_columns, targets, top)


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
    """1 - p of the target, as a sum of the others. Where nobody asked for `logprob` it may be 1."""
    largest: Tensor
    """The largest |logit|, where Triton has a softcap; 0 elsewhere."""
    varentropy: Tensor
    """0 where it was not asked for."""


STATE_ROWS = len(RowState._fields)


def empty_results(like: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """The requested fields, (N, ...), and the row state, for a forward to write to: a masked row's are 0."""
    num_rows = rows.num_rows
    state = like.new_empty((STATE_ROWS, num_rows), dtype=torch.float32)
    fields = {name: state.new_empty((num_rows, *rows.shape_of(name)), dtype=dtype_of(name)) for name in outputs}
    return fields, state


def zero_results(like: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """`empty_results` for a forward that does not look at masked rows."""
    fields, state = empty_results(like, rows, outputs)
    for result in (*fields.values(), state):
        result.zero_()
    return fields, state


def row_coefficients(grads: dict[str, Tensor], row_state: Tensor, rows: Rows) -> dict[str, Tensor]:
    """Return the upstream gradients folded into the polynomial of `functional`, the temperature included.

    With `y`, c_p is c_rest - c_y: at the target the gradient is p_y (c_rest + ...) - c_1 + c_y (1 - p_y), which does
    not cancel where p_y is nearly 1.
    """
    state = RowState(*row_state)
    coefficients = {"rest": torch.zeros_like(state.n)}
    for name, grad in grads.items():
        terms = STATISTICS[name].terms
        assert terms is not None
        for term, value in terms(grad, state).items():
            coefficients[term] = coefficients[term] + value if term in coefficients else value
    coefficients["p"] = coefficients["rest"] - coefficients.get("y", 0)
    return {name: value / rows.flat_temperature for name, value in coefficients.items()}


def row_offsets(logits: Tensor) -> Tensor:
    """Where each row of (..., V) logits starts, in elements from the first: (N,) int64, whatever the strides."""
    offsets = torch.zeros((), dtype=torch.int64, device=logits.device)
    for size, stride in zip(logits.shape[:-1], logits.stride()[:-1], strict=True):
        offsets = offsets[..., None] + torch.arange(size, device=logits.device) * stride
    return offsets.reshape(-1)
