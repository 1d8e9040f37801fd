#!/usr/bin/env bash
# One would guess: a library op (torch.library.custom_op) that has a formula for the backward but none for forward-mode
# AD says so under torch.func.jvp, as torch.autograd.Function does: "You must implement the jvp function".
# What happens in torch 2.13.0: jvp returns a tangent of zeros, and a dual number comes out without a tangent. Nothing is
# raised or printed, so that a Jacobian-vector product through such an op is silently missing the op's share.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys

import torch
from torch.autograd import forward_ad


@torch.library.custom_op("finding::square", mutates_args=())
def square(x: torch.Tensor) -> torch.Tensor:
    return x * x


square.register_fake(torch.empty_like)
square.register_autograd(
    lambda ctx, upstream: 2 * ctx.saved_tensors[0] * upstream,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, upstream):
        return 2 * ctx.saved_tensors[0] * upstream


print("torch", torch.__version__)
three, one = torch.tensor(3.0), torch.tensor(1.0)
leaf = three.clone().requires_grad_()
print("backward of x * x at 3:", torch.autograd.grad(square(leaf), leaf)[0].item())
_, tangent = torch.func.jvp(square, (three,), (one,))
print("torch.func.jvp of the library op:", tangent.item())
with forward_ad.dual_level():
    dual = forward_ad.unpack_dual(square(forward_ad.make_dual(three, one))).tangent
print("tangent of a dual number:", dual)
try:
    torch.func.jvp(Square.apply, (three,), (one,))
except NotImplementedError as error:
    function = str(error)
else:
    function = ""
print("torch.func.jvp of an autograd.Function:", function or "no error")
silent = tangent.item() == 0 and dual is None and "implement the jvp" in function
sys.exit(0 if silent else "changed: forward-mode AD through a library op is no longer silently 0")
PY
"$work/venv/bin/python" "$work/look.py"
