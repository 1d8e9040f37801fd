"""The model's verdict is its odds of two words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.self_feedback.sample import sample_completions
from small_samples import PROMPTS, sampling_config


def test_the_models_verdict_on_a_completion_is_its_odds_of_the_two_words(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    config = sampling_config(sampling="independent", temperature=1.0, judge="# ", verdicts=("1", "0"))
    rows = sample_completions(config, language_model, PROMPTS[:2], tmp_path / "samples.jsonl")
    token = language_model.tokenizer.convert_tokens_to_ids
    for row in rows:
        for each in row["completions"]:
            said = [*row["prompt_ids"], *(i for i in each["ids"] if i > 2), token("#"), token(" ")]  # 0 to 2: special
            with torch.no_grad():
                p = language_model.model(input_ids=torch.tensor([said])).logits[0, -1].double().softmax(-1)
            expected = p[token("1")] / (p[token("1")] + p[token("0")])
            assert each["confidence"]["p_true"] == pytest.approx(expected.item(), abs=1e-5)  # padding, in float32
    config = sampling_config(sampling="independent", temperature=1.0, judge="# ", verdicts=("11", "1"))
    with pytest.raises(UserError, match="verdicts: got '11' and '1', expected words that begin with different tokens"):
        sample_completions(config, language_model, PROMPTS, tmp_path / "other.jsonl")
