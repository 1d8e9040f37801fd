"""`divergence`: of two rows of logits, the student's and the teacher's, with the gradient computed in the same pass.

`reference.divergence` is the definition, and `pairs` has what the backends compute. The loss is a weighted sum of the
rows' divergences, so that the weight of a row is all that its gradient needs to know beside the row itself. That
gradient is written while the rows are in the cache, as `grpo_loss` writes its own.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlif_kernels.backends import local_backend, pairs, vocab_parallel
from rlif_kernels.checks import check_inplace, check_logits
from rlif_kernels.dtensors import takes_dtensors
from rlif_kernels.loss_functions import logits_loss_functions
from rlif_kernels.op_names import op_name
from rlif_kernels.op_values import fake_pair_outputs, op_pair, op_pair_arguments, pair_outputs
from rlif_kernels.pair_checks import pair_arguments
from rlif_kernels.pairs import PAIR_OUTPUTS, Divergence
from rlif_kernels.transforms import (
    apply_uncompiled,
    transformed,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@takes_dtensors
def divergence(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    kind: str,
    beta: float = 0.5,
    token_weight: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    teacher_temperature: float | Tensor | None = None,
    mask: Tensor | None = None,
    vocab_size: int | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    outputs: tuple[str, ...] = ("value",),
    inplace_backward: bool = False,
    group: "ProcessGroup | None" = None,
    backend: str | None = None,
) -> Divergence:
    """Compute how far a student's distributions p are from a teacher's q, with the gradient to the student's logits.

    p = softmax(softcap(logits) / temperature), q the same of the teacher. With m = (1 - beta) p + beta q,

    | kind | value of a token, in nats | gradient to z_j, z the student's softcap(logits) / temperature |
    | --- | --- | --- |
    | `forward_kl` | KL(q || p) | p_j - q_j |
    | `reverse_kl` | KL(p || q) | p_j (log p_j - log q_j - KL(p || q)) |
    | `jsd` | beta KL(q || m) + (1 - beta) KL(p || m) | (1 - beta) p_j (log p_j - log m_j - KL(p || m)) |

    The last is the generalized Jensen-Shannon divergence of GKD (arXiv 2306.13649, equation 1). As in TRL, beta 0
    stands for `forward_kl` and beta 1 for `reverse_kl`, which are not the limits of the formula: those are 0. A
    temperature multiplies nothing: whoever wants Hinton's temperature² (arXiv 1503.02531) has it in
    `token_weight`.

    Args:
        logits: (..., V) float32, bfloat16 or float16, of the student, as `token_stats` takes them.
        teacher_logits: (..., V'), on the same device; dtype and strides are its own. A constant: no gradient.
        kind: "forward_kl", "reverse_kl" or "jsd".
        beta: of "jsd", the teacher's share of the mixture.
        token_weight: (...) of each token in the loss, the sum of weight times value; a constant. None: the mean over
            the tokens that are not masked.
        temperature, teacher_temperature: a positive number, or a tensor of one for each row; the teacher's is the
            student's where it is None.
        mask: (...) bool. A False row is not read; its outputs and its gradient are 0.
        vocab_size: the number of columns that count, from the first. None: those that both have, the smaller of V and
            V'. Both distributions are over these alone; the rest is never read and gets gradient 0.
        softcap, teacher_softcap: if given, ``softcap * tanh(logits / softcap)`` comes before the temperature.
        outputs: what to return beside the loss: "value", "entropy", "teacher_entropy", "cross_entropy" (H(p, q)),
            "teacher_cross_entropy" (H(q, p)). They come with the same look at the rows.
        inplace_backward: write the gradient into the student's logits' own storage, at once: this call destroys them.
        group: a torch.distributed group over which the vocabulary is sharded, as in `token_stats`: each rank has the
            same columns of both. One all-gather of twelve numbers a row, and for "jsd" a sum of two.
        backend: as in `token_stats`. With `group`, torch computes where it says "triton".

    Returns:
        `Divergence`: the loss, which carries the gradient, and what was asked for, detached.

    Where p = q, to the bit, values and gradients are exactly 0. A column of -inf is outside the support of its side.
    Where q is 0 and p is not, KL(p || q) and H(p, q) are infinite, and the gradient of KL(p || q) is NaN in that row;
    where p is 0 and q is not, KL(q || p) and H(q, p) are infinite, and the gradient is that of the columns in p's
    support. A Jensen-Shannon divergence is always finite. A column outside p's support has gradient 0. A row in which
    either side has NaN or +inf, or nothing but -inf, gives NaN in that row alone.

    A backward hands out the gradient that the forward computed, as that of `grpo_loss` does.

    Raises:
        ValueError, TypeError: shapes, devices or dtypes that do not match, a kind or output that is not known, a beta
            outside [0, 1], and whatever `token_stats` refuses.
        RuntimeError: on a second derivative, and under torch.func.vmap.
    """
    check_logits(logits)
    check_logits(teacher_logits, "teacher_logits")
    arguments = pair_arguments(
        (logits, teacher_logits), "logits", (logits.shape[-1], teacher_logits.shape[-1]), kind, beta, token_weight,
        temperature, teacher_temperature, mask, vocab_size, softcap, teacher_softcap, outputs, backend, group,
    )  # fmt: skip
    learns = torch.is_grad_enabled() and (logits.requires_grad or transformed())
    inplace = inplace_backward and learns
    if inplace:
        check_inplace(logits)
    inputs = (logits, teacher_logits.detach(), op_pair_arguments(arguments), learns, inplace)
    values = apply_uncompiled(_Transformed, *inputs)[:-1] if transformed() else _Function.apply(*inputs)
    return divergence_of(values, outputs)


def divergence_of(values: Sequence[Tensor], outputs: Sequence[str]) -> Divergence:
    """The public result from an op's outputs: the loss, then PAIR_OUTPUTS."""
    loss, *rest = values
    return Divergence(loss, **{name: value for name, value in zip(PAIR_OUTPUTS, rest, strict=True) if name in outputs})


def _tangent(tangent: Tensor, logits: Tensor, teacher_logits: Tensor, arguments: tuple[Any, ...]) -> Tensor:
    """The tangent of the loss: its gradient, not rounded to half precision, times that of the logits."""
    forward: Callable[..., tuple[Tensor, ...]] = _forward
    *_, grad_logits = forward(logits.float(), teacher_logits, *arguments, True)
    change = (grad_logits.double() * tangent).sum()
    *_, backend, group = arguments
    ranks = vocab_parallel(local_backend(backend, logits), group)
    if ranks:
        ranks.sum_over_slices(change)
    return change.float()


# ---------------------------------------------------------------- library ops
#
# The outputs are those of `op_values.pair_outputs`, then the gradient, empty where there is none.


def _forward(
    logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    weight: Tensor,
    temperatures: Sequence[Tensor | None],
    varying: Tensor | None,
    numbers: Sequence[float],
    kind: str,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
    learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format) if learns else None
    pair = op_pair(logits, teacher_logits, targets, weight, temperatures, varying, numbers, kind, num_columns, outputs)
    values = pairs.divergence(backend, group, grad_logits, pair)
    return (*pair_outputs(values, pair), logits.new_empty(0) if grad_logits is None else grad_logits)


_forward_op = torch.library.custom_op(op_name("divergence"), _forward, mutates_args=())


@_forward_op.register_fake
def _(logits: Tensor, teacher_logits: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, outputs, _, _, learns = rest
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format) if learns else logits.new_empty(0)
    return (*fake_pair_outputs(logits, targets, outputs), grad_logits)


def _forward_inplace(
    logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    weight: Tensor,
    temperatures: Sequence[Tensor | None],
    varying: Tensor | None,
    numbers: Sequence[float],
    kind: str,
    num_columns: int,
    outputs: str,
    backend: str,
    group: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    pair = op_pair(logits, teacher_logits, targets, weight, temperatures, varying, numbers, kind, num_columns, outputs)
    return pair_outputs(pairs.divergence(backend, group, logits, pair), pair)


_forward_inplace_op = torch.library.custom_op(op_name("divergence_"), _forward_inplace, mutates_args=("logits",))


@_forward_inplace_op.register_fake
def _(logits: Tensor, teacher_logits: Tensor, targets: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, outputs, _, _ = rest
    return fake_pair_outputs(logits, targets, outputs)


_Function, _Transformed = logits_loss_functions(
    "divergence", (_forward, _forward_op), (_forward_inplace, _forward_inplace_op), _tangent
)
