"""An interrupt (Ctrl-C) at any moment of an op ends in KeyboardInterrupt, not in a crash."""

import pytest

import forked
from rlif_kernels.backends import c as cpu_backend

# Each op is interrupted at random moments of the time that it takes. Its tensors are freed as the interrupt unwinds:
# threads that went on would write into what the next op is given, or into nothing.
PROGRAM = """
import random, signal, time
import torch
from rlif_kernels import grpo_loss, sample_tokens, token_stats

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, stop)
torch.manual_seed(0)
torch.set_num_threads(2)
logits = torch.randn(10, 40, 32000)
targets, uniform = torch.randint(32000, (10, 40)), torch.rand(10, 40, dtype=torch.float64)
advantages = torch.randn(10)

def forward():
    return token_stats(logits, targets).entropy

def backward():
    leaf = logits.detach().requires_grad_()
    token_stats(leaf, targets).logprob.sum().backward()
    return leaf.grad

def loss():
    leaf = logits.detach().requires_grad_()
    grpo_loss(leaf, targets, advantages).loss.backward()
    return leaf.grad

def sample():
    return sample_tokens(logits, uniform, outputs=("entropy",)).token_ids

for op in (forward, backward, loss, sample):
    print(op.__name__, end=" ", flush=True)
    expected = op()
    took = []
    for _ in range(3):  # on a busy machine one of them may have had to wait
        started = time.perf_counter()
        op()
        took.append(time.perf_counter() - started)
    seconds, interrupted, done = min(took), 0, 0
    while done < 50:
        done += 1
        try:
            signal.setitimer(signal.ITIMER_REAL, max(1e-4, random.random() * seconds))
            op()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
    assert torch.equal(op(), expected)
    print("interrupted" if interrupted > 10 else interrupted)
"""


@pytest.mark.skipif(cpu_backend.library() is None, reason="no C compiler")
def test_fifty_interrupts_of_each_op_crash_nothing_and_the_next_call_is_right():
    said, _ = forked.run(PROGRAM)
    assert said == "".join(f"{op} interrupted\n" for op in ("forward", "backward", "loss", "sample"))
