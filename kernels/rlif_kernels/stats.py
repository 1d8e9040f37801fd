"""What one row of logits says about the model's confidence: the result type shared by every op and backend."""

from typing import NamedTuple

import torch
from torch import Tensor

DEFAULT_OUTPUTS = ("logprob", "entropy", "self_certainty")
IGNORE_INDEX = -100  # a target with this id is a masked row, as in Hugging Face's loss functions


class TokenStats(NamedTuple):
    """Per-row statistics of ``p = softmax(z)``, ``z = softcap(logits) / temperature``, for a chosen token ``y``.

    Each requested field is float32 and shaped like the targets; a field that was not requested is ``None``.
    The gradient columns are with respect to ``z_j``; H is the entropy, V the number of columns in the support.

    | field            | value                                   | unit | gradient to z_j           |
    | ---------------- | --------------------------------------- | ---- | ------------------------- |
    | `logprob`        | z_y - lse                               | nats | 1[j=y] - p_j              |
    | `entropy`        | -sum p log p                            | nats | -p_j (log p_j + H)        |
    | `self_certainty` | KL(U || p) = lse - mean(z) - log V      | nats | p_j - 1/V                 |
    | `logsumexp`      | lse = log sum exp z                     | nats | p_j                       |
    | `sum_sq_probs`   | sum p^2, the collision probability      | 1    | 2 p_j (p_j - sum p^2)     |
    | `top_probs`      | the two largest p, shape (..., 2)       | 1    | none: detached            |

    Self-certainty is the reward of Intuitor (arXiv 2505.19590); the difference of the two `top_probs` is the
    probability disparity of RLSF (arXiv 2507.21931).
    """

    logprob: Tensor | None = None
    entropy: Tensor | None = None
    self_certainty: Tensor | None = None
    logsumexp: Tensor | None = None
    sum_sq_probs: Tensor | None = None
    top_probs: Tensor | None = None


FIELDS = TokenStats._fields
STATE_ROWS = 6  # rows of the float32 state that a forward leaves for its backward


def row_coefficients(grads: dict[str, Tensor], row_state: Tensor, temperature: float | Tensor) -> dict[str, Tensor]:
    """The upstream gradients folded into the terms of one polynomial per row, the temperature included:

    dx_j = p_j (c_p + c_plogp log p_j + c_pp p_j) - c_1 + c_y 1[j=y],   c_p = c_rest - c_y

    At the target that is p_y (c_rest + ...) - c_1 + c_y (1 - p_y), which does not cancel where p_y is nearly 1.
    """
    _, _, n, entropy, sum_sq_probs, _ = row_state
    zero = torch.zeros_like(n)
    g_y, g_h, g_u, g_lse, g_q = (
        grads.get(name, zero) for name in ("logprob", "entropy", "self_certainty", "logsumexp", "sum_sq_probs")
    )
    scale = temperature.view(-1) if isinstance(temperature, Tensor) else temperature
    rest = g_u + g_lse - g_h * entropy - 2 * g_q * sum_sq_probs
    coefficients = {"p": (rest - g_y) / scale}
    if "logprob" in grads:
        coefficients |= {"y": g_y / scale, "rest": rest / scale}
    if "entropy" in grads:
        coefficients["plogp"] = -g_h / scale
    if "self_certainty" in grads:
        coefficients["1"] = g_u / n.abs() / scale
    if "sum_sq_probs" in grads:
        coefficients["pp"] = 2 * g_q / scale
    return coefficients


def row_offsets(logits: Tensor) -> Tensor:
    """Where each row of (..., V) logits starts, in elements from the first: (N,) int64, whatever the strides."""
    offsets = torch.zeros((), dtype=torch.int64, device=logits.device)
    for size, stride in zip(logits.shape[:-1], logits.stride()[:-1], strict=True):
        offsets = offsets[..., None] + torch.arange(size, device=logits.device) * stride
    return offsets.reshape(-1)
