"""GRPO by hand in plain PyTorch: sample, score, learn, with one forward of the policy and no logits in memory.

    python examples/grpo_step.py                                            # a small random model, seconds on a CPU
    python examples/grpo_step.py --model DIR_OR_HUB_ID --prompt "2 + 2 ="

The reward is self-certainty (Intuitor, arXiv 2505.19590), so nothing here knows a right answer. On a random model all
there is to see is that the policy becomes surer with every step, and how far that takes it from where it started.
"""

import argparse
import copy

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from rlif_kernels import linear_grpo_loss, linear_token_stats

GROUP_SIZE = 8
COMPLETION_LENGTH = 16
TEMPERATURE = 1.0
BETA = 0.005  # without a penalty on leaving the start model, self-certainty is soon all that is left


def random_model() -> PreTrainedModel:
    config = Qwen3Config(
        vocab_size=8192, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, initializer_range=0.5, eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def completion_mask(completion_ids: Tensor, eos_token_id: int) -> Tensor:
    """True up to the first end-of-sequence token, which is a decision of the model like any other and so counts."""
    ended_before = (completion_ids == eos_token_id).cumsum(dim=1) - (completion_ids == eos_token_id).int()
    return ended_before == 0


def hidden_states(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, prompt_length: int) -> Tensor:
    """(B, T, H): what the head would turn into the logits of each completion token, at the position before it."""
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)  # prompts are padded on the left
    output = model.model(input_ids, attention_mask=attention_mask, position_ids=position_ids)
    return output.last_hidden_state[:, prompt_length - 1 : -1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory or hub id; default: a small random model")
    parser.add_argument("--prompt", action="append", help="a prompt for that model; may be repeated")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    if arguments.model:
        policy = AutoModelForCausalLM.from_pretrained(arguments.model, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="left", trust_remote_code=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        prompts = tokenizer(arguments.prompt or ["2 + 2 ="], return_tensors="pt", padding=True)
        eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    else:
        policy = random_model()
        prompt_ids = torch.randint(2, policy.config.vocab_size, (4, 6))
        prompts = {"input_ids": prompt_ids, "attention_mask": torch.ones_like(prompt_ids)}
        eos, pad = policy.config.eos_token_id, policy.config.pad_token_id
    start_model = copy.deepcopy(policy).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=arguments.learning_rate)
    head = policy.get_output_embeddings().weight

    print("step  self-certainty  entropy  KL to the start")
    for step in range(arguments.steps):
        # Sample a group of completions for every prompt.
        policy.eval()
        with torch.no_grad():
            # From the policy itself: a model's own settings for generation may say otherwise, and would here.
            input_ids = policy.generate(
                **prompts, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0, repetition_penalty=1.0,
                num_return_sequences=GROUP_SIZE, max_new_tokens=COMPLETION_LENGTH, eos_token_id=eos, pad_token_id=pad,
            )  # fmt: skip
        prompt_length = prompts["input_ids"].shape[1]
        completion_ids = input_ids[:, prompt_length:]
        mask = completion_mask(completion_ids, eos)
        attention_mask = torch.cat([prompts["attention_mask"].repeat_interleave(GROUP_SIZE, dim=0), mask.long()], dim=1)

        # Score: the policy's own statistics, from the forward that the loss needs anyway.
        policy.train()
        hidden = hidden_states(policy, input_ids, attention_mask, prompt_length)
        with torch.no_grad():
            stats = linear_token_stats(
                hidden, head, completion_ids, mask=mask, temperature=TEMPERATURE, outputs=("self_certainty",)
            )
            reward = stats.self_certainty.sum(dim=1) / mask.sum(dim=1)
            start_hidden = hidden_states(start_model, input_ids, attention_mask, prompt_length)
            ref_logprob = linear_token_stats(
                start_hidden, start_model.get_output_embeddings().weight, completion_ids, mask=mask,
                temperature=TEMPERATURE, outputs=("logprob",),
            ).logprob  # fmt: skip

        # Advantages: each completion against the others of its prompt.
        groups = reward.view(-1, GROUP_SIZE)
        advantages = ((groups - groups.mean(dim=1, keepdim=True)) / (groups.std(dim=1, keepdim=True) + 1e-6)).flatten()

        # Learn: loss and gradient in one pass over tiles of logits. On-policy, so there are no old log-probabilities.
        result = linear_grpo_loss(
            hidden, head, completion_ids, advantages, ref_logprob=ref_logprob, mask=mask, temperature=TEMPERATURE,
            beta=BETA,
        )  # fmt: skip
        optimizer.zero_grad()
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        tokens = mask.sum()
        print(f"{step:4d}  {reward.mean():14.4f}  {result.entropy.sum() / tokens:7.4f}  {result.kl.sum() / tokens:.5f}")
    logits_bytes = mask.numel() * head.shape[0] * 4
    print(f"The logits of a step would be {logits_bytes / 1e6:.0f} MB, and their gradient as much: neither was there.")


if __name__ == "__main__":
    main()
