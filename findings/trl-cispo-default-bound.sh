#!/usr/bin/env bash
# One would guess: with loss_type="cispo" TRL bounds the importance weight at about 5, as its help recommends, so that
# on-policy, where every weight is 1, the gradient is that of loss_type="dapo".
# What happens in TRL 1.16.0: the bound is epsilon_high itself, which is epsilon (0.2) unless it is given. So with the
# defaults every weight is 0.2, also on-policy, and the gradient is a fifth of dapo's; no warning says so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 transformers==5.23.0 trl==1.16.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys

import datasets
import torch
import transformers
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {"<pad>": 0, "<eos>": 1, "a": 2, "b": 3, "c": 4}
inner = Tokenizer(models.WordLevel(words, unk_token="a"))
inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")
sizes = dict(vocab_size=5, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)


def gradient(work, **options):
    """Of one micro-batch of four completions, on-policy, with TRL's other defaults."""
    torch.manual_seed(0)
    args = trl.GRPOConfig(
        work, use_cpu=True, bf16=False, report_to="none", per_device_train_batch_size=4, num_generations=4, **options
    )
    trainer = trl.GRPOTrainer(
        LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2)),
        lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["ab"] * 4}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    ones, ids = torch.ones(4, 3, dtype=torch.long), torch.tensor([[2, 3, 4], [3, 3, 2], [4, 2, 2], [2, 4, 3]])
    inputs = {
        "prompt_ids": ids, "prompt_mask": ones, "completion_ids": ids.flip(0), "completion_mask": ones,
        "advantages": torch.tensor([1.0, -1.0, 0.5, -0.5]), "num_items_in_batch": torch.tensor(12),
    }
    trainer._compute_loss(trainer.model, inputs).backward()
    return trainer.epsilon_high, trainer.model.lm_head.weight.grad.norm().item()


results = {
    "dapo": gradient(sys.argv[1], loss_type="dapo")[1],
    "cispo": gradient(sys.argv[1], loss_type="cispo")[1],
    "cispo, epsilon_high=5": gradient(sys.argv[1], loss_type="cispo", epsilon_high=5.0)[1],
}
print("trl", trl.__version__, "transformers", transformers.__version__)
for name, norm in results.items():
    print(f"{name}: gradient of the head {norm / results['dapo']:.3f} times that of dapo")
close = [abs(results[name] / results["dapo"] - value) < 1e-3 for name, value in (("cispo", 0.2), ("cispo, epsilon_high=5", 1.0))]
sys.exit(0 if all(close) else "changed: TRL bounds the weights of cispo in another way")
PY
"$work/venv/bin/python" "$work/look.py" "$work/run"
