"""Attention within a packed row: each completion attends to its prompt and to itself, and to nothing else.

The row is taken apart into blocks whose scores are all wanted, so that a group of P + G T tokens costs
P P + G T (P + T) scores and not (P + G T)^2. There are two ways:

- `_Parts`, where every mask is causal and the device is a CPU: each sequence attends to itself, and the completions of
  a group in one call to their prompt, without a copy of its keys for each of them. What the two say of a query is put
  together by the log-sum-exp of their scores, as in blockwise attention (arXiv 2305.19370), and the backward of each
  block needs only the final output and log-sum-exp (arXiv 2205.14135), so that no score is kept.
- `_by_group` for everything else: windows, softcaps, sinks, other devices. Keys of the prompt are repeated for each
  completion, and a mask says the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# torch's own kernel of scaled_dot_product_attention on a CPU, whose log-sum-exp only this form returns.
CPU_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"


@dataclass(frozen=True)
class Group:
    """A prompt in a packed row, and the completions right behind it."""

    start: int
    """Place of the prompt's first token."""
    prompt: int
    """Tokens of the prompt, at least 1."""
    completions: tuple[int, ...]
    """Tokens of each completion, at least 1."""

    @property
    def behind(self) -> int:
        """Place of the first completion's first token."""
        return self.start + self.prompt

    @property
    def end(self) -> int:
        """Place after the last token."""
        return self.behind + sum(self.completions)

    @property
    def longest(self) -> int:
        """Tokens of the longest completion; 0 without any."""
        return max(self.completions, default=0)

    def padded(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of G completions of at most T tokens: (G, T) int64 places in the row, and which are theirs (G, T) bool."""
        lengths = torch.tensor(self.completions, device=device)[:, None]
        steps = torch.arange(self.longest, device=device)
        starts = self.behind + lengths.cumsum(dim=0) - lengths
        # Those behind a completion's end show its last token again: no token of its own attends to them.
        return starts + torch.minimum(steps, lengths - 1), steps < lengths


@dataclass(frozen=True)
class PackedMask:
    """What attends to what in a packed row, in the layers of one kind."""

    groups: tuple[Group, ...]
    prompts: tuple[Tensor | None, ...]
    """Of each group: which of the prompt's tokens see which, (P, P) bool; None: causal."""
    completions: tuple[Tensor | None, ...]
    """Of each group: which of the T tokens of a completion see which of prompt and completion, (T, P + T) bool; None:
    causal."""

    device: torch.device

    @property
    def causal(self) -> bool:
        """Whether nothing but causality hides a token."""
        return all(mask is None for mask in self.prompts + self.completions)

    @cached_property
    def padded(self) -> list[tuple[Tensor, Tensor] | None]:
        """`Group.padded` of each group that has completions."""
        return [group.padded(self.device) if group.completions else None for group in self.groups]

    @cached_property
    def batches(self) -> list[_Batch]:
        """What `_Parts` takes together."""
        return _batches(self.groups)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: PackedMask,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within a packed row of S tokens, as transformers calls an attention function.

    Args:
        module: the attention layer.
        query: (1, heads, S, head_dim).
        key: (1, key heads, S, head_dim); each serves heads / key heads heads.
        value: (1, key heads, S, value_dim).
        attention_mask: of the row.
        scaling: of the scores; None is head_dim^-1/2.
        dropout: 0: sampling and scoring see the same distributions.
        softcap: c of c tanh(score / c), if any.
        s_aux: (heads,) a further score of each head, whose share of the probability goes nowhere.
        position_bias: none can be told of a packed row.
        others: what needs no attention here, such as the window, which the mask has.

    Returns:
        (1, S, heads, value_dim), and None for the probabilities.

    Raises:
        NotImplementedError: the layer wants something that is not known here.
    """
    if not isinstance(attention_mask, PackedMask) or position_bias is not None or dropout:
        raise NotImplementedError(f"{type(module).__name__} attends in a way that packed rows do not know")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    plain = softcap is None and s_aux is None and attention_mask.causal and query.shape[-1] == value.shape[-1]
    if plain and query.device.type == "cpu" and hasattr(torch.ops.aten, CPU_KERNEL):
        return _Parts.apply(query, key, value, attention_mask, scale), None
    return _by_group(query, key, value, attention_mask, scale, softcap, s_aux), None


# ---------------------------------------------------------------- group by group, with masks


def _by_group(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: PackedMask,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """`packed_attention` of any kind."""
    parts = []
    blocks = zip(mask.groups, mask.prompts, mask.completions, mask.padded, strict=True)
    for group, seen, seen_behind, padded in blocks:
        own = slice(group.start, group.behind)
        prompt_key, prompt_value = key[:, :, own], value[:, :, own]
        parts.append(_attend(query[:, :, own], prompt_key, prompt_value, seen, scale, softcap, sinks)[0])
        if padded is None:
            continue
        (places, real), count = padded, len(group.completions)
        # (heads, G, T, dim) -> (G, heads, T, dim)
        own_query, own_key, own_value = (states[0][:, places].transpose(0, 1) for states in (query, key, value))
        keys = torch.cat([prompt_key.expand(count, -1, -1, -1), own_key], dim=2)
        values = torch.cat([prompt_value.expand(count, -1, -1, -1), own_value], dim=2)
        if seen_behind is None:
            shape = (group.longest, group.prompt + group.longest)
            seen_behind = torch.ones(shape, dtype=torch.bool, device=query.device).tril(group.prompt)
        attended = _attend(own_query, keys, values, seen_behind, scale, softcap, sinks)
        parts.append(attended.transpose(0, 1)[:, real])
    return torch.cat(parts, dim=1).transpose(0, 1)[None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attend in N sequences at once: queries (N, heads, L, d) to keys (N, key heads, K, d), as far as (L, K) is seen.

    Without `seen` L = K, and each query sees what is not behind it.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(repeats, dim=1) if repeats > 1 else states for states in (key, value))
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(query, key, value, seen, is_causal=seen is None, scale=scale)
    if seen is None:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        further = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, further], dim=3)
    share = torch.softmax(scores, dim=3, dtype=torch.promote_types(torch.float32, scores.dtype)).to(query.dtype)
    return share[..., : key.shape[2]] @ value


# ---------------------------------------------------------------- in parts that are put together, on a CPU


@dataclass(frozen=True)
class _Batch:
    """n sequences of at most L tokens that attend to themselves together."""

    size: tuple[int, int]
    """n and L."""
    places: Tensor
    """(n L,) int64: where their tokens stand in the row; behind a sequence's end its last one again."""
    real: Tensor | None
    """(m,) int64: which of these are no repetition; None: all."""

    def take(self, states: Tensor) -> Tensor:
        """Take the batch's tokens of (S, …): (n, L, …)."""
        return states.index_select(0, self.places).unflatten(0, self.size)

    def put(self, states: Tensor, found: Tensor) -> None:
        """Put what was found, (n, L, …), in its place in (S, …)."""
        found = found.flatten(0, 1)
        if self.real is None:
            states.index_copy_(0, self.places, found)
        else:
            states.index_copy_(0, self.places[self.real], found[self.real])

    def without_repetitions(self, states: Tensor) -> Tensor:
        """Set the repeated tokens of (n, L, …) to 0."""
        if self.real is None:
            return states
        kept = states.new_zeros(len(self.places)).index_fill_(0, self.real, 1).view(*self.size)
        return states * kept[(...,) + (None,) * (states.dim() - 2)]


def _batches(groups: tuple[Group, ...]) -> list[_Batch]:
    """Divide prompts and completions by their length, so that no batch repeats more tokens than it has."""
    by_size: dict[int, list[tuple[int, int]]] = {}
    for group in groups:
        start = group.start
        for length in (group.prompt, *group.completions):
            by_size.setdefault((length - 1).bit_length(), []).append((start, length))
            start += length
    batches = []
    for sequences in by_size.values():
        starts, lengths = torch.tensor(sequences).T[:, :, None]
        steps = torch.arange(int(lengths.max()))
        places, real = starts + torch.minimum(steps, lengths - 1), (steps < lengths).flatten()
        size = (places.shape[0], places.shape[1])
        batches.append(_Batch(size, places.flatten(), None if real.all() else real.nonzero().squeeze(1)))
    return batches


class _Parts(torch.autograd.Function):
    """`packed_attention` where nothing but causality hides a token.

    The row is seen as (S, key heads, repeats, d) here, as it lies in memory. In a batch the kernel is called for one
    key head at a time, so that neither keys nor values are repeated.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, scale: float) -> Tensor:
        """Return (1, S, heads, d), and keep it with the log-sum-exp of every query's scores."""
        queries, keys, values = _by_token(query, key, value)
        out = torch.empty(queries.shape, dtype=query.dtype)
        total = torch.empty(queries.shape[:3], dtype=torch.promote_types(torch.float32, query.dtype))
        kernel = getattr(torch.ops.aten, CPU_KERNEL)
        heads = range(queries.shape[1])
        for batch in mask.batches:
            taken = [batch.take(states) for states in (queries, keys, values)]
            for head in heads:
                states = [_of_head(each, head, queries) for each in taken]
                found, sums = kernel(*states, 0.0, True, scale=scale)
                batch.put(out[:, head], found.transpose(1, 2))
                batch.put(total[:, head], sums.transpose(1, 2))
        for rows, columns in _to_prompts(mask.groups):
            states = [queries[rows].permute(1, 2, 0, 3)]
            states += [_repeated(each[columns], queries) for each in (keys, values)]
            of_rows = out[rows].permute(1, 2, 0, 3), total[rows].permute(1, 2, 0)
            _put_together(*of_rows, *kernel(*states, 0.0, False, scale=scale))
        ctx.save_for_backward(query, key, value, out, total)
        ctx.mask, ctx.scale = mask, scale
        return out.flatten(1, 2)[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Go back through each block with the output and the log-sum-exp of all of them together."""
        query, key, value, out, total = ctx.saved_tensors
        queries, keys, values = _by_token(query, key, value)
        above = gradient[0].reshape(queries.shape)
        kernel = getattr(torch.ops.aten, f"{CPU_KERNEL}_backward")
        slopes = [torch.empty_like(states) for states in (query, key, value)]
        by_query, by_key, by_value = _by_token(*slopes)
        heads = range(queries.shape[1])
        for batch in ctx.mask.batches:
            taken = [batch.take(states) for states in (above, queries, keys, values, out)]
            # A repeated token has no gradient, so that it adds nothing to those of keys and values.
            taken[0] = batch.without_repetitions(taken[0])
            totals = batch.take(total)
            for head in heads:
                states = [_of_head(each, head, queries) for each in taken]
                found = kernel(*states, totals[:, :, head].transpose(1, 2), 0.0, True, scale=ctx.scale)
                batch.put(by_query[:, head], found[0].transpose(1, 2))
                for slope, each in zip((by_key, by_value), found[1:], strict=True):
                    batch.put(slope[:, head], each.sum(dim=1))
        for rows, columns in _to_prompts(ctx.mask.groups):
            above_rows, own, of_rows = (each[rows].permute(1, 2, 0, 3) for each in (above, queries, out))
            states = [own, *(_repeated(each[columns], queries) for each in (keys, values))]
            totals = total[rows].permute(1, 2, 0)
            found = kernel(above_rows, *states, of_rows, totals, 0.0, False, scale=ctx.scale)
            by_query[rows] += found[0].permute(2, 0, 1, 3)
            for slope, each in zip((by_key, by_value), found[1:], strict=True):
                slope[columns] += each.sum(dim=1).transpose(0, 1)
        return *slopes, None, None


def _by_token(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See (1, heads, S, d) as (S, key heads, repeats, d), and keys and values as (S, key heads, d)."""
    queries = query[0].transpose(0, 1).unflatten(1, (key.shape[1], -1))
    return queries, key[0].transpose(0, 1), value[0].transpose(0, 1)


def _to_prompts(groups: tuple[Group, ...]) -> list[tuple[slice, slice]]:
    """List where the completions of each group stand, and their prompt."""
    return [(slice(group.behind, group.end), slice(group.start, group.behind)) for group in groups if group.completions]


def _of_head(states: Tensor, head: int, queries: Tensor) -> Tensor:
    """Take one key head of queries, (n, L, key heads, repeats, d), or of keys: (n, repeats, L, d) without a copy."""
    found = states[:, :, head]
    return found.transpose(1, 2) if found.dim() == 4 else found[:, None].expand(-1, queries.shape[2], -1, -1)


def _repeated(states: Tensor, queries: Tensor) -> Tensor:
    """Let all queries of a key head see its keys or values, (K, key heads, d): (key heads, repeats, K, d), no copy."""
    return states.transpose(0, 1)[:, None].expand(-1, queries.shape[2], -1, -1)


def _put_together(out: Tensor, total: Tensor, other: Tensor, other_total: Tensor) -> None:
    """Make one attention, in place, of two to different keys: (…, L, d) outputs, (…, L) log-sum-exps of the scores."""
    share = torch.sigmoid(other_total - total).unsqueeze(-1)
    out.copy_(torch.lerp(out.to(share.dtype), other.to(share.dtype), share))
    total.copy_(torch.logaddexp(total, other_total))
