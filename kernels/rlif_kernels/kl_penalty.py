"""The penalty of a loss by KL(policy ‖ reference) itself, ``kl="full"``, instead of an estimate of it.

An estimate knows the two probabilities of the token that was drawn. The divergence is over the whole vocabulary, and
its gradient p_j (log p_j - log q_j - KL) is the mean, over the tokens that might have been drawn, of the gradient of
the estimate "k2" (arXiv 2510.01555 compares the estimates as losses): the noise of the draw is gone, and where p = q it
is 0 token by token. It takes the reference's logits, or its hidden states and head: `linear_grpo_loss` has both sides'
logits one tile at a time, `grpo_loss` adds a `divergence`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from rlif_kernels.backends import pairs
from rlif_kernels.head.gradients import Gradients
from rlif_kernels.head.pairs import PairOfHeads, Tile, divergences_and_gradients, pair_of_rows
from rlif_kernels.head.tiles import HiddenRows
from rlif_kernels.loss_options import check_kl_kind
from rlif_kernels.loss_terms import TokenTerms
from rlif_kernels.pairs import Divergence, Pair
from rlif_kernels.policy_loss import GRPOLoss
from rlif_kernels.rows import Rows


class Penalty(NamedTuple):
    """The penalty of a loss of hidden states, whose tiles have the reference's logits too."""

    heads: PairOfHeads
    """The policy's and the reference's."""
    pair: Pair
    """All rows, and their weights in the loss times `beta`; the logits are not read."""
    moves: bool
    """Whether it is part of the loss, or to be known alone: a `beta` of 0."""
    backend: str
    group: str

    def of_tile(self, tile: Tile, rows: slice | Tensor, *, learns: bool) -> Tensor:
        """Return the divergence of each row, and leave the penalty's gradient in `Tile.spare` if it is asked for.

        That may be the memory of the reference's logits: a backend writes an element after it last read it.
        """
        pair = pair_of_rows(self.pair, rows)._replace(logits=tile.logits, teacher_logits=tile.teacher_logits)
        return pairs.divergence(self.backend, self.group, tile.spare if learns else None, pair)["value"]

    def in_tiles_of_its_own(
        self, taken: HiddenRows, terms: TokenTerms, parts: Gradients, needs: Sequence[bool]
    ) -> tuple[TokenTerms, Gradients]:
        """Add it to a loss that is known already, and to the gradients of hidden states, weight and bias."""
        needs = [need and self.moves for need in needs]
        values, more = divergences_and_gradients(self.heads, taken, self.pair, self.backend, self.group, needs)
        hidden, weight, bias = (
            part if other is None or part is None else part + other for part, other in zip(parts, more, strict=True)
        )
        return self.with_values(terms, values["value"], slice(None)), (hidden, weight, bias)

    def with_values(self, terms: TokenTerms, kl: Tensor, rows: slice | Tensor) -> TokenTerms:
        """Add the divergences of some rows to what each adds to the loss."""
        terms = terms._replace(kl=kl)
        return terms._replace(loss=terms.loss + self.pair.weight[rows] * kl) if self.moves else terms


def penalty_of_heads(heads: PairOfHeads, rows: Rows, weight: Tensor, beta: float, backend: str, group: str) -> Penalty:
    """Return the penalty of rows whose weight in the loss is (N,)."""
    hidden, ref_hidden = heads.student.hidden, heads.teacher_hidden
    pair = Pair(hidden, ref_hidden, rows, rows, "reverse_kl", 0.5, beta * weight, ("value",))
    return Penalty(heads, pair, beta != 0, backend, group)


def added(result: GRPOLoss, penalty: Divergence, beta: float) -> GRPOLoss:
    """Add a penalty that an op of its own computed."""
    return result._replace(loss=result.loss + penalty.loss if beta else result.loss, kl=penalty.value)


# ---------------------------------------------------------------- checks


def check_kl(kl: str, ref_logprob: Tensor | None, *given: tuple[str, Tensor | None]) -> None:
    """Check that the penalty was given what it takes.

    Args:
        given: what "full" takes, by its names; the first it cannot be without.

    Raises:
        ValueError: the kind is not known, or something is missing, or is of the other kind.
    """
    check_kl_kind(kl)
    first, reference = given[0]
    if kl == "full":
        if ref_logprob is not None:
            raise ValueError(f"ref_logprob is a tensor; expected None with kl 'full', which takes {first}")
        if reference is None:
            raise ValueError(f"{first} is None; expected the reference's with kl 'full'")
        return
    for name, tensor in given:
        if tensor is not None:
            raise ValueError(f"{name} is a tensor; expected None with kl {kl!r}, which takes ref_logprob")


def check_columns(name: str, columns: int, expected: int, *, exactly: bool) -> None:
    """Check that the reference has the columns that count, or exactly these: of a vocabulary that is divided.

    Raises:
        ValueError: it has not.
    """
    if columns < expected or (exactly and columns != expected):
        least = "" if exactly else " or more"
        raise ValueError(f"{name} is of {columns} columns; expected {expected}{least}, those of the policy")
