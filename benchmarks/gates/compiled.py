"""Every kernel compiled ahead of time for a target, and counted in the disassembly; needs no GPU.

To be imported where TRITON_INTERPRET is not set: whether a kernel is compiled is decided when it is decorated.
"""

import importlib
import importlib.metadata
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.gates.disassembly import Counts, count_compiled
from benchmarks.gates.peers_compiled import count_liger
from rlif_kernels.backends import triton as launcher
from rlif_kernels.backends.triton.backward import backward_kernel
from rlif_kernels.backends.triton.forward import forward_kernel
from rlif_kernels.backends.triton.grpo import grpo_kernel
from rlif_kernels.policy_loss import LossOptions
from rlif_kernels.stats import DEFAULT_OUTPUTS, FIELDS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TRITON_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Kernel:
    """One compilation of a kernel, as the launcher would ask for it."""

    name: str  # forward, chunk, fold, backward, or of the fused loss: grpo statistics, grpo gradient
    dtype: torch.dtype
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    wide: bool = True
    softcap: bool = False
    num_columns: int = 151936  # decides how many threads share a row of the fused loss

    def __str__(self) -> str:
        notes = [TRITON_DTYPES[self.dtype]]
        notes += ["all fields"] if self.outputs == FIELDS else []
        notes += [] if self.wide else ["unaligned"]
        notes += ["softcap"] if self.softcap else []
        notes += ["short rows"] if self.num_columns < 151936 else []
        return f"{self.name} ({', '.join(notes)})"


def kernels() -> list[Kernel]:
    """Every kernel that the launcher can ask for, but for combinations that only repeat what others show."""
    bf16, fp32, fp16 = torch.bfloat16, torch.float32, torch.float16
    names = ("forward", "chunk", "fold", "backward")
    return [
        *(Kernel(name, dtype) for dtype in (bf16, fp32) for name in names),
        Kernel("forward", fp16),
        Kernel("backward", fp16),
        *(Kernel(name, dtype, wide=False) for dtype in (bf16, fp32) for name in ("forward", "backward")),
        *(Kernel(name, bf16, outputs=FIELDS) for name in names),
        *(Kernel(name, bf16, softcap=True) for name in ("forward", "backward")),
        *(Kernel(name, dtype) for dtype in (bf16, fp32) for name in GRPO_LOOPS),
        *(Kernel(name, bf16, num_columns=32000) for name in GRPO_LOOPS),
    ]


# The fused loss is one kernel with two main loops.
GRPO_LOOPS = ("grpo statistics", "grpo gradient")
# All terms of the loss, so that the gradient loop has all that it can have.
GRPO_OPTIONS = LossOptions(0.2, 0.28, 4.0, 0.04, 0.01, 0.01)


def kernel_constants(kernel: Kernel) -> dict[str, int]:
    return launcher.grpo_constants(
        kernel.dtype, kernel.num_columns, kernel.outputs, GRPO_OPTIONS, kernel.wide, kernel.wide, kernel.softcap
    )


def compile_kernel(kernel: Kernel, target: str) -> Any:
    """Compile ahead of time; returns Triton's compiled kernel, with every stage's text in `.asm`."""
    absent: dict[str, object] = {"offsets_ptr": None, "temperature_ptr": None}
    if kernel.name == "backward":
        function = backward_kernel
        constants = launcher.backward_constants(kernel.dtype, kernel.wide, kernel.softcap)
        absent["grad_offsets_ptr"] = None
        absent |= {f"g_{name}_ptr": None for name in FIELDS[:-1] if name not in kernel.outputs}
    elif kernel.name in GRPO_LOOPS:
        function, constants = grpo_kernel, kernel_constants(kernel)
        absent["grad_offsets_ptr"] = None
    else:
        function = forward_kernel
        constants = launcher.forward_constants(kernel.dtype, kernel.outputs, kernel.wide, kernel.softcap)
        stage = "row" if kernel.name == "forward" else kernel.name
        absent |= {"STAGE": stage} | ({"partials_ptr": None} if stage == "row" else {})
        absent |= {f"{name}_ptr": None for name in FIELDS if name not in kernel.outputs}
    options = {name: constants.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    fixed = absent | constants
    types = {
        "logits_ptr": f"*{TRITON_DTYPES[kernel.dtype]}",
        "grad_ptr": f"*{TRITON_DTYPES[kernel.dtype]}",
        "targets_ptr": "*i64",
        "clipped_ptr": "*i8",
        **dict.fromkeys(("scale", "softcap", "low", "high", "delta", "beta"), "fp32"),
        **dict.fromkeys(("entropy_coef", "self_certainty_coef"), "fp32"),
    }
    return ahead_of_time(function, fixed, types, target, options)


def ahead_of_time(
    function: Any,
    fixed: dict[str, object],
    types: dict[str, str],
    target: str,
    options: dict[str, Any],
    multiples_of_16: tuple[str, ...] = (),
) -> Any:
    """Compile a kernel; arguments are constants, or of the types given, or else float32 pointers and integers."""
    signature = {
        name: "constexpr" if name in fixed else types.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in function.arg_names
    }
    aligned = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in multiples_of_16}
    source = ASTSource(function, signature, fixed, aligned)
    return triton.compile(source, target=TARGETS[target], options=options)


def elements_per_thread(kernel: Kernel) -> int:
    """Elements that one thread takes in one turn of the main loop."""
    if kernel.name == "backward":
        return launcher.BACKWARD_BLOCK_BYTES // kernel.dtype.itemsize // (32 * launcher.BACKWARD_WARPS)
    if kernel.name in GRPO_LOOPS:
        constants = kernel_constants(kernel)
        if kernel.name == "grpo gradient":
            return constants["BLOCK"] // (32 * constants["num_warps"])
    else:
        constants = launcher.forward_constants(kernel.dtype, kernel.outputs, kernel.wide, kernel.softcap)
    return constants["LANES"] * constants["K"] // (32 * constants["num_warps"])


def count_kernel(kernel: Kernel, target: str) -> Counts:
    """Compile and count one of our kernels."""
    # The loop of "fold" runs over chunks, not over elements: nothing to count per element.
    per_thread = None if kernel.name == "fold" else elements_per_thread(kernel)
    stores = kernel.name == "grpo gradient" if kernel.name in GRPO_LOOPS else None
    return count_compiled(
        str(kernel), target, compile_kernel(kernel, target), per_thread, kernel.dtype.itemsize, stores
    )


def count_trl(target: str) -> list[Counts]:
    """TRL's kernels for log-probability and entropy (two statistics), compiled as TRL launches them.

    Empty where TRL is not installed, or has no such kernels. Its backward is one block a program, without a loop: there
    the whole program is counted.
    """
    try:
        module = importlib.import_module("trl.kernels.logprob_entropy")
        version = importlib.metadata.version("trl")
    except ImportError:
        return []
    counts = []
    for name in ("forward", "backward"):
        function = getattr(module, f"_{name}_kernel")
        fixed: dict[str, object] = {"n_cols": 151936, "TEMPERATURE": 1.0, "HAS_MASK": False}
        fixed |= {"BLOCK_SIZE": module._BLOCK_SIZE, "HAS_LOGPROB_GRAD": True, "HAS_ENTROPY_GRAD": True}
        fixed = {key: value for key, value in fixed.items() if key in function.arg_names}
        types = {"logits_ptr": "*bf16", "grad_logits_ptr": "*bf16", "index_ptr": "*i64", "row_mask_ptr": "*i1"}
        # Triton's launcher marks pointers and strides that are multiples of 16, as they are at this vocabulary size.
        aligned = [each for each in function.arg_names if each not in fixed]
        aligned = [each for each in aligned if each.endswith("_ptr") or "logits" in each]
        compiled = ahead_of_time(function, fixed, types, target, {"num_warps": 4}, tuple(aligned))
        counts.append(count_compiled(f"TRL {version} {name} (bf16)", target, compiled, module._BLOCK_SIZE // 128, 2))
    return counts


def count_target(target: str) -> dict[str, Any]:
    """Versions, and counts of our kernels and of TRL's."""
    ours = [count_kernel(kernel, target) for kernel in kernels()]
    return {
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "counts": [asdict(counts) for counts in (*ours, *count_trl(target), *count_liger(ahead_of_time, target))],
    }
