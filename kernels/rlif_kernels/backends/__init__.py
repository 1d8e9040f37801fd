"""Which code computes: C or torch on a CPU, Triton on GPUs, any of them for a slice of a sharded vocabulary.

A backend has

- ``forward(logits, targets, temperature, softcap, num_columns, outputs) -> (fields, row_state)``
- ``backward(grad_logits, grads, logits, targets, temperature, softcap, num_columns, row_state) -> None``
- ``grpo(grad_logits, logits, targets, temperature, softcap, num_columns, outputs, rows, options) -> (fields, terms)``,
  both at once for a loss whose derivative is known row by row (`policy_loss`)
- ``row_maximum(row_state, temperature) -> Tensor``, for rows that are sharded

where `row_state` (STATE_ROWS, N) float32 holds what lets the backward skip every reduction; its rows are the backend's
own affair.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from torch import Tensor

from rlif_kernels.backends import c as cpu_backend
from rlif_kernels.backends import torch as torch_backend
from rlif_kernels.backends.c.build import found

if TYPE_CHECKING:
    from rlif_kernels.backends.sharded.parallel import VocabParallel

BACKENDS = ("triton", "cpu", "torch")


def backend_for(name: str, logits: Tensor, group: str = "") -> "ModuleType | VocabParallel":
    """The backend named, or for "auto" Triton on GPUs, elsewhere C if it can be had, or torch.

    The choice does not depend on the shape, so that a row has the same bits in any batch. Called inside the library
    ops, where a tracer does not look.

    Args:
        name: one of `BACKENDS`, or "auto".
        logits: what it is for; of `hidden` and `weight` only dtype and device matter, and are the same.
        group: the name of the process group over which the vocabulary is sharded, or "".
    """
    backend = _for_one_process(name, logits)
    if not group:
        return backend
    # Here because torch.distributed may be absent. Ops take no process groups: they are known by their names.
    from torch._C._distributed_c10d import _resolve_process_group

    from rlif_kernels.backends.sharded.parallel import VocabParallel

    return VocabParallel(backend, _resolve_process_group(group))  # type: ignore[arg-type]


def _for_one_process(name: str, logits: Tensor) -> ModuleType:
    if name == "auto":
        on_gpu = logits.device.type in ("cuda", "xpu")
        name = "triton" if on_gpu else "cpu" if cpu_backend.serves(logits) else "torch"
    if name == "torch":
        return torch_backend
    if name == "cpu":
        if not cpu_backend.serves(logits):
            raise ValueError(
                f'backend is "cpu" and logits is {logits.dtype} on {logits.device}; expected a CPU, and C kernels for '
                f"it ({found().reason})"
            )
        return cpu_backend
    try:
        # Imported on first use only: `import rlif_kernels` must work where Triton is not installed.
        from rlif_kernels.backends import triton as triton_backend
    except ImportError as error:
        raise ImportError('backend="triton" needs the triton package, which could not be imported') from error
    return triton_backend
