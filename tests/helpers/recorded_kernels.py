"""Counts of compiled kernels, of which those are compiled anew that have changed since they were recorded.

To compile all kernels of a target takes minutes. What a kernel becomes follows from Triton's own representation of it,
which takes a moment to make, from the options, and from Triton's release: where these are those of the record, so is
what it becomes.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# Of `benchmarks.gates`: what counts in what was compiled.
COUNTING = ("disassembly.py", "hardware.py", "loads.py")
# The option that says where the libraries of a release of Triton lie; what they hold goes with the release.
PLACED = "extern_libs"
# Where an operation stands in the source, which changes with every comment.
PLACE = re.compile(r'^#loc.*\n| loc\((?:"[^"]*"\()?#loc\d*\)?\)', re.MULTILINE)


def count_changed(
    target: str, only: Collection[str], recorded: Mapping[str, Mapping[str, Any]], always: Collection[str]
) -> dict[str, Any]:
    """Counts of a target's kernels, each with what it is made of; in a process that has not imported Triton yet.

    Args:
        target: of the compiler.
        only: the kernels; (): all, and the peers' that are installed.
        recorded: by kernel what this has returned earlier.
        always: kernels that are compiled though nothing has changed.
    """
    os.environ.pop("TRITON_INTERPRET", None)  # which cannot be undone once kernels are decorated
    compiled = importlib.import_module("benchmarks.gates.compiled")
    found: dict[str, dict[str, Any]] = {}
    for kernel in compiled.kernels():
        name = str(kernel)
        if only and name not in only:
            continue
        made_of = fingerprint(kernel, target)
        same = name in recorded and recorded[name]["made_of"] == made_of and name not in always
        counts = recorded[name]["counts"] if same else vars(compiled.count_kernel(kernel, target))
        found[name] = {"made_of": made_of, "counts": counts}
    peers = [] if only else compiled.count_peers(target)
    return {
        # Another Python may write the same kernel in another way.
        "made_with": {"triton": compiled.triton.__version__, "python": platform.python_version().rpartition(".")[0]},
        "kernels": found,
        "peers": {each.kernel: vars(each) for each in peers},
    }


def fingerprint(kernel: Any, target: str) -> str:
    """A digest of everything that the counts of a kernel follow from; without the lines of its source."""
    compiled = importlib.import_module("benchmarks.gates.compiled")
    compiler = importlib.import_module("triton.compiler.compiler")
    language = importlib.import_module("triton._C.libtriton").ir
    source, options = compiled.kernel_source(kernel, target)
    backend = compiler.make_backend(compiled.TARGETS[target])
    options = backend.parse_options(options)
    context = language.context()
    language.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(options)
    module = source.make_ir(compiled.TARGETS[target], options, functions, backend.get_module_map(), context)
    folder = Path(compiled.__file__).parent
    parts = (
        compiled.triton.__version__,
        target,
        sorted((name, repr(value)) for name, value in vars(options).items() if name != PLACED),
        compiled.counting_arguments(kernel, target),
        *((folder / name).read_text(encoding="utf-8") for name in COUNTING),
        PLACE.sub("", str(module)),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()
