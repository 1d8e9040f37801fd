"""The head with the GRPO loss on it, on a GPU: ours beside bare matrix products of the same shapes, and beside peers.

`python -m benchmarks.gpu` runs it. `linear_grpo_loss` needs three products (logits, gradient of the hidden states,
gradient of the weight), `linear_token_stats` with its backward four, since it computes the logits twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.heads import ON_GPUS, Problem, exact, forward_backward, largest_error, make_problem
from benchmarks.timing import milliseconds, rise_of_peak
from rlif_kernels import linear_head, linear_token_stats

# (completions, tokens of each, vocabulary, hidden size): a 7B model's head, and that of Qwen2.5-0.5B.
SHAPES = ((8, 1024, 131072, 4096), (8, 1024, 151936, 896))
TINY_SHAPE = (2, 8, 1000, 64)


def bare_products(problem: Problem, dry_run: bool) -> dict[str, list[float]]:
    """The three products at once, into memory that exists; and tile by tile, as `linear_head` cuts them."""
    hidden, weight = problem.hidden.detach().flatten(0, 1), problem.weight.detach()
    logits = torch.empty(len(hidden), len(weight), dtype=hidden.dtype, device=hidden.device)
    d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)
    (rows, *_) = linear_head.tile_sizes(
        len(hidden), len(weight) * hidden.element_size(), linear_head.DEFAULT_TILE_BYTES
    )
    x, tile = hidden[:rows], logits[:rows]
    products: dict[str, Callable[[], Tensor]] = {
        "logits": lambda: torch.mm(hidden, weight.T, out=logits),
        "hidden gradient": lambda: torch.mm(logits, weight, out=d_hidden),
        "weight gradient": lambda: torch.mm(logits.T, hidden, out=d_weight),
        f"logits, tile of {rows} rows": lambda: torch.mm(x, weight.T, out=tile),
        f"hidden gradient, tile of {rows} rows": lambda: torch.mm(tile, weight, out=d_hidden[:rows]),
        f"weight gradient, tile of {rows} rows": lambda: torch.mm(tile.T, x, out=d_weight),
    }
    return {name: milliseconds(product, dry_run, rep=300) for name, product in products.items()}


def score(problem: Problem) -> None:
    """Forward alone, as a reward or a reference model needs it."""
    with torch.no_grad():
        linear_token_stats(problem.hidden, problem.weight, problem.targets)


def measure_head(shape: tuple[int, int, int, int], device: str, dry_run: bool) -> dict[str, Any]:
    """Time, memory above inputs, outputs and gradients, and error, of every implementation at one shape in bfloat16."""
    batch, length, vocab_size, hidden_size = shape
    problem = make_problem(*shape, torch.bfloat16, device)
    entry: dict[str, Any] = {"rows": batch * length, "columns": vocab_size, "hidden_size": hidden_size}
    entry["products"] = bare_products(problem, dry_run)
    truth = exact(problem, rows=512)
    entry["error"], entry["forward_backward"], entry["extra_bytes"], entry["missing"] = {}, {}, {}, {}
    for name, build in ON_GPUS.items():
        try:
            implementation = build()
            entry["error"][name] = largest_error(problem, forward_backward(implementation, problem), truth)
            problem.hidden.grad = problem.weight.grad = None
            rise = rise_of_peak(lambda f=implementation: forward_backward(f, problem))  # type: ignore[misc]
            entry["extra_bytes"][name] = rise - problem.gradient_bytes
            entry["forward_backward"][name] = milliseconds(
                lambda f=implementation: forward_backward(f, problem),  # type: ignore[misc]
                dry_run,
                rep=1000,
            )
        except Exception as error:  # whatever a peer raises, out of memory included, the others go on
            entry["missing"][name] = repr(error)[:500]
        problem.hidden.grad = problem.weight.grad = None
    entry["forward"] = {"rlif, linear_token_stats": milliseconds(lambda: score(problem), dry_run, rep=300)}
    entry["forward_extra_bytes"] = {"rlif, linear_token_stats": rise_of_peak(lambda: score(problem))}
    median = {name: times[0] for name, times in (entry["products"] | entry["forward_backward"]).items()}
    three = median["logits"] + median["hidden gradient"] + median["weight gradient"]
    entry["of bare products"] = {
        name: median[name] / floor
        for name, floor in (
            ("rlif, linear_grpo_loss", three),
            ("rlif, linear_token_stats", three + median["logits"]),
        )
        if name in median
    }
    return entry
