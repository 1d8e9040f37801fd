"""Bad arguments: each one error that names the argument, what came and what was expected."""

import numpy as np
import pytest
import torch

from rlif_kernels import grpo_loss, linear_grpo_loss, linear_token_stats, sample_tokens, token_stats

LOGITS, TARGETS = torch.zeros(2, 3, 8), torch.zeros(2, 3, dtype=torch.long)

BAD = {
    "logits not a tensor": ([[0.0]], TARGETS, {}, TypeError, "logits is a list; expected a torch.Tensor"),
    "logits of integers": (LOGITS.long(), TARGETS, {}, TypeError, "logits has dtype torch.int64; expected float32"),
    "float64 logits": (LOGITS.double(), TARGETS, {}, TypeError, "logits has dtype torch.float64; expected float32"),
    "no columns": (LOGITS[..., :0], TARGETS, {}, ValueError, r"logits has shape \(2, 3, 0\); expected \(..., V\)"),
    "a scalar": (torch.tensor(0.0), TARGETS, {}, ValueError, r"logits has shape \(\); expected \(..., V\)"),
    "columns with a stride": (
        torch.zeros(2, 3, 16)[..., ::2], TARGETS, {}, ValueError, "logits has stride 2 in its last dimension",
    ),
    "targets of another shape": (
        LOGITS, TARGETS[:, :2], {}, ValueError, r"targets has shape \(2, 2\); expected \(2, 3\)",
    ),
    "targets of floats": (LOGITS, TARGETS.float(), {}, TypeError, "targets has dtype torch.float32; expected an"),
    "temperature 0": (LOGITS, TARGETS, {"temperature": 0.0}, ValueError, "temperature is 0.0; expected a"),
    "temperature NaN": (LOGITS, TARGETS, {"temperature": float("nan")}, ValueError, "temperature is nan; expected"),
    "temperatures of another shape": (
        LOGITS, TARGETS, {"temperature": torch.ones(2)}, ValueError, r"temperature has shape \(2,\); expected \(2, 3\)",
    ),
    "temperatures of integers": (
        LOGITS, TARGETS, {"temperature": TARGETS + 1}, TypeError, "temperature has dtype torch.int64; expected a",
    ),
    "a temperature in a tensor of integers": (
        LOGITS, TARGETS, {"temperature": torch.tensor(1)}, TypeError, "temperature has dtype torch.int64; expected a",
    ),
    "temperature 0 in a tensor": (
        LOGITS, TARGETS, {"temperature": torch.tensor(0.0)}, ValueError, "temperature is 0.0; expected a positive",
    ),
    "an infinite temperature of numpy": (
        LOGITS, TARGETS, {"temperature": np.float32("inf")}, ValueError, "temperature is inf; expected a positive",
    ),
    "a boolean as temperature": (LOGITS, TARGETS, {"temperature": True}, TypeError, "temperature is True; expected"),
    "mask of integers": (LOGITS, TARGETS, {"mask": TARGETS}, TypeError, "mask has dtype torch.int64; expected"),
    "mask of another shape": (
        LOGITS, TARGETS, {"mask": torch.ones(3, 2, dtype=torch.bool)}, ValueError, r"mask has shape \(3, 2\); expected",
    ),
    "vocab_size too large": (LOGITS, TARGETS, {"vocab_size": 9}, ValueError, "vocab_size is 9; expected 1 to 8"),
    "vocab_size 0": (LOGITS, TARGETS, {"vocab_size": 0}, ValueError, "vocab_size is 0; expected 1 to 8"),
    "softcap 0": (LOGITS, TARGETS, {"softcap": 0.0}, ValueError, "softcap is 0.0; expected a positive number"),
    "a temperature beyond float32": (LOGITS, TARGETS, {"temperature": 1e-60}, ValueError, "temperature is 1e-60"),
    "an infinite softcap": (LOGITS, TARGETS, {"softcap": float("inf")}, ValueError, "softcap is inf; expected"),
    "temperature as text": (LOGITS, TARGETS, {"temperature": "1"}, TypeError, "temperature is '1'; expected"),
    "softcap as text": (LOGITS, TARGETS, {"softcap": "3"}, TypeError, "softcap is '3'; expected a positive number"),
    "vocab_size as a float": (LOGITS, TARGETS, {"vocab_size": 5.0}, TypeError, "vocab_size is 5.0; expected"),
    "mask as a list": (LOGITS, TARGETS, {"mask": [True]}, TypeError, "mask is a list; expected a torch.Tensor or None"),
    "sparse logits": (LOGITS[0].to_sparse(), TARGETS[0], {}, TypeError, "logits has layout torch.sparse_coo; expected"),
    "an unknown output": (LOGITS, TARGETS, {"outputs": ("logp",)}, ValueError, r"outputs is \('logp',\); expected"),
    "outputs as a string": (LOGITS, TARGETS, {"outputs": "logprob"}, ValueError, "outputs is 'logprob'; expected"),
    "no outputs": (LOGITS, TARGETS, {"outputs": ()}, ValueError, r"outputs is \(\); expected a non-empty tuple"),
    "an unknown backend": (LOGITS, TARGETS, {"backend": "cuda"}, ValueError, "backend is 'cuda'; expected \"triton\""),
    "targets on another device": (
        LOGITS, TARGETS.to("meta"), {}, ValueError, "targets is on meta; expected cpu, the device of logits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_bad_argument_is_named(case):
    logits, targets, options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        token_stats(logits, targets, **options)


NUMBERS = (
    np.float32(0.7),
    np.float64(0.7),
    np.float16(0.7),
    torch.tensor(0.7),
    torch.tensor(0.7, dtype=torch.bfloat16),
)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: f"{type(number).__name__}, {number.dtype}")
def test_a_number_of_numpy_or_in_a_tensor_is_a_temperature_to_every_op(number):
    logits, hidden, weight = torch.randn(2, 3, 8), torch.randn(2, 3, 4), torch.randn(8, 4)
    advantages, uniform = torch.ones(2), torch.rand(2, 3)
    for call in (
        lambda temperature: token_stats(logits, TARGETS, temperature=temperature).logprob,
        lambda temperature: linear_token_stats(hidden, weight, TARGETS, temperature=temperature).logprob,
        lambda temperature: grpo_loss(logits, TARGETS, advantages, temperature=temperature).logprob,
        lambda temperature: linear_grpo_loss(hidden, weight, TARGETS, advantages, temperature=temperature).logprob,
        lambda temperature: sample_tokens(logits, uniform, temperature=temperature, outputs=("logprob",)).stats.logprob,
    ):
        assert torch.equal(call(number), call(float(number)))


def test_a_temperature_in_a_tensor_is_the_number_in_compiled_code_and_under_transforms_too():
    logits, tangent, temperature = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.tensor(0.7)

    def entropy(x, temperature):
        return token_stats(x, TARGETS, temperature=temperature).entropy

    torch.compiler.reset()
    compiled = torch.compile(entropy, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits, temperature), entropy(logits, 0.7))
    _, moved = torch.func.jvp(lambda x: entropy(x, temperature), (logits,), (tangent,))
    _, expected = torch.func.jvp(lambda x: entropy(x, 0.7), (logits,), (tangent,))
    torch.testing.assert_close(moved, expected)  # the number was rounded to float32


def test_the_options_of_the_loss_may_be_numbers_of_numpy():
    logits, advantages = torch.randn(2, 3, 8), torch.ones(2)
    ours = grpo_loss(logits, TARGETS, advantages, entropy_coef=np.float32(0.5), loss_scale=np.int64(2))
    assert torch.equal(ours.loss, grpo_loss(logits, TARGETS, advantages, entropy_coef=0.5, loss_scale=2).loss)
