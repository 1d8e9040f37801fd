"""What one row of logits says about the model's confidence: the result type shared by every op and backend."""

from typing import NamedTuple

from torch import Tensor

DEFAULT_OUTPUTS = ("logprob", "entropy", "self_certainty")
IGNORE_INDEX = -100  # a target with this id is a masked row, as in Hugging Face's loss functions
NO_COLUMN = -1  # the id where there is no such column, and the rank where there is no such row


class TokenStats(NamedTuple):
    """Per-row statistics of ``p = softmax(z)``, ``z = softcap(logits) / temperature``, for a chosen token ``y``.

    Each requested field is shaped like the rows; a field that was not requested is ``None``. With K targets a row,
    `logprob` and `target_rank` are (..., K). Ids and ranks are int64, all else is float32.
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
    | `argmax`         | the column of the largest logit         | id     | none: detached               |
    | `target_rank`    | how many logits are larger than y's     | 1      | none: detached               |
    | `top_ids`        | the k columns of the largest logits, (..., k) | id | none: detached             |
    | `top_logprobs`   | l_i = log p of these, (..., k)          | nats   | 1[j = i] - p_j, of l_i       |
    | `entropy_topk`   | -sum r log r, r_i = p_i / sum of the k p | nats  | -r_j (log r_j + it), of the k alone |
    | `mass_topk`      | sum of these k p                        | 1      | p_j (1[j is one of k] - it)  |

    Self-certainty is the reward of Intuitor (arXiv 2505.19590); the difference of the two `top_probs` is the
    probability disparity of RLSF (arXiv 2507.21931). The mean of -`top_logprobs` over k = 20 is the confidence in a
    token of DeepConf (arXiv 2508.15260), and `entropy_topk` the clamped entropy of AEnt (arXiv 2509.03493).

    The order of the columns is that of the logits as they were given, before softcap and temperature, which keep it:
    so it is exact in any dtype. Of columns with the same logit the one of the smaller id comes first, in `argmax` and
    `top_ids`; a target's rank leaves out those that are as large as its own. A rank is 0 for the largest, and counts
    the columns below `vocab_size`, of which those of -inf are never larger: the rank of a target of -inf is the number
    of columns in the support. Where fewer than k columns are in the support, the rest of `top_ids` is -1, and of
    `top_logprobs` -inf without a gradient. In a row that is no distribution ids and ranks are -1, in a masked row 0.
    """

    logprob: Tensor | None = None
    entropy: Tensor | None = None
    self_certainty: Tensor | None = None
    logsumexp: Tensor | None = None
    sum_sq_probs: Tensor | None = None
    top_probs: Tensor | None = None
    varentropy: Tensor | None = None
    argmax: Tensor | None = None
    target_rank: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None
    entropy_topk: Tensor | None = None
    mass_topk: Tensor | None = None


FIELDS = TokenStats._fields
TOP_FIELDS = ("top_ids", "top_logprobs", "entropy_topk", "mass_topk")
DEFAULT_TOP, MAX_TOP = 20, 64  # of the k largest, where a field of theirs is asked for without a number, and at most
