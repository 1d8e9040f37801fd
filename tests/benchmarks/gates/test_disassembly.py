"""Registers and spills of a kernel are those of its disassembly, which is not made where there is nothing to count."""

import importlib
import os
import re
import subprocess
from types import SimpleNamespace

import pytest

from benchmarks.memory import in_fresh_process


def assembled():
    """What became of a kernel at each stage; in a process that has not imported Triton to interpret."""
    os.environ.pop("TRITON_INTERPRET", None)
    compiled = importlib.import_module("benchmarks.gates.compiled")
    (forward,) = (kernel for kernel in compiled.kernels() if str(kernel) == "forward (bf16)")
    return dict(compiled.compile_kernel(forward, "sm_90").asm)


@pytest.fixture(scope="module")
def compiled():
    return SimpleNamespace(asm=in_fresh_process(assembled, forked=False))


@pytest.fixture
def disassembly():
    return importlib.import_module("benchmarks.gates.disassembly")


def test_a_kernel_without_a_stack_has_no_spills_and_is_not_disassembled(compiled, disassembly, monkeypatch):
    program = disassembly.disassembled("sm_90", compiled)
    assert program.spills == 0
    monkeypatch.setattr(disassembly, "disassembled", None)
    assert disassembly.registers_and_spills("sm_90", compiled) == (program.registers, 0)


def test_spills_are_counted_where_there_is_a_stack(compiled, disassembly, tmp_path):
    ptx, cubin = tmp_path / "kernel.ptx", tmp_path / "kernel.cubin"
    ptx.write_text(re.sub(r"\.maxnreg \d+", ".maxnreg 32", compiled.asm["ptx"]))
    assembler = disassembly.CUOBJDUMP.with_name("ptxas")
    subprocess.run([assembler, "-arch=sm_90a", ptx, "-o", cubin], check=True, capture_output=True)
    spilling = SimpleNamespace(asm={"cubin": cubin.read_bytes()})
    program = disassembly.disassembled("sm_90", spilling)
    assert program.spills > 0
    assert disassembly.registers_and_spills("sm_90", spilling) == (program.registers, program.spills)
