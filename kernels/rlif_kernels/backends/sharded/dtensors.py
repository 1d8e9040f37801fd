"""The public functions with DTensors: over what each argument may be sharded, and what results and gradients are.

One dimension of the mesh at most divides the vocabulary, and its processes are the `group` of the plain functions. The
others may divide the rows, as the placements of the logits or of the hidden states say, here S: Replicate, or Shard of
a dimension of rows.

| argument | where the vocabulary is divided | elsewhere |
| --- | --- | --- |
| `logits`, and those of a teacher or reference | Shard of the last dimension | S |
| `hidden`, likewise | Replicate | S |
| `weight`, `bias`, likewise | Shard(0) | Replicate |
| a number for each row: targets, mask, advantages, … | Replicate | S; what is Replicate everywhere is cut |

A gradient has the placements of its argument: that of a replicated weight is the sum over the processes that have other
rows. A plain tensor beside DTensors is this process's own part, and the same on processes that divide the vocabulary.
Results are DTensors where the logits or hidden states are: the rows' are S, and Replicate where the vocabulary is
divided; a loss is that of all rows, the same everywhere.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from rlif_kernels.loss_options import VARIANT_DEFAULTS, selects_tokens
from rlif_kernels.stats import IGNORE_INDEX

WHOSE = ("", "teacher_", "ref_")
LOGITS, HIDDEN, HEAD = (
    tuple(whose + name for whose in WHOSE for name in names) for names in (("logits",), ("hidden",), ("weight", "bias"))
)
# The losses that divide the sum over tokens by those of the whole batch, and the one that takes the mean over them.
BY_ITEMS, BY_TOKENS = ("dapo", "cispo", "vespo"), "bnpo"


class Layout(NamedTuple):
    """How the arguments of a call are divided over the processes of a mesh."""

    mesh: DeviceMesh
    source: str
    """The name of what has the rows: "logits" or "hidden"."""
    rows: tuple[Placement, ...]
    """Of what has one number for each row, on each dimension of the mesh."""
    shape: torch.Size | None
    """Of the rows of all processes; None where the source is a plain tensor."""
    vocabulary: int | None
    """The dimension of the mesh that divides the vocabulary."""

    @property
    def divides_rows(self) -> bool:
        return any(isinstance(each, Shard) for each in self.rows)

    def parts(self) -> tuple[Placement, ...]:
        """Return the placements of a number that each process has of its own rows, and whose sum is the whole."""
        return tuple(Partial() if isinstance(each, Shard) else Replicate() for each in self.rows)

    def total(self, number: Tensor) -> Tensor:
        """Add up what each process has of its own rows."""
        return DTensor.from_local(number, self.mesh, self.parts(), run_check=False).full_tensor()


def call_with_dtensors(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function of plain tensors with each process's own parts, and return DTensors.

    Raises:
        ValueError: placements, meshes or options that do not go together, naming the argument, what it has and what was
            expected; and whatever the function raises.
    """
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    given |= given.pop("variant", {})
    layout = _layout(given)
    own = {name: _own_part(name, value, layout) for name, value in given.items()}
    if layout.vocabulary is not None:
        own["group"] = layout.mesh.get_group(layout.vocabulary)
        if layout.shape is None:
            _check_same_rows(own, layout)
    if layout.divides_rows and "advantages" in own:
        own |= _loss_of_all_rows(own, layout)
    elif layout.divides_rows and "kind" in own and own["token_weight"] is None:
        active = _active(own)
        own["token_weight"] = active / layout.total(active.sum()).clamp(min=1)
    return _placed(function(**own), layout)


def _layout(given: dict[str, Any]) -> Layout:
    tensors = {name: value for name, value in given.items() if isinstance(value, DTensor)}
    first, mesh = next((name, value.device_mesh) for name, value in tensors.items())
    for name, value in tensors.items():
        if value.device_mesh != mesh:
            raise ValueError(f"{name} is on {value.device_mesh}; expected {mesh}, the mesh of {first}")
    source, holder = ("logits", "logits") if "logits" in given else ("hidden", "weight")
    if given["group"] is not None:
        raise ValueError(f"group is a process group and {first} a DTensor; expected None, since the mesh has the group")
    if given.get("inplace_backward"):
        raise ValueError(
            f"inplace_backward is True and {first} a DTensor; expected False, since other ops on a DTensor do not see "
            "that it was written over"
        )
    vocabulary = _vocabulary(holder, tensors[holder]) if holder in tensors else None
    nothing = (Replicate(),) * mesh.ndim
    if source not in tensors:
        return Layout(mesh, source, nothing, None, vocabulary)
    rows = list(_placements(tensors[source]))
    if source == holder and vocabulary is not None:
        rows[vocabulary] = Replicate()
    last = tensors[source].ndim - 1
    if not all(each == Replicate() or (isinstance(each, Shard) and each.dim < last) for each in rows):
        also = f", or on one dimension of the mesh Shard(dim={last})" if source == holder else ""
        raise _wrong(source, tensors[source], f"Replicate() or Shard of a dimension before the last{also}")
    if vocabulary is not None and rows[vocabulary] != Replicate():
        what = f"Replicate() on dimension {vocabulary} of the mesh, over which {holder} is sharded"
        raise _wrong(source, tensors[source], what)
    return Layout(mesh, source, tuple(rows), tensors[source].shape[:-1], vocabulary)


def _placements(value: DTensor) -> tuple[Placement, ...]:
    """The placements, with dimensions counted from the first."""
    return tuple(Shard(each.dim % value.ndim) if isinstance(each, Shard) else each for each in value.placements)


def _wrong(name: str, value: DTensor, expected: object) -> ValueError:
    return ValueError(f"{name} has placements {value.placements}; expected {expected}")


def _vocabulary(name: str, value: DTensor) -> int | None:
    """The dimension of the mesh that divides the vocabulary of logits or of a weight."""
    dim = value.ndim - 1 if name in LOGITS else 0
    dims = [index for index, each in enumerate(_placements(value)) if each == Shard(dim)]
    if not dims:
        return None
    if len(dims) > 1:
        raise _wrong(name, value, f"Shard(dim={dim}) on one dimension of the mesh at most")
    ranks, columns = value.device_mesh.mesh, value.shape[dim]
    processes = ranks.shape[dims[0]]
    if not (ranks.diff(dim=dims[0]) > 0).all():
        raise ValueError(
            f"{name} is on {value.device_mesh}; expected a mesh whose ranks ascend, as those of a group do"
        )
    # Such are the parts of `torch.chunk`, the last of which may be empty.
    with_any = -(-columns // -(-columns // processes)) if columns else 0
    if with_any < processes:
        raise ValueError(
            f"{name} has {columns} columns, which {with_any} of {processes} processes hold; expected some on each"
        )
    return dims[0]


def _own_part(name: str, value: Any, layout: Layout) -> Any:
    """This process's part of an argument, and for its gradient the way back."""
    if not isinstance(value, DTensor):
        return value
    if value.ndim == 0 or name == "num_items_in_batch":
        return value.full_tensor()
    expected: list[Placement] = [Replicate()] * layout.mesh.ndim if name in HEAD else list(layout.rows)
    if layout.vocabulary is not None and name in (*HEAD, *LOGITS):
        expected[layout.vocabulary] = Shard(0 if name in HEAD else value.ndim - 1)
    placements = tuple(expected)
    if _placements(value) != placements:
        replicated = all(each == Replicate() for each in value.placements)
        if name in (*LOGITS, *HIDDEN, *HEAD) or not replicated:
            raise _wrong(name, value, f"{placements}, as {layout.source} and the vocabulary are divided")
        value = value.redistribute(placements=placements)
    if name not in HEAD or not layout.divides_rows:
        return value.to_local(grad_placements=placements)
    # Each process has the gradient of its own rows. The step between adds them up.
    pairs = zip(layout.rows, placements, strict=True)
    parts = tuple(Partial() if isinstance(of_rows, Shard) else own for of_rows, own in pairs)
    return value.redistribute(placements=placements).to_local(grad_placements=parts)


def _check_same_rows(own: dict[str, Any], layout: Layout) -> None:
    """Refuse plain hidden states of other rows on each process, as beside a weight that FSDP has sharded."""
    source, targets = own[layout.source], own.get("targets")
    if not isinstance(source, Tensor) or not (targets is None or isinstance(targets, Tensor)):
        return  # the function says so
    group, count = own["group"], source.shape[:-1].numel()
    rows = torch.zeros(2, dtype=torch.int64, device=source.device)
    rows[0] = count
    if targets is not None:
        rows[1] = (targets.reshape(-1).long() * torch.arange(1, targets.numel() + 1, device=targets.device)).sum()
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, rows, group=group)
    if any(not torch.equal(each, gathered[0]) for each in gathered):
        raise ValueError(
            f"{layout.source} has other rows on each process that weight is sharded over; expected the same rows, or "
            "weight.full_tensor() where FSDP has sharded it"
        )


def _active(own: dict[str, Any]) -> Tensor:
    """(...) bool: this process's rows that count."""
    source, targets, mask = (own.get(name) for name in ("logits", "targets", "mask"))
    source = own["hidden"] if source is None else source
    active = torch.ones(source.shape[:-1], dtype=torch.bool, device=source.device)
    if targets is not None:
        active = targets != IGNORE_INDEX
    return active if mask is None else active & mask


def _loss_of_all_rows(own: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """The options with which the losses of the processes' own rows add up to the loss of all rows."""
    tokens_dim = len(layout.shape or ()) - 1
    if Shard(tokens_dim) in layout.rows:
        raise ValueError(
            f"{layout.source} has placements with Shard(dim={tokens_dim}), which divides the tokens of a sequence; "
            "expected each sequence whole on one process"
        )
    if selects_tokens(VARIANT_DEFAULTS | own):
        raise ValueError(
            f"{layout.source} has placements {layout.rows} of its rows; expected Replicate() with options that choose "
            "tokens by what all tokens say"
        )
    assert layout.shape is not None
    active = _active(own)
    tokens, share = int(layout.total(active.sum())), 1.0
    if own["loss_type"] == BY_TOKENS:
        share = int(active.sum()) / max(1, tokens)
    elif own["loss_type"] not in BY_ITEMS:
        share = active.shape[:-1].numel() / max(1, layout.shape[:-1].numel())
    changed = {name: own[name] / (share or 1.0) for name in ("entropy_coef", "self_certainty_coef")}
    count = own["num_items_in_batch"]
    changed["num_items_in_batch"] = max(1, tokens) if count is None else count
    return changed | {"loss_scale": own["loss_scale"] * share}


def _placed(result: Any, layout: Layout) -> Any:
    """The named tuple of results, each with its placements."""
    shape = layout.shape
    if shape is None:
        return result

    def placed(name: str, value: Tensor) -> DTensor:
        if name == "loss":
            parts = DTensor.from_local(value, layout.mesh, layout.parts(), run_check=False)
            return parts.redistribute(placements=(Replicate(),) * layout.mesh.ndim)
        whole = torch.empty(shape + value.shape[len(shape) :], device="meta")
        return DTensor.from_local(
            value, layout.mesh, layout.rows, run_check=False, shape=whole.shape, stride=whole.stride()
        )

    return type(result)(**{name: v if v is None else placed(name, v) for name, v in result._asdict().items()})
