"""The README's Python snippets do what they say, as they stand there."""

import re
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

README = Path(__file__).parents[2] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("function", ["token_stats", "linear_grpo_loss"])
def test_the_kernels_drop_into_a_trainer(function):
    (snippet,) = [each for each in SNIPPETS if f"from rlif_kernels import {function}\n" in each]
    config = Qwen3Config(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    input_ids = torch.randint(50, (2, 6))
    mask = torch.tensor([[False, True, True, True, True], [False, True, True, False, False]])
    names = {
        "model": model, "input_ids": input_ids, "completion_mask": mask, "advantages": torch.tensor([1.0, -1.0]),
        "old_logprob": -4 * torch.rand(2, 5), "ref_logprob": -4 * torch.rand(2, 5),
        "advantage": lambda reward: reward - reward.mean(),
    }  # fmt: skip
    exec(snippet, names)
    if function == "token_stats":
        names["loss"].backward()
    assert model.lm_head.weight.grad.isfinite().all()
    assert model.lm_head.weight.grad.any()
