"""Which code computes: C or torch on a CPU, Triton on GPUs, any of them for a slice of a sharded vocabulary."""

import functools
import importlib.util
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.backends import torch as torch_backend
from rlif_kernels.backends.c.build import found
from rlif_kernels.loss_options import LossOptions
from rlif_kernels.loss_terms import LossRows, TokenTerms
from rlif_kernels.rows import Rows

if TYPE_CHECKING:
    from rlif_kernels.backends.sharded.parallel import VocabParallel


class FusedLoss(Protocol):
    """Statistics, loss and gradient of each row at once, for a loss whose derivative is known row by row."""

    def __call__(
        self,
        grad_logits: Tensor,
        logits: Tensor,
        rows: Rows,
        outputs: Sequence[str],
        loss_rows: LossRows,
        options: LossOptions,
    ) -> tuple[dict[str, Tensor], TokenTerms]:
        """Write the gradient of the logits, and return the requested fields and the terms of the clipped loss."""
        ...


class Backend(Protocol):
    """What computes the statistics of rows of logits and their gradient."""

    def forward(self, logits: Tensor, rows: Rows, outputs: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the requested fields, flat (N, …) float32, and the row state that `RowState` describes."""
        ...

    def backward(
        self, grad_logits: Tensor, grads: dict[str, Tensor], logits: Tensor, rows: Rows, row_state: Tensor
    ) -> None:
        """Write the gradient of the logits, from the upstream gradients (N,) by field.

        `grad_logits` may be the logits themselves; the other tensors are those of the forward.
        """
        ...

    @property
    def grpo(self) -> FusedLoss | None:
        """None where the loss takes a forward and a backward."""
        ...


class LocalBackend(Backend, Protocol):
    """A backend within one process, which can serve a slice of the vocabulary."""

    def row_maximum(self, row_state: Tensor, rows: Rows) -> Tensor:
        """The largest z of each row, (N,) float64."""
        ...

    def distances(self, x: Tensor, row_state: Tensor, rows: Rows) -> Tensor:
        """z less what the row's sums are relative to, (N, K) float64, of some capped logits of each row."""
        ...


def backend_for(name: str, logits: Tensor, group: str = "") -> Backend:
    """The backend named, for whole rows or for rows that are sharded over the process group of that name.

    Args:
        name: "triton", "cpu", "torch", or "auto".
        logits: what it is for; only dtype and device matter, so that hidden states will do.
        group: the name of the process group over which the vocabulary is sharded, or "".
    """
    backend = local_backend(name, logits)
    return vocab_parallel(backend, group) or backend


def vocab_parallel(backend: LocalBackend, group: str) -> "VocabParallel | None":
    """The backend for rows that are sharded over the group; None where there is no group."""
    if not group:
        return None
    # Here because torch.distributed may be absent. Ops take no process groups: they are known by their names.
    from torch._C._distributed_c10d import _resolve_process_group

    from rlif_kernels.backends.sharded.parallel import VocabParallel

    return VocabParallel(backend, _resolve_process_group(group))  # type: ignore[arg-type]


def local_backend(name: str, logits: Tensor) -> LocalBackend:
    """The backend named, or for "auto" Triton on GPUs, C elsewhere, and torch where the one in question cannot be had.

    The choice does not depend on the shape, so that a row has the same bits in any batch. Called inside the library
    ops, where a tracer does not look.
    """
    if name == "auto" and logits.device.type in ("cuda", "xpu"):
        name = "triton" if _has_triton() else "torch"
    elif name == "auto":
        name = "cpu" if cpu_backend.serves(logits) else "torch"
    if name == "torch":
        return torch_backend
    if name == "cpu":
        if not cpu_backend.serves(logits):
            raise ValueError(
                f'backend is "cpu" and logits is {logits.dtype} on {logits.device}; expected a CPU, and C kernels for '
                f"it ({found().reason})"
            )
        return cpu_backend
    return _triton_backend()


@functools.cache
def _has_triton() -> bool:
    """Whether Triton is installed; where a GPU could use it and it is not, as on Windows, the user is told once."""
    if importlib.util.find_spec("triton") is not None:
        return True
    warnings.warn(
        "the torch backend serves on this GPU, slower than the Triton kernels would: there is no package triton",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


@functools.cache
def _triton_backend() -> LocalBackend:
    """Imported on first use only: `import rlif_kernels` must work where Triton is not installed."""
    try:
        from rlif_kernels.backends import triton as triton_backend
    except ImportError as error:
        raise ImportError('backend="triton" needs the triton package, which could not be imported') from error
    return triton_backend
