#!/usr/bin/env bash
# One would guess: TRL's RewardTrainer puts the end token after both texts of a plain pair so that the reward model reads its score
# there, and can tell a text that ended from one that was cut at the length limit.
# What happens in TRL 1.16.0 with transformers 5.23.0: where the tokenizer has no padding token, the trainer takes the end token
# for it, and writes that into the model's configuration. The model's score stands at the last id that is not padding; the
# attention mask, which marks the end token as part of the text, has no say. So the token that the trainer has just put
# there is never read: in training its embedding does not move, and the trained model gives a text the same score with
# its end token and without. A policy that is trained on that score learns nothing about when to end.
# With a padding token of its own the same tokenizer, data and code give a model that reads the end token.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 datasets==5.2.0 \
  accelerate==1.15.0 trl==1.16.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys
import tempfile

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

transformers.logging.disable_progress_bar()
WORDS = ["<unk>", "<end>", "<pad>", "two", "and", "is", "four", "five"]
END = WORDS.index("<end>")
SIZES = dict(vocab_size=16, hidden_size=32, intermediate_size=48, num_attention_heads=2, num_hidden_layers=2, num_labels=1)
PAIRS = [{"chosen": "two and two is four", "rejected": "two and two is five"}] * 2


def trained(special: dict[str, str]) -> dict[str, object]:
    """What one step of training leaves, by a tokenizer with these special tokens."""
    split = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=split, unk_token="<unk>", eos_token="<end>", **special)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(
        LlamaConfig(**SIZES, eos_token_id=END, pad_token_id=None, initializer_range=0.2)
    )
    before = model.model.embed_tokens.weight.detach().clone()
    with tempfile.TemporaryDirectory() as folder:
        args = trl.RewardConfig(
            output_dir=folder, use_cpu=True, bf16=False, max_steps=1, learning_rate=1e-3, per_device_train_batch_size=2,
            save_strategy="no", report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = trl.RewardTrainer(
            model=model, args=args, processing_class=tokenizer, train_dataset=Dataset.from_list(PAIRS)
        )
        ids = torch.tensor([trainer.train_dataset[0]["chosen_ids"]])
        trainer.train()
    moved = (model.model.embed_tokens.weight.detach() - before).abs().amax(-1)
    model.eval()
    with torch.no_grad():
        ended, cut = (model(row, attention_mask=torch.ones_like(row)).logits.item() for row in (ids, ids[:, :-1]))
    return {
        "trained on ids that end with the end token": ids[0, -1].item() == END,
        "padding is the end token": model.config.pad_token_id == END,
        "embeddings of words moved": bool((moved[3 : len(WORDS)] > 0).all()),
        "embedding of the end token moved": moved[END].item() > 0,
        "the score tells the ended text from the cut one": abs(ended - cut) > 1e-5,  # above rounding
    }


print("torch", torch.__version__, "transformers", transformers.__version__, "trl", trl.__version__)
found = {}
for name, special in (("no padding token", {}), ("a padding token", {"pad_token": "<pad>"})):
    found[name] = trained(special)
    print(f"a tokenizer with {name}:")
    for what, is_so in found[name].items():
        print(f"  {what}: {is_so}")
expected = [[True, True, True, False, False], [True, False, True, True, True]]
if [list(each.values()) for each in found.values()] != expected:
    sys.exit("changed: see the lines above")
PY
"$work/venv/bin/python" "$work/look.py" 2>/dev/null
