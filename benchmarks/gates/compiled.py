"""Every kernel compiled ahead of time for a target, and counted in the disassembly; needs no GPU.

To be imported where TRITON_INTERPRET is not set: whether a kernel is compiled is decided when it is decorated.
"""

import importlib
import importlib.metadata
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.gates.disassembly import Counts, count_compiled, registers_and_spills
from benchmarks.gates.peers_compiled import count_liger
from benchmarks.gates.variants import TARGET as VARIANTS_TARGET
from benchmarks.gpu.variants import VARIANTS, Variant
from rlif_kernels.backends import triton as launcher
from rlif_kernels.backends.triton import plan
from rlif_kernels.backends.triton.backward import backward_kernel
from rlif_kernels.backends.triton.divergence import pair_kernel
from rlif_kernels.backends.triton.forward import forward_kernel
from rlif_kernels.backends.triton.grpo import grpo_kernel, terms_kernel
from rlif_kernels.backends.triton.launches import DESCRIPTOR, Launch, current, override
from rlif_kernels.backends.triton.pairs import pair_constants
from rlif_kernels.functional import DIFFERENTIABLE, STATISTICS
from rlif_kernels.loss_options import LossOptions
from rlif_kernels.pairs import KINDS, PAIR_OUTPUTS
from rlif_kernels.stats import DEFAULT_OUTPUTS, DEFAULT_TOP

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_103": GPUTarget("cuda", 103, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
# What counts call "all fields". Varentropy and what the order of the columns says have kernels of their own, beside the
# default fields, to compare with theirs.
ALL_BUT_VARENTROPY = ("logprob", "entropy", "self_certainty", "logsumexp", "sum_sq_probs", "top_probs")
WITH_VARENTROPY = (*DEFAULT_OUTPUTS, "varentropy")
BESIDE_THE_DEFAULT = {
    WITH_VARENTROPY: "varentropy",
    (*DEFAULT_OUTPUTS, "argmax"): "argmax",
    (*DEFAULT_OUTPUTS, "target_rank"): "target rank",
    (*DEFAULT_OUTPUTS, "top_ids"): "top 20",
}
TRITON_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Kernel:
    """One compilation of a kernel, as the launcher would ask for it."""

    name: str  # forward, part, backward, terms; of the fused loss and of divergences as in GRPO_LOOPS, DIVERGENCE_LOOPS
    dtype: torch.dtype
    outputs: tuple[str, ...] = DEFAULT_OUTPUTS
    wide: bool = True
    softcap: bool = False
    slices: int = 1  # of a part
    short: bool = False  # which of the two kernels of the fused loss
    kind: str = ""  # of a divergence
    few: bool = False  # rows of a divergence
    corrected: bool = False  # the penalty of the loss, by the ratio

    def __str__(self) -> str:
        notes = [TRITON_DTYPES[self.dtype]]
        notes += ["all fields"] if self.outputs == ALL_BUT_VARENTROPY else []
        notes += [BESIDE_THE_DEFAULT[self.outputs]] if self.outputs in BESIDE_THE_DEFAULT else []
        notes += [] if self.wide else ["unaligned"]
        notes += ["softcap"] if self.softcap else []
        notes += [f"{self.slices} slices"] if self.slices > 1 else []
        notes += ["short rows"] if self.short else []
        notes += [self.kind] if self.kind else []
        notes += ["few rows"] if self.few else []
        notes += ["corrected"] if self.corrected else []
        return f"{self.name} ({', '.join(notes)})"


def kernels() -> list[Kernel]:
    """Every kernel that the launcher can ask for, but for combinations that only repeat what others show."""
    bf16, fp32, fp16 = torch.bfloat16, torch.float32, torch.float16
    names = ("forward", "part", "backward")
    return [
        *(Kernel(name, dtype) for dtype in (bf16, fp32) for name in names),
        Kernel("forward", fp16),
        Kernel("backward", fp16),
        *(Kernel(name, dtype, wide=False) for dtype in (bf16, fp32) for name in ("forward", "backward")),
        *(Kernel(name, bf16, outputs=outputs) for outputs in (ALL_BUT_VARENTROPY, WITH_VARENTROPY) for name in names),
        Kernel("forward", fp32, outputs=WITH_VARENTROPY),
        *(Kernel("forward", bf16, outputs=outputs) for outputs in BESIDE_THE_DEFAULT if outputs != WITH_VARENTROPY),
        Kernel("forward", fp32, outputs=(*DEFAULT_OUTPUTS, "top_ids")),
        Kernel("forward", bf16, outputs=(*DEFAULT_OUTPUTS, "top_ids"), softcap=True),
        *(Kernel("part", dtype, slices=slices) for dtype in (bf16, fp32) for slices in (2, 4)),
        *(Kernel(name, dtype, softcap=True) for dtype in (bf16, fp32) for name in names),
        *(Kernel("forward", dtype, outputs=ALL_BUT_VARENTROPY, softcap=True) for dtype in (bf16, fp32)),
        *(Kernel(name, dtype) for dtype in (bf16, fp32) for name in GRPO_LOOPS),
        *(Kernel(name, dtype, short=True) for dtype in (bf16, fp32) for name in GRPO_LOOPS),
        *(Kernel(name, bf16, softcap=True) for name in GRPO_LOOPS),
        *(Kernel(name, bf16, corrected=True) for name in GRPO_LOOPS),
        *(Kernel("terms", fp32, corrected=corrected) for corrected in (False, True)),
        *(Kernel("divergence sums", dtype, kind="reverse_kl") for dtype in (bf16, fp32)),
        *(Kernel("divergence gradient", dtype, kind=kind) for dtype in (bf16, fp32) for kind in KINDS),
        *(Kernel("divergence mixture", dtype, kind="jsd") for dtype in (bf16, fp32)),
        Kernel("divergence gradient", bf16, kind="reverse_kl", softcap=True),
        Kernel("divergence sums", bf16, kind="reverse_kl", few=True),
        *(Kernel(f"divergence {loop}", bf16, kind="jsd", few=True) for loop in ("mixture", "gradient")),
    ]


# The fused loss is one kernel with two main loops.
GRPO_LOOPS = ("grpo statistics", "grpo gradient")
# So is a divergence, with a loop more where it is a Jensen-Shannon divergence.
DIVERGENCE_LOOPS = ("divergence sums", "divergence mixture", "divergence gradient")
# All terms of the loss, so that the gradient loop has all that it can have.
GRPO_OPTIONS = LossOptions(0.2, 0.28, 4.0, 0.04, 0.01, 0.01)
OPTIONS = ("num_warps", "enable_fp_fusion", "maxnreg")
# The vocabulary whose launches are compiled.
COLUMNS = 151936
# Of variants by the kernels' names in the table, those under which they are compiled.
VARIED = {"forward_part": "part", "grpo": "grpo statistics", "grpo_short": "grpo statistics"}
# Choices that change what is compiled; the others are hints, or decide which kernel is launched.
COMPILED = {"num_stages", "num_warps", "unroll", "block_bytes", "max_registers"}


def launch_of(kernel: Kernel, target: str) -> Launch:
    """The choices that the table has for a kernel, at a vocabulary of 151936."""
    forward = plan.forward_name(plan.has_large_state(kernel.outputs), kernel.softcap)
    names = {"forward": forward, "part": f"{forward}_part", "backward": "backward"}
    grpo = "grpo_softcap" if kernel.softcap else "grpo_short" if kernel.short else "grpo"
    divergence = "divergence_few" if kernel.few else "divergence"
    name = divergence if kernel.name in DIVERGENCE_LOOPS else names.get(kernel.name, grpo)
    launch = current().find(name, target, kernel.dtype.itemsize, COLUMNS)
    return plan.part_of(launch, kernel.slices, TARGETS[target].warp_size) if kernel.name == "part" else launch


def kernel_constants(kernel: Kernel, target: str) -> dict[str, Any]:
    """A kernel's compile-time arguments and launch options."""
    launch, dtype = launch_of(kernel, target), kernel.dtype
    softcap = launcher.softcap_form(30.0 if kernel.softcap else 0.0)
    if kernel.name == "backward":
        return launcher.backward_constants(launch, launch.tiles, dtype, kernel.wide, softcap)
    if kernel.name in GRPO_LOOPS:
        loss = GRPO_OPTIONS._replace(kl_ratio=float(kernel.corrected))
        return launcher.grpo_constants(launch, dtype, kernel.outputs, loss, kernel.wide, kernel.wide, softcap)
    if kernel.name in DIVERGENCE_LOOPS:
        softcaps = (softcap, softcap)
        return pair_constants(launch, (dtype, dtype), kernel.kind, kernel.wide, kernel.wide, softcaps, target)
    return launcher.forward_constants(launch, dtype, kernel.outputs, kernel.wide, softcap, kernel.slices, DEFAULT_TOP)


def compile_kernel(kernel: Kernel, target: str) -> Any:
    """Compile ahead of time; returns Triton's compiled kernel, with every stage's text in `.asm`."""
    source, options = kernel_source(kernel, target)
    return triton.compile(source, target=TARGETS[target], options=options)


def kernel_source(kernel: Kernel, target: str) -> tuple[ASTSource, dict[str, Any]]:
    """What Triton is to compile, and with which options."""
    absent: dict[str, object] = {"offsets_ptr": None, "temperature_ptr": None}
    if kernel.name == "terms":
        function = terms_kernel
        constants: dict[str, Any] = {"E": True, "U": True, "CORRECTED": kernel.corrected}
        constants["ROWS"] = launcher.TERMS_ROWS
        constants |= {"num_warps": 4, "enable_fp_fusion": False}
        absent = {}
    else:
        constants = kernel_constants(kernel, target)
        functions = {"backward": backward_kernel, "forward": forward_kernel, "part": forward_kernel}
        functions |= dict.fromkeys(DIVERGENCE_LOOPS, pair_kernel)
        function = functions.get(kernel.name, grpo_kernel)
    if kernel.name == "backward":
        absent |= {f"g_{name}_ptr": None for name in DIFFERENTIABLE if name not in kernel.outputs}
    if function in (backward_kernel, grpo_kernel):
        absent["grad_offsets_ptr"] = None
    if function is pair_kernel:
        names = ("teacher_offsets", "grad_offsets", "teacher_temperature", *PAIR_OUTPUTS[1:])
        absent |= {f"{name}_ptr": None for name in names}
        if kernel.name == "divergence sums":
            absent["grad_ptr"] = None
    if function is forward_kernel:
        absent |= {"parts_ptr": None, "counters_ptr": None} if kernel.name == "forward" else {}
        absent |= {f"{name}_ptr": None for name in STATISTICS if name not in kernel.outputs}
        absent |= {} if "target_rank" in kernel.outputs else {"rank_above_ptr": None}
    options = {name: constants.pop(name) for name in OPTIONS if name in constants}
    if TARGETS[target].backend != "cuda":
        options.pop("maxnreg", None)
    fixed = absent | constants
    types = {
        "logits_ptr": f"*{TRITON_DTYPES[kernel.dtype]}",
        "grad_ptr": f"*{TRITON_DTYPES[kernel.dtype]}",
        "teacher_ptr": f"*{TRITON_DTYPES[kernel.dtype]}",
        **dict.fromkeys(("targets_ptr", "argmax_ptr", "target_rank_ptr", "top_ids_ptr"), "*i64"),
        "counters_ptr": "*i32",
        "clipped_ptr": "*i8",
        **dict.fromkeys(("scale", "teacher_scale", "softcap", "teacher_softcap"), "fp32"),
        **dict.fromkeys(("low", "high", "delta", "beta"), "fp32"),
        **dict.fromkeys(("entropy_coef", "self_certainty_coef"), "fp32"),
    }
    return ast_source(function, fixed, types), options


def ahead_of_time(
    function: Any,
    fixed: dict[str, object],
    types: dict[str, str],
    target: str,
    options: dict[str, Any],
    multiples_of_16: tuple[str, ...] = (),
) -> Any:
    """Compile a kernel, as `ast_source` describes it."""
    return triton.compile(ast_source(function, fixed, types, multiples_of_16), target=TARGETS[target], options=options)


def ast_source(
    function: Any, fixed: dict[str, object], types: dict[str, str], multiples_of_16: tuple[str, ...] = ()
) -> ASTSource:
    """A kernel; its arguments are constants, or of the types given, or else float32 pointers and integers."""
    signature = {
        name: "constexpr" if name in fixed else types.get(name, "*fp32" if name.endswith("_ptr") else "i32")
        for name in function.arg_names
    }
    aligned = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in multiples_of_16}
    return ASTSource(function, signature, fixed, aligned)


def elements_per_thread(kernel: Kernel, target: str) -> int:
    """Elements, or pairs of them, that one thread takes in one turn of the main loop, unless that is unrolled."""
    constants = kernel_constants(kernel, target)
    threads = 32 * constants["num_warps"]
    if kernel.name in ("backward", "grpo gradient", "divergence gradient"):
        return int(constants["BLOCK"] // threads)
    return int(constants.get("SLICE", constants["LANES"]) * constants["K"] // threads)


def count_kernel(kernel: Kernel, target: str) -> Counts:
    """Compile and count one of our kernels."""
    return count_compiled(str(kernel), target, compile_kernel(kernel, target), *counting_arguments(kernel, target))


def counting_arguments(kernel: Kernel, target: str) -> tuple[int | None, int, bool | None, int, int, int | None]:
    """What `count_compiled` has to know of a kernel: `per_thread` and what follows it."""
    per_thread = None if kernel.name == "terms" else elements_per_thread(kernel, target)  # which has no loop
    stores = kernel.name.endswith("gradient") if kernel.name in (*GRPO_LOOPS, *DIVERGENCE_LOOPS) else None
    unroll = 1 if per_thread is None or stores else kernel_constants(kernel, target).get("UNROLL", 1)
    bytes_each = kernel.dtype.itemsize * (2 if kernel.name in DIVERGENCE_LOOPS else 1)
    # A mixture has an exponential of each side and one of their ratio, which tells its loop from that of the sums.
    exponentials = 3 if kernel.name == "divergence mixture" else 1
    launch = launch_of(kernel, target)
    described = launch.load == DESCRIPTOR and kernel.name != "terms" and not stores
    in_flight = plan.bytes_in_flight(launch, kernel.slices) if described else None
    return per_thread, bytes_each, stores, unroll, exponentials, in_flight


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


def count_peers(target: str) -> list[Counts]:
    """Counts of the peers' kernels that are installed."""
    return [*count_trl(target), *count_liger(ahead_of_time, target)]


def count_target(target: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, and counts of our kernels and of the peers' that are installed; or of `only` ours with these names."""
    ours = [count_kernel(kernel, target) for kernel in kernels() if not only or str(kernel) in only]
    peers = [] if only else count_peers(target)
    return {
        "versions": {"torch": torch.__version__, "triton": triton.__version__},
        "counts": [asdict(counts) for counts in (*ours, *peers)],
    }


def variants(dtype: torch.dtype) -> list[tuple[Variant, Kernel]]:
    """The variants that a GPU is to time and that compile to something of their own, each with the kernel that it is a
    launch of."""
    found = []
    for variant in (each for group in VARIANTS.values() for each in group):
        if variant.choices.keys() & COMPILED or variant.choices.get("load") == DESCRIPTOR:
            loop = VARIED.get(variant.kernel, variant.kernel)
            found.append((variant, Kernel(loop, dtype, short=variant.kernel == "grpo_short")))
    return found


def count_variants(target: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Counts of each variant, with its name and the registers that plans count on."""
    counted = []
    for variant, kernel in variants(dtype):
        with override(variant.kernel, **variant.choices):
            planned = current().find(variant.kernel, target, dtype.itemsize, COLUMNS).registers
            counts = asdict(count_kernel(kernel, target))
        counted.append(counts | {"variant": str(variant), "planned_registers": planned})
    return counted


def compile_report(target: str, names: Sequence[str] = ()) -> None:
    """Print Triton's version, and of each kernel (those named, or all) a line of JSON: what it became, or the error."""
    print(triton.__version__)
    jobs: list[tuple[str, Kernel, Variant | None]] = [(str(kernel), kernel, None) for kernel in kernels()]
    if target == VARIANTS_TARGET:
        dtypes = (torch.bfloat16, torch.float32)
        jobs += [(f"{kernel}, {variant}", kernel, variant) for dtype in dtypes for variant, kernel in variants(dtype)]
    for name, kernel, variant in jobs:
        if names and name not in names:
            continue
        found: dict[str, Any] = {"kernel": name}
        try:
            with override(variant.kernel, **variant.choices) if variant else nullcontext():
                found["registers"], found["spills"] = registers_and_spills(target, compile_kernel(kernel, target))
        except Exception as error:  # whatever a compiler raises: that is what is asked
            found["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"
        print(json.dumps(found), flush=True)
