"""The library `kernels` loads what `python -m rlif_kernels.hub` makes, where the package itself is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from environments import SECONDS, Environment

# A test runs several commands, each of which may take SECONDS on a busy machine: more than the limit of other tests.
pytestmark = [pytest.mark.release, pytest.mark.timeout(4 * SECONDS)]

LOADS = """
import importlib.util, os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")  # torch warns that it misses NumPy
import torch
from kernels import get_kernel, get_local_kernel

directory = Path(sys.argv[1])
os.environ["LOCAL_KERNELS"] = f"someone/rlif-kernels={directory}"  # read when a kernel is asked for
assert importlib.util.find_spec("rlif_kernels") is None and importlib.util.find_spec("transformers") is None
kernel = get_local_kernel(directory)
assert get_kernel("someone/rlif-kernels", version=0) is kernel
assert get_local_kernel(directory, backend="cpu") is kernel
print(kernel.__name__)

hidden, weight, targets = torch.randn(4, 8, requires_grad=True), torch.randn(30, 8), torch.randint(30, (4,))
stats = kernel.linear_token_stats(hidden, weight, targets)
loss = kernel.linear_grpo_loss(hidden, weight, targets, stats.entropy.detach()).loss
(loss + stats.self_certainty.sum()).backward()
assert hidden.grad.isfinite().all()
logits = hidden.detach() @ weight.T
expected = kernel.reference.token_stats(logits.double(), targets)
torch.testing.assert_close(stats.entropy.double(), expected.entropy, rtol=4e-6, atol=4e-6)
# As TRL calls its own kernel of the Hub, trl-losses.
both = kernel.compat.selective_log_softmax_and_entropy
logprob, entropy = both(logits, targets, temperature=1.0, row_mask=targets >= 0)
torch.testing.assert_close(logprob.double(), expected.logprob, rtol=4e-6, atol=4e-6)
torch.testing.assert_close(entropy.double(), expected.entropy, rtol=4e-6, atol=4e-6)

compiled = torch.compile(lambda x: kernel.token_stats(2 * x, targets).entropy, fullgraph=True, backend="aot_eager")
assert torch.equal(compiled(logits), kernel.token_stats(2 * logits, targets).entropy)
assert not [name for name in sys.modules if name.startswith("rlif")]

from kernels.verify import Digest, Metadata
build = directory / "build" / "torch-cpu"
metadata = Metadata.read_from_file(build / "metadata.json")
metadata.digest.validate(Digest.hash_variant(metadata.digest.algorithm, build))
print("checked")
"""


def test_the_library_loads_it_and_its_ops_run_where_the_package_is_not(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("hub")
    command = [sys.executable, "-m", "rlif_kernels.hub", "--output", directory / "kernel"]
    subprocess.run(command, check=True, timeout=SECONDS)
    environment = Environment(Path(sys.executable), directory)
    environment.link("torch", "triton")
    environment.install("kernels")
    name, checked = environment.run("-c", LOADS, directory / "kernel").stdout.split()
    assert name.startswith("_rlif_kernels_cpu_")
    assert checked == "checked"
