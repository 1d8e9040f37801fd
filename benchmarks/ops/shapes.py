"""The shapes of the suite `ops`, on a CPU and on a GPU, and how they shrink where memory is short."""

from __future__ import annotations

import dataclasses

from benchmarks.ops.problems import LOSS, OPS, Shape


@dataclasses.dataclass(frozen=True)
class Plan:
    """At which shapes each op is timed, and its memory measured. The first one is that of short tables."""

    timed: dict[str, tuple[Shape, ...]]
    memory: dict[str, tuple[Shape, ...]]
    seconds: float
    """Of timing, a shape."""


def logits(rows: int, columns: int, dtype: str = "float32") -> Shape:
    return head(rows, columns, 0, dtype)


def head(rows: int, columns: int, hidden_size: int, dtype: str = "float32") -> Shape:
    return Shape(min(rows, 8), rows // min(rows, 8), columns, hidden_size, dtype)


# Vocabularies of Llama 2 (32000), Llama 3 (128256), Qwen2.5 (151936) and Gemma (262144); GPT-2's 50257, whose rows
# start at every alignment.
_CPU_HEADS = (head(1024, 32000, 512), head(1024, 32000, 512, "bfloat16"))
_GPU_HEADS = (head(8192, 131072, 4096, "bfloat16"), head(8192, 151936, 896, "bfloat16"))
_GPU_LOGITS = logits(8192, 151936, "bfloat16")
PLANS = {
    ("cpu", "full"): Plan(
        timed={
            "token_stats": (
                logits(1024, 32000), logits(1024, 32000, "bfloat16"),
                logits(256, 151936), logits(256, 151936, "bfloat16"),
                logits(256, 8000), logits(256, 32000), logits(64, 32000),
            ),
            "cross_entropy": (logits(1024, 32000),),
            "grpo_loss": (logits(1024, 32000), logits(1024, 32000, "bfloat16")),
            "linear_token_stats": (*_CPU_HEADS, head(256, 128256, 128)),
            "linear_cross_entropy": _CPU_HEADS[:1],
            "linear_grpo_loss": (
                *_CPU_HEADS,
                *(head(256, columns, 128) for columns in (8000, 32000, 128256)),
                head(64, 32000, 128), head(1024, 32000, 128), head(256, 128256, 128, "bfloat16"),
                head(3072, 32000, 512, "bfloat16"),  # several tiles of 64 MiB: of fewer rows they are one
            ),
            "divergence": tuple(
                logits(rows, columns, dtype)
                for rows, columns in ((512, 32000), (128, 151936))
                for dtype in ("float32", "bfloat16")
            ),
            "linear_divergence": (head(512, 32000, 512), head(512, 32000, 512, "bfloat16")),
        },
        memory={
            "token_stats": (logits(1024, 32000), logits(256, 32000), logits(1024, 128256)),
            "grpo_loss": (logits(1024, 32000),),
            "linear_token_stats": (head(1024, 32000, 512),),
            "divergence": (logits(512, 32000),),
            "linear_divergence": (head(512, 32000, 512),),
            "linear_grpo_loss": (
                head(1024, 32000, 512), head(1024, 128256, 128), head(4096, 128256, 128),
                head(1024, 32000, 512, "bfloat16"), head(3072, 32000, 512, "bfloat16"),
            ),
        },
        seconds=6,
    ),
    ("cpu", "quick"): Plan(
        timed={
            "token_stats": (logits(128, 32000), logits(128, 8000)),
            "grpo_loss": (logits(128, 32000),),
            "linear_token_stats": (head(128, 32000, 128),),
            "linear_grpo_loss": (head(128, 32000, 128),),
            "divergence": (logits(128, 32000),),
            "linear_divergence": (head(128, 32000, 128),),
        },
        memory={"linear_grpo_loss": (head(256, 32000, 128),)},
        seconds=2,
    ),
    ("cuda", "full"): Plan(
        timed={
            "token_stats": (
                _GPU_LOGITS, logits(8192, 151936),
                *(logits(8192, columns, "bfloat16") for columns in (32000, 50257, 128256, 262144)),
                logits(64, 151936, "bfloat16"), logits(1024, 151936, "bfloat16"),
            ),
            "cross_entropy": (_GPU_LOGITS, logits(8192, 128256, "bfloat16")),
            "grpo_loss": (_GPU_LOGITS,),
            "linear_token_stats": _GPU_HEADS,
            "linear_cross_entropy": _GPU_HEADS[:1],
            "linear_grpo_loss": _GPU_HEADS,
            "divergence": (logits(4096, 151936, "bfloat16"),),
            "linear_divergence": _GPU_HEADS[:1],
        },
        memory={
            "token_stats": (_GPU_LOGITS, logits(1024, 151936, "bfloat16")),
            "grpo_loss": (_GPU_LOGITS,),
            "linear_token_stats": _GPU_HEADS[:1],
            "linear_grpo_loss": (*_GPU_HEADS, head(1024, 131072, 4096, "bfloat16")),
        },
        seconds=2,
    ),
}  # fmt: skip
_TINY: dict[str, tuple[Shape, ...]] = {
    name: (head(16, 300, 16) if op.head else logits(16, 300),) for name, op in OPS.items()
}
TINY = Plan(timed=_TINY, memory={"token_stats": _TINY["token_stats"]}, seconds=0.01)


def plan(device: str, size: str) -> Plan:
    """The tiny plan is the same everywhere; a GPU's quick one takes the first shape of each op."""
    if size == "tiny":
        return TINY
    if (device, size) in PLANS:
        return PLANS[device, size]
    full = PLANS[device, "full"]
    first = {op: shapes[:1] for op, shapes in full.timed.items()}
    return Plan(first, {op: shapes[:1] for op, shapes in full.memory.items()}, seconds=1)


# Float32 copies of the logits that are in memory at once: log-probabilities, probabilities, their product and the
# gradients of these; of the eager loss fewer.
STATISTICS_COPIES, LOSS_COPIES = 9, 5


def fitted(op: str, shape: Shape, free: int | None) -> Shape:
    """Return the shape, or one with fewer tokens, so that the eager form fits two thirds of the free memory."""
    copies = LOSS_COPIES if OPS[op].outputs == LOSS else STATISTICS_COPIES
    while free is not None and shape.rows * shape.vocab_size * 4 * copies > free * 2 / 3 and shape.length > 1:
        shape = dataclasses.replace(shape, length=shape.length // 2)
    return shape
