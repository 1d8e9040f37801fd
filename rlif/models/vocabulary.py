"""Columns of a head that are no tokens: how they are found, and how a model does without them.

Heads are padded to a round number of columns, or hold rows in reserve that no text ever trained. Nobody samples these
columns, but every one of them counts in KL(Uniform ‖ p): self-certainty is a mean of -log p over all columns, and that
of a column without meaning says nothing of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlif.errors import UserError

# How tokens are called that were put aside for later: <unused12>, [PAD151665], <|reserved_special_token_3|>.
RESERVED = re.compile(
    r"[<\[]\|?_?(?:unused|reserved|placeholder|dummy|pad|empty)(?:_?special)?(?:_?tokens?)?[_-]?\d+_?\|?[>\]]",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class UnusedColumns:
    """Columns of a head that no text has to do with."""

    count: int
    """All of them; a column counts once."""
    unnamed: int
    """Those that the tokenizer has no token for."""
    reserved: int
    """Those whose token's name says that it is held in reserve."""
    repeated: int
    """Those whose weights are another column's too, to the bit: training would have made them differ."""
    num_columns: int
    """Of the head."""
    vocab_size: int | None
    """The first columns, as many as end with the last one in use; None where that is all."""
    example: str
    """What one of them is called."""


def num_columns(model: PreTrainedModel) -> int:
    """Count the columns of the model's logits: all rows of its head, or those that `limit_vocabulary` left."""
    linear = model.get_output_embeddings()
    if linear is None:
        return model.config.get_text_config().vocab_size
    return limit_of(linear) or len(linear.weight)


def limit_of(linear: nn.Module) -> int | None:
    """Return how many columns of a head `limit_vocabulary` left; None where it left all."""
    return getattr(linear, "first_columns", None)


def limit_vocabulary(model: PreTrainedModel, vocab_size: int) -> None:
    """Let a model's logits be those of the first `vocab_size` tokens alone, for sampling and scoring alike.

    The weights stay as they are, and so does what is saved; rows beyond get no gradient from the head.

    Raises:
        UserError: the head has fewer columns, or the model has no head that can be asked.
    """
    linear = model.get_output_embeddings()
    if linear is None:
        raise UserError(f"vocab_size: {type(model).__name__} has no output embedding whose columns could be left out")
    if vocab_size > len(linear.weight):
        raise UserError(f"vocab_size: got {vocab_size}, expected at most {len(linear.weight)}, the columns of the head")
    _limit(linear, vocab_size)


@contextmanager
def limited_vocabulary(model: PreTrainedModel, vocab_size: int) -> Iterator[None]:
    """Within, the model does without the columns after these; it must not be limited already."""
    linear = model.get_output_embeddings()
    handle = _limit(linear, vocab_size)
    try:
        yield
    finally:
        handle.remove()
        del linear.first_columns


def _limit(linear: nn.Module, vocab_size: int) -> Any:
    linear.__dict__["first_columns"] = vocab_size  # which is no module and no weight
    return linear.register_forward_hook(_first_columns)


def _first_columns(linear: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
    return logits[..., : limit_of(linear)]


@torch.no_grad()
def unused_columns(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> UnusedColumns | None:
    """Look for columns that no text has to do with; None where there are none, or no head to look at.

    Args:
        model: whose columns beyond those of `limit_vocabulary` are left out already.
        tokenizer: that names them.
    """
    linear = model.get_output_embeddings()
    if linear is None or not hasattr(linear, "weight"):
        return None
    count = num_columns(model)
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    unnamed = torch.tensor([index not in names for index in range(count)])
    reserved = torch.tensor([bool(RESERVED.fullmatch(names.get(index, ""))) for index in range(count)])
    repeated = _repeated(linear.weight[:count]).cpu()
    unused = unnamed | reserved | repeated
    if not unused.any() or unused.all():
        return None
    last = int((~unused).nonzero().max())
    first = int(unused.nonzero()[0 if last + 1 == count else -1])
    return UnusedColumns(
        count=int(unused.sum()),
        unnamed=int(unnamed.sum()),
        reserved=int(reserved.sum()),
        repeated=int(repeated.sum()),
        num_columns=count,
        vocab_size=None if last + 1 == count else last + 1,
        example=names.get(first, f"column {first}"),
    )


def _repeated(weight: Tensor) -> Tensor:
    """Tell which rows of (V, H) weights are equal to another one: (V,) bool."""
    # Equal rows have equal products with any vector; of rows that differ one of float64 is equal by no chance.
    vector = torch.rand(weight.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    products = torch.cat([part.double().cpu() @ vector for part in weight.split(8192)])
    _, which, counts = products.unique(return_inverse=True, return_counts=True)
    return counts[which] > 1
