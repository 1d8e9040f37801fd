#!/usr/bin/env bash
# One would guess: torch.compile treats a Python float that varies between calls alike wherever it goes: after the second
# value it becomes a symbol, and one more graph serves all values, as for x * factor.
# What happens in torch 2.13.0: where the float is an argument of a library op (torch.library.custom_op), each value is a
# constant and a graph of its own. With fullgraph=True the call fails at the recompile limit, the ninth value; without
# it everything after that runs uncompiled. An annealed coefficient of a fused loss meets this at its ninth step. Passed
# as a tensor on the CPU the number varies freely.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import logging
import sys

import torch
from torch._dynamo.testing import CompileCounter

logging.disable(logging.WARNING)


@torch.library.custom_op("finding::scale", mutates_args=())
def scale(x: torch.Tensor, factor: float) -> torch.Tensor:
    return x * factor


@torch.library.custom_op("finding::scale_by_tensor", mutates_args=())
def scale_by_tensor(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return x * factor.item()


scale.register_fake(lambda x, factor: torch.empty_like(x))
scale_by_tensor.register_fake(lambda x, factor: torch.empty_like(x))


def graphs_and_calls(function):
    """Graphs compiled, and calls that came through, of twenty with a new number each."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(function, backend=counter, fullgraph=True)
    for call in range(20):
        try:
            compiled(torch.ones(4), 0.1 + call / 7)
        except Exception as error:
            print("  call", call + 1, "raised", type(error).__name__)
            return counter.frame_count, call
    return counter.frame_count, 20


print("torch", torch.__version__)
seen = {
    "x * factor": graphs_and_calls(lambda x, factor: x * factor),
    "library op of a float": graphs_and_calls(lambda x, factor: scale(x, factor)),
    "library op of a tensor": graphs_and_calls(
        lambda x, factor: scale_by_tensor(x, torch.ones((), dtype=torch.float64) * factor)
    ),
}
for name, (graphs, calls) in seen.items():
    print(f"{name}: {graphs} graphs, {calls} of 20 calls")
expected = seen["x * factor"] == (2, 20) and seen["library op of a float"] == (8, 8)
sys.exit(0 if expected and seen["library op of a tensor"] == (2, 20) else "changed: see the numbers above")
PY
"$work/venv/bin/python" "$work/look.py"
