"""Best of N without labels: sample N answers with transformers' `generate`, keep the one the model is surest of.

    python examples/best_of_n.py                                            # the model of `rlif demo`, which adds
    python examples/best_of_n.py --model DIR_OR_HUB_ID --prompt "2 + 2 ="

Self-certainty as a score for choosing is from arXiv 2502.18581. One more forward over the samples gives it, exactly,
whatever the sampling options did to the probabilities.
"""

import argparse

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlif_kernels import token_stats


@torch.no_grad()
def sample_with_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], n: int, max_new_tokens: int
) -> tuple[list[list[str]], Tensor]:
    """N completions of each prompt, and the mean self-certainty of each, (prompts, N), in nats per token."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    end_ids = model.generation_config.eos_token_id  # chat models have several, of which the tokenizer knows one
    if end_ids is None:
        end_ids = tokenizer.eos_token_id
    input_ids = model.generate(
        **inputs, do_sample=True, top_k=0, num_return_sequences=n, max_new_tokens=max_new_tokens,
        eos_token_id=end_ids, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    prompt_length = inputs["input_ids"].shape[1]
    completion_ids = input_ids[:, prompt_length:]
    # An end token is the model's last decision and counts; what comes after it is padding.
    is_eos = torch.isin(completion_ids, torch.tensor(end_ids, device=completion_ids.device))
    mask = is_eos.cumsum(dim=1) - is_eos.int() == 0
    attention_mask = torch.cat([inputs["attention_mask"].repeat_interleave(n, dim=0), mask.long()], dim=1)
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    # The logits at a position are the distribution of the token after it.
    logits = model(input_ids, attention_mask=attention_mask, position_ids=position_ids).logits
    stats = token_stats(logits[:, prompt_length - 1 : -1], completion_ids, mask=mask, outputs=("self_certainty",))
    score = stats.self_certainty.sum(dim=1) / mask.sum(dim=1)
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    return [texts[start : start + n] for start in range(0, len(texts), n)], score.view(len(prompts), n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory or hub id; default: the model of `rlif demo`")
    parser.add_argument("--prompt", default="What is 17 * 23?", help="a prompt for that model")
    parser.add_argument("--n", type=int, default=8, help="samples to choose from")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    answers = None
    if arguments.model:
        directory, prompts = arguments.model, [arguments.prompt]
    else:
        from itertools import islice

        from rlif.tasks.arithmetic import ArithmeticConfig, problems
        from rlif.tasks.built_in_models import pretrained_base
        from rlif.tasks.options import BaseModelConfig

        print("Sums of three digits by the model of `rlif demo`; pretrained now, about a minute, if there is none yet.")
        directory = pretrained_base(BaseModelConfig())
        sums = list(islice(problems(ArithmeticConfig(), "eval", seed=0), 100))
        prompts, answers = [each.prompt for each in sums], [str(each.answer) for each in sums]
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    completions, scores = sample_with_scores(model, tokenizer, prompts, arguments.n, arguments.max_new_tokens)

    print(f"The samples for {prompts[0].strip()!r}, surest first:")
    for index in scores[0].argsort(descending=True).tolist():
        print(f"  {scores[0, index]:7.3f}  {completions[0][index].strip()!r}")
    if answers is not None:
        from rlif.answers.extract import extract_answer
        from rlif.answers.matching import is_right
        from rlif.metrics.selection import answer_clusters, best_choice

        stated = [[extract_answer(text) for text in texts] for texts in completions]
        right = torch.tensor(
            [
                [each is not None and is_right(each, answer) for each in group]
                for group, answer in zip(stated, answers, strict=True)
            ]
        )
        # As in the paper, completions without an answer are left out where any has one.
        choice = torch.from_numpy(best_choice(scores.numpy(), answer_clusters(stated)))
        surest = right.gather(1, choice[:, None])
        print(f"Right answers to {len(prompts)} sums:")
        print(f"  a sample          {right.float().mean():6.1%}")
        print(f"  the surest of {arguments.n:<3d} {surest.float().mean():6.1%}")
        print(f"  any of them       {right.any(dim=1).float().mean():6.1%}")


if __name__ == "__main__":
    main()
