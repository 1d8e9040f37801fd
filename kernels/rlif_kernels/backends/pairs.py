"""Divergences in three looks at a pair of rows, which backends take and slices of the vocabulary share: the sums, with
their normalisers the mixture of a Jensen-Shannon divergence, and the gradient. `rlif_kernels.pairs` has the formulas.

C and Triton take all looks at a row while it is in the cache. torch takes them one by one, block by block of rows. So
do rows that are sharded, with an exchange after each of the first two; there torch computes for Triton.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from rlif_kernels.backends import LocalBackend, local_backend, torch_pairs, vocab_parallel
from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.backends import torch as torch_backend
from rlif_kernels.backends.c import pairs as c_pairs
from rlif_kernels.pairs import (
    NUM_SUMS,
    Pair,
    PairSums,
    active_rows,
    merge_slices,
    pair_results,
    pair_values,
    state_of_slice,
    with_mixture,
)

if TYPE_CHECKING:
    from rlif_kernels.backends.sharded.parallel import VocabParallel


class PairBackend(Protocol):
    """What takes the looks one by one, within one process."""

    def sums(self, pair: Pair) -> Tensor:
        """`PairSums`; of masked rows anything."""
        ...

    def mixture(self, pair: Pair, state: Tensor) -> Tensor:
        """Return sum p log(p/m) and sum q log(q/m), (2, N) float64; of masked rows anything."""
        ...

    def gradient(self, grad_logits: Tensor, pair: Pair, state: Tensor) -> None:
        """Write the gradient of the loss, from `PairState`; it may overwrite the logits."""
        ...


def _whole_rows(backend: LocalBackend) -> Callable[[Tensor | None, Pair], dict[str, Tensor]] | None:
    """What takes all looks at a row at once, and writes the gradient; None where they come one by one."""
    if backend is cpu_backend:
        return c_pairs.divergence
    if backend is torch_backend:
        return None
    from rlif_kernels.backends.triton import pairs as triton_pairs  # Triton may be absent

    return triton_pairs.divergence


def divergence(name: str, group: str, grad_logits: Tensor | None, pair: Pair) -> dict[str, Tensor]:
    """PAIR_OUTPUTS of each row, (N,), and the gradient of the loss in `grad_logits` (which may be the logits) if given.

    Args:
        name, group: of the backend, and of the process group over which the vocabulary is sharded, or "".
    """
    local = local_backend(name, pair.logits)
    ranks, whole_rows = vocab_parallel(local, group), _whole_rows(local)
    if ranks is None and whole_rows is not None:
        return whole_rows(grad_logits, pair)
    return _look_by_look(c_pairs if local is cpu_backend else torch_pairs, ranks, grad_logits, pair)


def _look_by_look(
    backend: PairBackend, ranks: "VocabParallel | None", grad_logits: Tensor | None, pair: Pair
) -> dict[str, Tensor]:
    empty = pair.rows.num_columns == 0  # beyond `vocab_size`
    if empty:
        own = pair.weight.new_zeros((NUM_SUMS, pair.rows.num_rows), dtype=torch.float64)
        for m in (PairSums(*own).m, PairSums(*own).teacher_m):
            m.fill_(-torch.inf)
    else:
        own = backend.sums(pair)
    whole = own if ranks is None else merge_slices(ranks.of_all_slices(own), pair.rows, pair.teacher_rows)
    state, results = pair_results(whole, pair.rows.num_columns)
    if ranks:
        state = state_of_slice(state, own, pair.rows, pair.teacher_rows)
    if pair.kind == "jsd":
        mixture = torch.zeros_like(own[:2]) if empty else backend.mixture(pair, state)
        if ranks:
            ranks.sum_over_slices(mixture)
        with_mixture(state, results, mixture, pair.beta)
    if grad_logits is not None:
        if empty:
            grad_logits.zero_()
        else:
            backend.gradient(grad_logits, pair, state)
    return pair_values(results, pair, active_rows(pair))
