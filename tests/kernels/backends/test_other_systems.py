"""On Windows and macOS, with no Triton and no C compiler, every op computes, by the torch backend."""

import subprocess
import sys

# In one process, which takes seconds to import torch: first as Windows has it, then as macOS without its developer
# tools, whose `cc` asks to install them and fails. What torch imports later it imports before it could notice.
PROGRAM = """
import os, sys, sysconfig, types, warnings
sys.modules["triton"] = None
import torch
import torch._dynamo

sysconfig.get_config_vars()  # of the system that this is

sys.modules["fcntl"] = None
del os.geteuid
sys.platform = "win32"
import rlif_kernels
from rlif_kernels import backends, reference
from rlif_kernels.backends.c import build

torch.manual_seed(0)
hidden, weight, targets = torch.randn(5, 8), torch.randn(50, 8), torch.randint(50, (5,))
advantages = old = torch.randn(5)

def computed(backend):
    leaf = hidden.clone().requires_grad_()
    stats = rlif_kernels.linear_token_stats(leaf, weight, targets, backend=backend)
    loss = rlif_kernels.grpo_loss(leaf @ weight.T, targets, advantages, old, backend=backend).loss
    loss = loss + rlif_kernels.linear_grpo_loss(leaf, weight, targets, advantages, old, backend=backend).loss
    logits = leaf @ weight.T
    pair = rlif_kernels.divergence(logits, 2 * logits.detach(), kind="reverse_kl", backend=backend).loss
    (stats.logprob.sum() + stats.entropy.sum() + loss + pair).backward()
    drawn = rlif_kernels.sample_tokens(hidden @ weight.T, torch.full((5,), 0.5), outputs=("entropy",), backend=backend)
    return [*stats[:3], loss, pair, leaf.grad, drawn.token_ids, drawn.stats.entropy]

for system in ("win32", "darwin"):
    sys.platform = system
    build.found.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = computed(None)
    assert all(torch.equal(*pair) for pair in zip(results, computed("torch"), strict=True)), system
    expected = reference.token_stats((hidden @ weight.T).double(), targets)
    torch.testing.assert_close(results[1].double(), expected.entropy, rtol=4e-6, atol=4e-6)
    # A GPU is not there to compute on, but to choose for.
    gpu = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert backends.local_backend("auto", gpu) is backends.torch_backend
    caught += told
    print(system, [str(each.message).partition(":")[0] for each in caught if "backend" in str(each.message)])
"""


def test_every_op_computes_and_a_warning_says_what_to_install(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'xcode-select: note: no developer tools were found' >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "win32 ['the torch backend serves on this GPU, slower than the Triton kernels would']",
        "darwin ['the torch backend serves on this CPU, several times slower than the C kernels would']",
    ]
