"""A reward model is read where transformers reads the sequence classifier that it is saved as."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rlif.models.reward_model import RewardModel, load_reward_model
from tiny_models import EOS

PROMPTS, COMPLETIONS = [[3, 4, 14], [5, 14], [6]], [[7, EOS], [8, 9, 3, EOS], [4, 8]]
OTHER_PAD = 2


def begun(model_dir: Path, pad_token_id: int) -> RewardModel:
    torch.manual_seed(0)
    return load_reward_model(
        str(model_dir), device=torch.device("cpu"), dtype=torch.float32, pad_token_id=pad_token_id, new_head=True
    )


@pytest.mark.parametrize("pad_token_id", [EOS, OTHER_PAD])
def test_a_saved_model_scores_as_transformers_does_whatever_the_policy_pads_with(
    pad_token_id: int, model_dir: Path, tmp_path: Path
) -> None:
    reward_model = begun(model_dir, pad_token_id)
    reward_model.model.save_pretrained(tmp_path / "saved")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    rows = [prompt + completion for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]
    length = max(map(len, rows))
    with torch.no_grad():
        expected = classifier(
            input_ids=torch.tensor([row + [pad_token_id] * (length - len(row)) for row in rows]),
            attention_mask=torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
        ).logits[:, 0]
        assert reward_model.rewards(PROMPTS, COMPLETIONS).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        for other in (EOS, OTHER_PAD):
            loaded = load_reward_model(
                str(tmp_path / "saved"), device=torch.device("cpu"), dtype=torch.float32, pad_token_id=other
            )
            assert loaded.rewards(PROMPTS, COMPLETIONS).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_where_the_end_token_stands_for_padding_the_token_before_it_is_read(model_dir: Path) -> None:
    at_the_end, before_it = begun(model_dir, OTHER_PAD), begun(model_dir, EOS)
    with torch.no_grad():
        whole = at_the_end.rewards(PROMPTS, COMPLETIONS)
        cut = at_the_end.rewards(PROMPTS, [[token for token in each if token != EOS] for each in COMPLETIONS])
        read = before_it.rewards(PROMPTS, COMPLETIONS)
    assert read.tolist() == pytest.approx(cut.tolist(), abs=1e-5)
    assert not torch.allclose(read[:2], whole[:2])
