"""The ops that take logits, on a GPU: `token_stats` beside its floors and peers, `grpo_loss` beside `token_stats`.

`python -m benchmarks.gpu` runs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.heads import BETA, EPSILON, Problem, dapo_loss, make_problem
from benchmarks.timing import milliseconds
from rlif_kernels import grpo_loss, token_stats

# Vocabularies of Llama 2, Llama 3, Qwen2.5 and Gemma; GPT-2's, whose rows start at every alignment.
NUM_COLUMNS = (32000, 128256, 151936, 262144, 50257)
NUM_ROWS = (64, 1024, 8192)
LOSS_SHAPES = ((8, 1024, 131072), (8, 1024, 151936))  # completions, tokens of each, vocabulary


def naive(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logp = F.log_softmax(logits.float(), dim=-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1), -logp.mean(-1)


def ours(logits: Tensor, targets: Tensor) -> tuple[Tensor | None, ...]:
    return token_stats(logits, targets)[:3]


def peers(missing: dict[str, str]) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor | None, ...]]]:
    """What else computes these statistics; TRL's has two of the three. Those that fail to import go to `missing`."""
    found: dict[str, Callable[[Tensor, Tensor], tuple[Tensor | None, ...]]] = {"rlif": ours, "naive": naive}
    try:
        trl = importlib.import_module("trl.kernels.logprob_entropy")
        found["TRL (two of three)"] = lambda logits, targets: trl._LogProbEntropyFunction.apply(
            logits, targets, 1.0, None
        )
    except Exception as error:  # whatever a peer raises, the others go on
        missing["TRL"] = repr(error)
    return found


def measure_statistics(
    num_rows: int, num_columns: int, dtype: torch.dtype, device: str, dry_run: bool
) -> dict[str, Any]:
    """Time of every implementation at one shape, beside the floors of the same run."""
    logits = (3 * torch.randn(num_rows, num_columns, device=device)).to(dtype)
    targets = torch.randint(num_columns, (num_rows,), device=device)
    other = torch.empty_like(logits)
    entry: dict[str, Any] = {"rows": num_rows, "columns": num_columns, "dtype": str(dtype), "bytes": logits.nbytes}
    entry["floors"] = {
        "read": milliseconds(lambda: logits.sum(dtype=torch.float32), dry_run),
        "copy": milliseconds(lambda: other.copy_(logits), dry_run),
    }
    leaf = logits.detach().requires_grad_()
    upstream = torch.randn(num_rows, device=device)
    missing: dict[str, str] = {}
    entry["forward"], entry["forward_backward"], entry["missing"] = {}, {}, missing
    for name, statistics in peers(missing).items():
        if name == "naive" and logits.numel() * 4 * 6 > 60e9:
            missing[name] = "needs more than 60 GB"
            continue
        try:
            with torch.no_grad():
                entry["forward"][name] = milliseconds(lambda f=statistics: f(logits, targets), dry_run)  # type: ignore[misc]

            def step(f: Callable[[Tensor, Tensor], tuple[Tensor | None, ...]] = statistics) -> None:
                leaf.grad = None
                values = [value for value in f(leaf, targets) if value is not None]
                torch.autograd.backward(values, [upstream] * len(values))

            entry["forward_backward"][name] = milliseconds(step, dry_run)
            leaf.grad = None
        except Exception as error:
            missing[name] = repr(error)
    return entry


def loss_by_token_stats(logits: Tensor, problem: Problem) -> Tensor:
    logprob = token_stats(logits, problem.targets).logprob
    assert logprob is not None
    return dapo_loss(logprob, problem)


def loss_by_grpo_loss(logits: Tensor, problem: Problem) -> Tensor:
    return grpo_loss(
        logits,
        problem.targets,
        problem.advantages,
        problem.old_logprob,
        problem.ref_logprob,
        epsilon_low=EPSILON,
        beta=BETA,
    ).loss


def measure_loss(shape: tuple[int, int, int], device: str, dry_run: bool) -> dict[str, Any]:
    """Forward and backward of `grpo_loss` at one shape in bfloat16, beside the same loss by way of `token_stats`."""
    batch, length, vocab_size = shape
    # Of the head's problem all but the head is needed here, so that a narrow one will do.
    problem = make_problem(batch, length, vocab_size, 64, torch.bfloat16, device)
    leaf = F.linear(problem.hidden.detach(), problem.weight.detach()).requires_grad_()
    entry: dict[str, Any] = {"rows": batch * length, "columns": vocab_size, "dtype": "torch.bfloat16"}
    entry["loss"], entry["forward_backward"] = {}, {}
    for name, loss in (("token_stats", loss_by_token_stats), ("grpo_loss", loss_by_grpo_loss)):

        def step(loss: Callable[[Tensor, Problem], Tensor] = loss) -> Tensor:
            leaf.grad = None
            value = loss(leaf, problem)
            value.backward()
            return value

        entry["loss"][name] = step().item()
        entry["forward_backward"][name] = milliseconds(step, dry_run)
    times = entry["forward_backward"]
    entry["grpo_loss of token_stats"] = times["grpo_loss"][0] / times["token_stats"][0]
    return entry
