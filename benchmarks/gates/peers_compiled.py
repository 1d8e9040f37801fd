"""The peers' kernels on logits, compiled ahead of time as their packages launch them and counted like ours."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from benchmarks.gates.disassembly import Counts, count_compiled

COLUMNS, ROWS_A_COMPLETION = 151936, 1024
_BF16 = {"LOGITS": "*bf16", "DLOGITS": "*bf16", "X_ptr": "*bf16"}


def count_liger(compile_for: Any, target: str) -> list[Counts]:
    """Liger's GRPO loss and cross-entropy; empty where Liger is not installed, or has no such kernels.

    Args:
        compile_for: `benchmarks.gates.compiled.ahead_of_time`.
    """
    try:
        loss = importlib.import_module("liger_kernel.ops.grpo_loss")
        version = importlib.metadata.version("liger_kernel")
    except ImportError:
        return []
    # DAPO with a reference model, on tokens that all count, as `benchmarks.ops.peers.liger_loss` calls it.
    settings = {
        "TEMPERATURE": 1.0, "BETA": 0.04, "EPS_LOW": 0.2, "EPS_HIGH": 0.2, "LOSS_TYPE": 0, "SAPO_TEMP_POS": 1.0,
        "SAPO_TEMP_NEG": 1.05, "DELTA": 0.0, "USE_BIAS_CORRECTION_KL": False, "L": ROWS_A_COMPLETION, "N": COLUMNS,
        "VLLM_IS_RATIO": None, "PHI_SEQ": None,
    }  # fmt: skip
    types = _BF16 | {"INPUT_IDS": "*i64", "COMPLETION_MASK": "*i64", "IS_CLIPPED": "*fp32"}
    types |= dict.fromkeys(("OLD_LOGP", "REF_LOGP", "ADVANTAGES", "LOSS", "LSE", "KL", "DLOSS"), "*fp32")
    counts = []
    for name, block, options in (
        ("fwd", 2048, {"num_warps": 1, "num_stages": 2}),
        ("bwd", 4096, {"num_warps": 16, "num_stages": 1}),
    ):
        function = getattr(loss, f"_grpo_loss_{name}_kernel")
        fixed = {key: value for key, value in (settings | {"BLOCK_N": block}).items() if key in function.arg_names}
        aligned = tuple(
            each for each in function.arg_names if types.get(each, "").startswith("*") and each not in fixed
        )
        compiled = compile_for(function, fixed, types, target, options, aligned)
        label = {"fwd": "forward", "bwd": "backward"}[name]
        per_thread = block // (32 * options["num_warps"])
        counts.append(count_compiled(f"Liger {version} grpo {label} (bf16)", target, compiled, per_thread, 2))
    return counts
