"""The functions by which trainers read log-probabilities and entropies off logits, by their names and conventions.

`rlif_kernels.compat` has the table. Each is one read of the logits, and one read and one write in the backward; each
rounds what it returns to the dtype that the other's has.
"""

import weakref
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from rlif_kernels.checks import can_overwrite
from rlif_kernels.dtensors import is_dtensor
from rlif_kernels.stats import IGNORE_INDEX, TokenStats
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


def chunked_selective_log_softmax(
    logits: Tensor,
    index: Tensor,
    temperature: float = 1.0,
    chunks: int = 4,
    support_top_k: int = 0,
    support_top_p: float = 1.0,
    support_min_p: float = 0.0,
    support_triton_sampler: bool = False,
    support_excluded_ids: Tensor | None = None,
) -> Tensor:
    """unsloth's: the log-probabilities of (B, T) ids, float32; nothing is divided into chunks.

    Raises:
        ValueError: the others say that tokens are left out of the distribution.
    """
    _whole_distribution(
        support_top_k=support_top_k or None,
        support_top_p=None if support_top_p == 1.0 else support_top_p,
        support_min_p=support_min_p or None,
        support_excluded_ids=support_excluded_ids,
    )
    logprob = token_stats(logits, index, temperature=temperature, outputs=("logprob",)).logprob
    assert logprob is not None
    return logprob


# ---------------------------------------------------------------- OpenRLHF


class _LastRead:
    """What one of OpenRLHF's two functions found beside its own result, for the other of the same logits."""

    def __init__(self) -> None:
        self.logits: weakref.ref[Tensor] | None = None
        self.version = -1
        self.temperature = 1.0
        self.found: dict[str, Tensor] = {}

    def keep(self, logits: Tensor, temperature: float, name: str, value: Tensor | None) -> None:
        """Keep a statistic of logits that were read at this temperature."""
        assert value is not None
        if logits.is_inference():  # which do not count their changes
            self.logits, self.found = None, {}
            return
        self.logits, self.version = weakref.ref(logits, self._forget), logits._version
        self.temperature, self.found = temperature, {name: value}

    def knows(self, logits: Tensor) -> bool:
        """Tell whether these are the logits that were read, and nobody has changed them since."""
        return self.logits is not None and self.logits() is logits and self.version == logits._version

    def take(self, logits: Tensor, name: str) -> Tensor | None:
        """Return that statistic of these logits, once, if it has a gradient where it would have one now."""
        value = self.found.pop(name, None) if self.knows(logits) else None
        if value is not None and value.requires_grad != (logits.requires_grad and torch.is_grad_enabled()):
            return None
        return value

    def _forget(self, _: object) -> None:
        self.found = {}


_last_read = _LastRead()


def log_probs_from_logits(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """OpenRLHF's: the log-probabilities of (...) labels, in the logits' dtype.

    They share one read of the logits with `compute_entropy` of the same, whichever is called first. OpenRLHF's own
    divides the logits in place. Here they stay as they are, and an entropy that is computed next is the one at that
    temperature. The two are of one graph, as the loss that they are terms of: it goes backward once.
    """
    logsumexp = _last_read.take(logits, "logsumexp") if temperature == 1.0 else None
    if logsumexp is not None:
        return (logits.gather(-1, labels[..., None])[..., 0] - logsumexp).to(logits.dtype)
    stats = _both(logits, labels, temperature, None)
    assert stats.logprob is not None
    _last_read.keep(logits, temperature, "entropy", stats.entropy)
    return stats.logprob.to(logits.dtype)


def divided_as_read(logits: Tensor) -> Tensor:
    """Return a copy of logits as OpenRLHF's own `log_probs_from_logits` would have left them."""
    waits = _last_read.knows(logits) and "entropy" in _last_read.found
    return logits / _last_read.temperature if waits else logits.clone()


def compute_entropy(logits: Tensor) -> Tensor:
    """OpenRLHF's: the entropy of each row, in the logits' dtype.

    At temperature 1, but after `log_probs_from_logits` of the same logits at that one's.
    """
    entropy = _last_read.take(logits, "entropy")
    if entropy is None:
        stats = token_stats(logits, _any_id(logits), outputs=("entropy", "logsumexp"))
        entropy = stats.entropy
        assert entropy is not None
        _last_read.keep(logits, 1.0, "logsumexp", stats.logsumexp)
    return entropy.to(logits.dtype)


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


@overload
def compute_logprobs(logits: Tensor, labels: Tensor, *, return_entropy: Literal[False] = False) -> Tensor: ...
@overload
def compute_logprobs(logits: Tensor, labels: Tensor, *, return_entropy: Literal[True]) -> tuple[Tensor, Tensor]: ...
def compute_logprobs(logits: Tensor, labels: Tensor, *, return_entropy: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """torchtitan's: of (B, S, V) logits the log-probabilities of (B, S) labels, float32, 0 of labels of -100.

    With `return_entropy` the entropy of every row too, without a gradient, from the same read. Logits may be a DTensor
    that divides the vocabulary or the rows: nothing is gathered but a few numbers for each row, and the results are
    this process's own part, as torchtitan's are.
    """
    if not return_entropy:
        logprob = token_stats(logits, labels, outputs=("logprob",)).logprob
        assert logprob is not None
        return _local(logprob)
    # A label of -100 masks a row, whose entropy torchtitan has all the same.
    counted = labels != IGNORE_INDEX
    stats = _both(logits, labels.where(counted, 0), 1.0, None)
    assert stats.logprob is not None
    assert stats.entropy is not None
    return _local(stats.logprob).where(counted, 0), _local(stats.entropy).detach()


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
    _whole_distribution(
        seq_index=seq_index,
        context_parallel_group=context_parallel_group,
        cp_sharder=cp_sharder,
        **{"sampling_params.top_k": top_k or None, "sampling_params.top_p": None if top_p in (None, 1.0) else top_p},
    )
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
    value: Tensor = getattr(token_stats(logits, _any_id(logits), outputs=(name,)), name)
    return value


def _any_id(logits: Tensor) -> Tensor:
    return torch.zeros_like(logits[..., 0], dtype=torch.int64)


def _local(values: Tensor) -> Tensor:
    local: Tensor = values.to_local() if is_dtensor(values) else values  # type: ignore[attr-defined]
    return local


def _whole_distribution(**given: Any) -> None:
    """Refuse what would divide the sequence, or leave tokens out of the distribution: None each of these says."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is {value!r}; expected none, the whole sequence and the whole distribution")
