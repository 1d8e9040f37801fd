"""The ops keep their memory; the gate, which holds their speed in `make bench-gate`, notices when they do not."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from benchmarks.gates import gate
from benchmarks.ops.implementations import naive
from benchmarks.ops.problems import OPS
from rlif_kernels.backends import c as cpu_backend

needs_compiler = pytest.mark.skipif(
    cpu_backend.library() is None, reason="no C compiler: the baseline is the C backend's"
)


@needs_compiler
@pytest.mark.parametrize("name", gate.NAMES)
def test_no_op_takes_more_memory(name):
    naive, ours = gate.calls_of(name)
    # float32: sums over V in two orders. bfloat16: gradients rounded to 8 bits, of which the fused loss rounds once.
    assert max(ours.errors(naive.results())) < (1e-5 if "float32" in name else 1e-2)
    assert gate.hungrier(name, ours, gate.read_baseline()[name]) is None


def test_a_fall_back_to_the_naive_form_is_noticed():
    # Its speed-up is 1, and 0.4 of a baseline of 20 is 8.
    message = gate.slower("token_stats", [0.9, 1.1], gate.Measured(20.0, 0))
    assert "1.10 times as fast as the naive form in the best of 2 attempts; expected at least 8.00" in message
    assert gate.slower("token_stats", [0.9, 1.1], gate.Measured(2.7, 0)) is None  # one attempt is enough


def test_an_attempt_is_the_ratio_of_medians_of_its_rounds():
    naive, ours = [2.0, 2, 2, 9, 9, 4, 4, 4, 4, 4], [1.0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert gate.attempts(naive, ours) == [2.0, 2.0]


@needs_compiler
def test_a_temporary_of_the_logits_size_is_noticed():
    _, call = gate.calls("token_stats", tokens=64, vocab_size=1000, hidden_size=0)
    ours = gate.Measured(1.0, gate.extra_bytes(call))

    def with_a_copy(problem):
        copy = problem.leaves[0].detach().clone()
        outputs = call.function(problem)
        outputs[0].register_hook(lambda gradient, kept=copy: None)  # it lives until the backward, and no longer
        return outputs

    hungry = dataclasses.replace(call, function=with_a_copy)
    assert gate.hungrier("token_stats", call, ours) is None
    assert gate.hungrier("token_stats", hungry, ours).startswith("token_stats: ")


def entry(**changes):
    counts = {
        "kernel": "forward (bf16)", "target": "sm_90", "registers": 112, "spills": 0, "instructions": 9.0,
        "exponentials": 1.1, "barriers": 0, "shuffles": 0, "load_bytes": 16, "store_bytes": None,
        "in_flight": 32768,
    }  # fmt: skip
    return counts | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instructions": 9.9}, "forward (bf16) on sm_90: 9.00 -> 9.90 instructions an element (+10%)"),
        ({"registers": 128}, "forward (bf16) on sm_90: 112 -> 128 registers"),
        ({"spills": 2}, "forward (bf16) on sm_90: 0 -> 2 spills"),
        ({"barriers": 1}, "forward (bf16) on sm_90: 0 -> 1 barriers"),
        ({"load_bytes": 4}, "forward (bf16) on sm_90: loads of 16 -> 4 bytes"),
        ({"in_flight": 24576}, "forward (bf16) on sm_90: 32768 -> 24576 bytes under way in a multiprocessor"),
    ],
)
def test_a_kernel_that_grew_is_named_with_how_much(changes, message):
    assert gate.larger(entry(**changes), entry()) == [message]
    assert gate.larger(entry(), entry(**changes)) == []  # and one that shrank is welcome


def test_a_kernel_within_the_tolerance_passes():
    assert gate.larger(entry(instructions=9.2, registers=120), entry()) == []


def test_the_naive_form_is_what_the_definitions_say():
    logits = torch.randn(2, 3, 50)
    targets = torch.randint(50, (2, 3))
    p = F.softmax(logits.double(), -1)
    _, entropy, self_certainty = naive(OPS["token_stats"])(logits, targets)
    uniform = torch.full_like(p, 1 / 50)
    torch.testing.assert_close(entropy.double(), torch.distributions.Categorical(p).entropy(), rtol=1e-5, atol=1e-5)
    kl = F.kl_div(p.log(), uniform, reduction="none").sum(-1)
    torch.testing.assert_close(self_certainty.double(), kl, rtol=1e-5, atol=1e-5)
