"""The ops keep their speed beside the naive form and their memory; the gate that says so notices when they do not."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.gates import gate
from benchmarks.allocation import peak_allocated
from benchmarks.ops.four_ops import OPS, Case, make_case, naive_fields
from rlif_kernels.backends import c as cpu_backend

pytestmark = pytest.mark.skipif(cpu_backend.library() is None, reason="no C compiler: the baseline is the C backend's")


@pytest.mark.parametrize("name", gate.NAMES)
def test_no_op_loses_its_speed_up_or_takes_more_memory(name):
    case, baseline = gate.case_of(name), gate.read_baseline()[name]
    # float32: sums over V in two orders. bfloat16: gradients rounded to 8 bits, of which the fused loss rounds once.
    assert case.largest_difference() < (1e-5 if "float32" in name else 1e-2)
    assert gate.hungrier(name, case, baseline) is None
    assert gate.slower(name, case, baseline) is None


@pytest.mark.parametrize("op", OPS)
def test_every_op_is_compared_with_a_naive_form_of_the_same_value_and_gradient(op):
    assert make_case(op, tokens=64, vocab_size=200, hidden_size=16).largest_difference() < 1e-5


def test_a_fall_back_to_the_naive_form_is_noticed():
    case = make_case("token_stats", tokens=64, vocab_size=4000)
    naive = case.losses["naive"]
    fallen_back = Case(case.leaves, {"naive": naive, "rlif": naive})
    # Its speed-up is 1, and 0.4 of a baseline of 20 is 8: no noise is as large.
    message = gate.slower("token_stats", fallen_back, gate.Measured(20.0, 0), attempts=2)
    assert "in the best of 2 attempts; expected at least 8.00" in message
    assert gate.slower("token_stats", fallen_back, gate.Measured(0.2, 0)) is None


def test_a_temporary_of_the_logits_size_is_noticed():
    case = make_case("token_stats", tokens=64, vocab_size=1000)
    ours = gate.Measured(1.0, gate.extra_bytes(case))
    (logits,) = case.leaves

    def with_a_copy():
        copy = logits.detach().clone()
        loss = case.losses["rlif"]()
        loss.register_hook(lambda gradient, kept=copy: None)  # it lives until the backward, and no longer
        return loss

    hungry = Case(case.leaves, {"rlif": with_a_copy})
    assert gate.hungrier("token_stats", case, ours) is None
    assert gate.hungrier("token_stats", hungry, ours).startswith("token_stats: ")


def test_allocated_bytes_are_counted_to_the_byte_and_freed_ones_again():
    def work():
        first = torch.empty(1000)
        first = torch.empty(3000)  # beside the one that it replaces
        del first
        torch.empty(2000)

    assert peak_allocated(work) == 4 * 4000


def entry(**changes):
    counts = {
        "kernel": "forward (bf16)", "target": "sm_90", "registers": 112, "spills": 0, "instructions": 9.0,
        "exponentials": 1.1, "barriers": 0, "shuffles": 0, "load_bytes": 16, "store_bytes": None,
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
    _, entropy, self_certainty = naive_fields(logits, targets)
    uniform = torch.full_like(p, 1 / 50)
    torch.testing.assert_close(entropy.double(), torch.distributions.Categorical(p).entropy(), rtol=1e-5, atol=1e-5)
    kl = F.kl_div(p.log(), uniform, reduction="none").sum(-1)
    torch.testing.assert_close(self_certainty.double(), kl, rtol=1e-5, atol=1e-5)
