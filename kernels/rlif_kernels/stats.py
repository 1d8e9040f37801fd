"""What one row of logits says about the model's confidence: the result type shared by every op and backend."""

from typing import NamedTuple

from torch import Tensor

DEFAULT_OUTPUTS = ("logprob", "entropy", "self_certainty")
IGNORE_INDEX = -100  # a target with this id is a masked row, as in Hugging Face's loss functions


class TokenStats(NamedTuple):
    """Per-row statistics of ``p = softmax(z)``, ``z = softcap(logits) / temperature``, for a chosen token ``y``.

    Each requested field is float32 and shaped like the rows; a field that was not requested is ``None``. With K targets
    a row, `logprob` is (..., K).
    The gradient columns are with respect to ``z_j``; H is the entropy, V the number of columns in the support, and
    u_j = log p_j + H.

    | field            | value                                   | unit   | gradient to z_j              |
    | ---------------- | --------------------------------------- | ------ | ---------------------------- |
    | `logprob`        | z_y - lse                               | nats   | 1[j=y] - p_j                 |
    | `entropy`        | -sum p log p                            | nats   | -p_j (log p_j + H)           |
    | `self_certainty` | KL(U || p) = lse - mean(z) - log V      | nats   | p_j - 1/V                    |
    | `logsumexp`      | lse = log sum exp z                     | nats   | p_j                          |
    | `sum_sq_probs`   | sum p^2, the collision probability      | 1      | 2 p_j (p_j - sum p^2)        |
    | `top_probs`      | the two largest p, shape (..., 2)       | 1      | none: detached               |
    | `varentropy`     | sum p u^2, the variance of log p        | nats^2 | p_j (u_j (u_j + 2) - sum p u^2) |

    Self-certainty is the reward of Intuitor (arXiv 2505.19590); the difference of the two `top_probs` is the
    probability disparity of RLSF (arXiv 2507.21931).
    """

    logprob: Tensor | None = None
    entropy: Tensor | None = None
    self_certainty: Tensor | None = None
    logsumexp: Tensor | None = None
    sum_sq_probs: Tensor | None = None
    top_probs: Tensor | None = None
    varentropy: Tensor | None = None


FIELDS = TokenStats._fields
