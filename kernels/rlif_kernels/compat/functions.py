"""The functions by which trainers read log-probabilities and entropies off logits, by their names and conventions.

`rlif_kernels.compat` has the table. Each is one read of the logits, and one read and one write in the backward; each
rounds what it returns to the dtype that the other's has.
"""

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels.checks import can_overwrite
from rlif_kernels.stats import TokenStats
from rlif_kernels.token_stats import token_stats

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# ---------------------------------------------------------------- TRL, ms-swift


def selective_log_softmax(
    logits: Tensor, index: Tensor, temperature: float = 1.0, row_mask: Tensor | None = None
) -> Tensor:
    """Return the log-probabilities of some ids, in nats and in the logits' dtype.

    Args:
        logits: (..., V).
        index: (...) ids, or (..., K), several of each row.
        temperature: the logits are divided by it; greater than 0.
        row_mask: (...); a row of 0 is not read, and gives 0.
    """
    mask = None if row_mask is None else row_mask != 0
    logprob = token_stats(logits, index, temperature=temperature, mask=mask, outputs=("logprob",)).logprob
    assert logprob is not None
    return logprob.to(logits.dtype)


def entropy_from_logits(logits: Tensor, chunk_size: int = 128) -> Tensor:
    """Return the entropy of each row of (..., V) logits, in nats and in their dtype; nothing is divided into chunks."""
    return _of_any_id(logits, "entropy").to(logits.dtype)


def selective_log_softmax_and_entropy(
    logits: Tensor,
    index: Tensor,
    entropy_requires_grad: bool = True,
    temperature: float = 1.0,
    row_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return both of the above, of (...) ids, from one read."""
    stats = _both(logits, index, temperature, None if row_mask is None else row_mask != 0)
    assert stats.logprob is not None
    assert stats.entropy is not None
    entropy = stats.entropy if entropy_requires_grad else stats.entropy.detach()
    return stats.logprob.to(logits.dtype), entropy.to(logits.dtype)


def chunked_selective_log_softmax(logits: Tensor, index: Tensor, temperature: float = 1.0, chunks: int = 4) -> Tensor:
    """unsloth's: the log-probabilities of (B, T) ids, float32; nothing is divided into chunks."""
    logprob = token_stats(logits, index, temperature=temperature, outputs=("logprob",)).logprob
    assert logprob is not None
    return logprob


# ---------------------------------------------------------------- OpenRLHF


class _LastRead:
    """What `log_probs_from_logits` found beside the log-probabilities, for `compute_entropy` of the same logits."""

    def __init__(self) -> None:
        self.logits: weakref.ref[Tensor] | None = None
        self.version = -1
        self.temperature = 1.0
        self.entropy: Tensor | None = None

    def keep(self, logits: Tensor, temperature: float, entropy: Tensor | None) -> None:
        self.logits, self.version = weakref.ref(logits, self._forget), logits._version
        self.temperature, self.entropy = temperature, entropy

    def knows(self, logits: Tensor) -> bool:
        """Tell whether these are the logits that were read, and nobody has changed them since."""
        read = self.logits is not None and self.logits() is logits and self.version == logits._version
        return read and self.entropy is not None

    def take(self, logits: Tensor) -> Tensor | None:
        """Return the entropy of these logits, once."""
        entropy, self.entropy = (self.entropy if self.knows(logits) else None), None
        return entropy

    def _forget(self, _: object) -> None:
        self.entropy = None


_last_read = _LastRead()


def log_probs_from_logits(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """OpenRLHF's: the log-probabilities of (...) labels, in the logits' dtype.

    OpenRLHF divides the logits in place, and reads them again for the entropy. Here they stay as they are, and
    `compute_entropy` of the same logits, called next, has the entropy at that temperature from this read.
    """
    stats = _both(logits, labels, temperature, None)
    assert stats.logprob is not None
    _last_read.keep(logits, temperature, stats.entropy)
    return stats.logprob.to(logits.dtype)


def divided_as_read(logits: Tensor) -> Tensor:
    """Return a copy of logits as OpenRLHF's own `log_probs_from_logits` would have left them."""
    return logits / _last_read.temperature if _last_read.knows(logits) else logits.clone()


def compute_entropy(logits: Tensor) -> Tensor:
    """OpenRLHF's: the entropy of each row, in the logits' dtype; at 1 where `log_probs_from_logits` was not before."""
    entropy = _last_read.take(logits)
    return (_of_any_id(logits, "entropy") if entropy is None else entropy).to(logits.dtype)


# ---------------------------------------------------------------- verl, torchtitan, torchtune, NeMo-RL


def logprobs_from_logits(logits: Tensor, labels: Tensor, inplace_backward: bool = True) -> Tensor:
    """verl's: the log-probabilities of (...) labels, in the logits' dtype.

    `inplace_backward` is honoured where an operation computed the logits, and ignored where it would overwrite a leaf
    or elements that share memory.
    """
    inplace = inplace_backward and can_overwrite(logits)
    logprob = token_stats(logits, labels, outputs=("logprob",), inplace_backward=inplace).logprob
    assert logprob is not None
    return logprob.to(logits.dtype)


def compute_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """torchtitan's: of (B, S, V) logits the log-probabilities of the next of (B, S) ids, (B, S - 1) float32."""
    logprob = token_stats(logits[:, :-1], token_ids[:, 1:], outputs=("logprob",)).logprob
    assert logprob is not None
    return logprob


def logits_to_logprobs(logits: Tensor, sequences: Tensor, temperature: float = 1.0) -> Tensor:
    """torchtune's: the log-probabilities of (B, T) ids, in the logits' dtype."""
    return selective_log_softmax(logits, sequences, temperature)


def get_next_token_logprobs_from_logits(
    input_ids: Tensor,
    next_token_logits: Tensor,
    seq_index: Tensor | None = None,
    vocab_parallel_rank: int | None = None,
    vocab_parallel_group: "ProcessGroup | None" = None,
    context_parallel_group: "ProcessGroup | None" = None,
    sampling_params: Any = None,
    chunk_size: int | None = None,
    cp_sharder: Any = None,
) -> Tensor:
    """NeMo-RL's: the log-probabilities of the next of (B, S) ids, (B, S - 1) float32.

    Args:
        input_ids: (B, S), moved to the logits' device.
        next_token_logits: (B, S, V), or of a group this rank's slice of the vocabulary, all of one size.
        vocab_parallel_rank: this rank's place in the group; the group knows it too.
        vocab_parallel_group: over which the vocabulary is divided.
        chunk_size: nothing is divided into chunks.
        seq_index, context_parallel_group, sampling_params, cp_sharder: a sequence that is divided too, or tokens that
            are left out of the distribution: refused.

    Raises:
        ValueError: one of those is given, or the rank is not the group's.
    """
    top_k, top_p = getattr(sampling_params, "top_k", None), getattr(sampling_params, "top_p", 1.0)
    for name, given in (
        ("seq_index", seq_index), ("context_parallel_group", context_parallel_group), ("cp_sharder", cp_sharder),
        ("sampling_params.top_k", top_k or None), ("sampling_params.top_p", None if top_p in (None, 1.0) else top_p),
    ):  # fmt: skip
        if given is not None:
            raise ValueError(f"{name} is {given!r}; expected none, the whole sequence and the whole distribution")
    group = vocab_parallel_group
    if group is not None and vocab_parallel_rank != group.rank():
        raise ValueError(f"vocab_parallel_rank is {vocab_parallel_rank!r}; expected {group.rank()}, that in the group")
    targets = input_ids[:, 1:].to(next_token_logits.device)
    logprob = token_stats(next_token_logits[:, :-1], targets, outputs=("logprob",), group=group).logprob
    assert logprob is not None
    return logprob


# ---------------------------------------------------------------- what they share


def _both(logits: Tensor, index: Tensor, temperature: float, mask: Tensor | None) -> TokenStats:
    return token_stats(logits, index, temperature=temperature, mask=mask, outputs=("logprob", "entropy"))


def _of_any_id(logits: Tensor, name: str) -> Tensor:
    """A statistic that does not depend on the id."""
    any_id = torch.zeros_like(logits[..., 0], dtype=torch.int64)
    value: Tensor = getattr(token_stats(logits, any_id, outputs=(name,)), name)
    return value
