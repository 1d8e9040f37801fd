"""Several sequences in one row without padding: where prompts and completions stand, and how a model is told.

The completions of a group stand behind their prompt, which is there once: each attends to the prompt and to itself, and
its positions go on from the prompt's. So P + G T tokens take the place of G (P + T).

transformers builds the mask of every kind of layer from a function of the indices of a query and a key: causal, within
a window, within a chunk. Here the function gets positions in the place of indices, so that it says of a packed row what
it says of separate ones. The mask and the attention that reads it are registered with transformers under a name of
their own, which a model's configuration has within `packed` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlif.models.packed_attention import Group, PackedMask, packed_attention

# transformers takes a name with "flash" in it for a kernel that wants no mask.
NAME = "rlif_packed"

Ids = list[int]


@dataclass(frozen=True)
class PackedRow:
    """N sequences in one row of S tokens: in each group a prompt, and then its completions."""

    input_ids: Tensor
    """(1, S) int64."""
    position_ids: Tensor
    """(1, S) int64: of a prompt from 0, of each of its completions from the prompt's length."""
    groups: tuple[Group, ...]
    places: tuple[range, ...]
    """Of each of the N completions: where its tokens stand."""
    prompt_ends: tuple[int, ...]
    """Of each: where the last token of its prompt stands."""

    def inputs(self) -> dict[str, Any]:
        """Return what a model is called with, within `packed`."""
        # Without a mask transformers would look for sequences in the positions, and part completions from their prompt.
        mask = torch.ones_like(self.input_ids)
        return {
            "input_ids": self.input_ids,
            "attention_mask": mask,
            "position_ids": self.position_ids,
            "use_cache": False,
        }


def pack_row(prompts: Sequence[Ids], completions: Sequence[Ids], device: torch.device) -> PackedRow:
    """Put N sequences in one row, in which each distinct prompt is there once, and so is each completion of it.

    Args:
        prompts: N lists of at least one token id. Those of the same tokens need not stand side by side.
        completions: N lists of token ids, which may be empty.
        device: of the row.
    """
    members: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        members.setdefault(tuple(prompt), []).append(number)
    tokens: Ids = []
    positions: Ids = []
    groups = []
    places, prompt_ends = [range(0)] * len(prompts), [0] * len(prompts)
    for shared, numbers in members.items():
        prompt = list(shared)
        start = len(tokens)
        tokens.extend(prompt)
        positions.extend(range(len(prompt)))
        behind = len(tokens)
        # Equal completions stand there once, which makes what is said of them equal to the bit.
        distinct: dict[tuple[int, ...], range] = {}
        for number in numbers:
            ids = completions[number]
            if tuple(ids) not in distinct:
                distinct[tuple(ids)] = range(len(tokens), len(tokens) + len(ids))
                tokens.extend(ids)
                positions.extend(range(len(prompt), len(prompt) + len(ids)))
            places[number] = distinct[tuple(ids)]
            prompt_ends[number] = behind - 1
        lengths = tuple(len(ids) for ids in distinct if ids)
        # A prompt with one completion is one sequence: there is nothing to share.
        groups.append(Group(start, len(prompt), lengths) if len(lengths) > 1 else Group(start, len(tokens) - start, ()))
    input_ids, position_ids = torch.tensor([[tokens], [positions]], device=device)
    return PackedRow(input_ids, position_ids, tuple(groups), tuple(places), tuple(prompt_ends))


# ---------------------------------------------------------------- how a model is told

_row: ContextVar[PackedRow | None] = ContextVar("row", default=None)


@contextmanager
def packed(model: PreTrainedModel, row: PackedRow) -> Iterator[None]:
    """Within, the model reads this row, and its layers attend as the row says."""
    token = _row.set(row)
    try:
        with attention_named(model, NAME):
            yield
    finally:
        _row.reset(token)


@contextmanager
def attention_named(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Within, the model's layers take the attention that transformers knows by this name."""
    configs = _configs(model)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        # The outer ones first: they set the inner ones too.
        for config, previous in zip(configs, before, strict=True):
            config._attn_implementation = previous


def attention_as_now(model: PreTrainedModel) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return a context for a forward and one for its repetition in the backward, which then has the same attention."""
    return nullcontext(), attention_named(model, model.config._attn_implementation)


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    configs = [model.config, model.config.get_text_config(), model.base_model.config]
    return list({id(config): config for config in configs}.values())


def packed_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor] = causal_mask_function,
    use_vmap: bool = False,
    **others: Any,
) -> PackedMask:
    """Make the mask of a kind of layers for the row that `packed` has, as transformers calls a mask function.

    Raises:
        NotImplementedError: the model wants more than a function of two positions.
    """
    row = _row.get()
    if row is None or use_vmap or (batch_size, q_length, kv_length) != (1, *[row.input_ids.shape[1]] * 2):
        raise NotImplementedError("a mask that packed rows do not know")
    known: dict[tuple[int, int], Tensor | None] = {}
    device = row.input_ids.device

    def seen(first: int, length: int) -> Tensor | None:
        """Tell what the tokens of positions first to first + length see, (length, first + length); None: causal."""
        if mask_function is causal_mask_function or length == 0:
            return None
        if (first, length) not in known:
            places = torch.arange(first + length, device=device)
            zero = places.new_zeros(1, 1)
            mask = mask_function(zero, zero, places[first:, None], places[None]) & (places <= places[first:, None])
            causal = torch.equal(mask, torch.ones_like(mask).tril(first))
            known[first, length] = None if causal else mask
        return known[first, length]

    return PackedMask(
        row.groups,
        tuple(seen(0, group.prompt) for group in row.groups),
        tuple(seen(group.prompt, group.longest) for group in row.groups),
        device,
    )


ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, packed_mask)
ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
