"""Which code computes, and that the package needs none of Triton, a GPU and torch.distributed."""

import subprocess
import sys


def test_the_package_imports_and_computes_where_triton_is_not_installed():
    program = """
import sys
sys.modules["triton"] = None
import torch
from rlif_kernels import token_stats
print(float(token_stats(torch.zeros(1, 8), torch.tensor([3])).entropy))
try:
    token_stats(torch.zeros(1, 8), torch.tensor([3]), backend="triton")
except ImportError as error:
    print(error)
assert not {"rlif", "transformers", "rlif_kernels.backends.sharded.parallel"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "2.079441547393799",
        'backend="triton" needs the triton package, which could not be imported',
    ]
