"""Columns of a head that are no tokens are found, and with --vocab-size nothing knows of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rlif.data.prompts import Prompt
from rlif.diagnosis.columns import look_at_columns
from rlif.diagnosis.diagnose import diagnose
from rlif.errors import UserError
from rlif.models.fused_head import fused_head
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.models.vocabulary import limit_vocabulary, unused_columns
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import Scorer
from rlif_kernels import token_stats
from runs import MakeConfig, train
from tiny_models import EOS, SIZES, make_model, make_tokenizer

FIELDS = ("logprob", "entropy", "self_certainty")
LIMIT = 14


def draw(language_model: LanguageModel) -> Rollout:
    prompts = encode_prompts(language_model, [Prompt("1+2="), Prompt("7")], 8)
    return sample(
        language_model, prompts, num_generations=8, max_completion_length=8, temperature=2.0, seeds=[(0,), (1,)],
        outputs=FIELDS,
    )  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_sampled_and_scored_is_the_distribution_of_the_first_columns(fused: bool, model_dir: Path) -> None:
    whole = load_language_model(str(model_dir), device="cpu", dtype="float32")
    limited = load_language_model(str(model_dir), device="cpu", dtype="float32", vocab_size=LIMIT)
    assert draw(whole).completion_ids.max() >= LIMIT  # else nothing below would be a test
    rollout = draw(limited)
    assert rollout.completion_ids.max() < LIMIT
    assert limited.vocab_size == LIMIT
    head = fused_head(limited.model) if fused else None
    scored = Scorer(limited.model, head)(rollout, 2.0, outputs=FIELDS)
    logits = Scorer(whole.model, None).scores(rollout)
    expected = token_stats(
        logits, rollout.completion_ids, mask=rollout.completion_mask, temperature=2.0, vocab_size=LIMIT, outputs=FIELDS
    )
    for name in FIELDS:
        for stats in (scored, rollout.stats):
            # Other orders of float32 sums, of numbers of order 1 to 10.
            torch.testing.assert_close(getattr(stats, name), getattr(expected, name), atol=1e-4, rtol=1e-4)


def test_a_trained_model_keeps_the_columns_and_they_are_not_trained(make_config: MakeConfig) -> None:
    torch.manual_seed(0)
    config = make_config(vocab_size=LIMIT, max_steps=2, beta=0.1)
    train(config)
    before, after = (
        load_file(Path(path) / "model.safetensors") for path in (config.model, config.output_dir / "model")
    )
    name = "model.embed_tokens.weight"  # the head, which is tied to it
    assert after[name].shape == before[name].shape
    assert not torch.equal(after[name][:LIMIT], before[name][:LIMIT])
    # Prompts have '=' (14) among what is cut off; "\n" and " " stand in none of them.
    assert torch.equal(after[name][16:], before[name][16:])
    assert "vocab_size: 14" in (config.output_dir / "config.yaml").read_text()


@pytest.mark.parametrize(("size", "message"), [(99, "at most 18, the columns"), (EOS, "an integer of at least 2")])
def test_a_number_that_no_head_has_is_an_error(size: int, message: str, make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=f"^vocab_size: got {size}, expected {message}"):
        train(make_config(vocab_size=size))


def test_a_head_that_cannot_end_a_completion_is_an_error(model_dir: Path, tmp_path: Path) -> None:
    language_model = load_language_model(str(model_dir), device="cpu", dtype="float32")
    language_model.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "\n"}))
    (tmp_path / "generation_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^vocab_size: got 14 columns, but .* ends completions with token 17"):
        load_language_model(str(tmp_path), device="cpu", dtype="float32", vocab_size=LIMIT)


@pytest.fixture
def padded() -> LanguageModel:
    """A model whose last tokens are in reserve, repeated, and beyond the tokenizer."""
    model, tokenizer = make_model("llama").eval(), make_tokenizer()
    tokenizer.add_tokens(["<unused0>", "<unused1>", "unused2"])  # the last looks like a word
    model.resize_token_embeddings(24)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        nn.init.normal_(head)
        head[7] = head[8]  # two that no training told apart
    return LanguageModel(model, tokenizer, (EOS,), 0)


def test_columns_that_are_no_tokens_are_found(padded: LanguageModel) -> None:
    found = unused_columns(padded.model, padded.tokenizer)
    assert found is not None
    size = SIZES["vocab_size"]
    assert (found.unnamed, found.reserved, found.repeated) == (24 - size - 3, 2, 2)
    assert (found.count, found.num_columns, found.vocab_size) == (24 - size - 3 + 2 + 2, 24, size + 3)
    limit_vocabulary(padded.model, size)
    rest = unused_columns(padded.model, padded.tokenizer)
    assert rest is not None
    assert (rest.count, rest.repeated, rest.vocab_size) == (2, 2, None)


def test_a_model_without_such_columns_is_told_so(language_model: LanguageModel) -> None:
    assert unused_columns(language_model.model, language_model.tokenizer) is None


def test_diagnose_says_what_the_columns_do_to_self_certainty(padded: LanguageModel) -> None:
    with torch.no_grad():  # far from all that is sampled, as columns are that nobody trained
        padded.model.get_output_embeddings().weight[SIZES["vocab_size"] + 3 :] = 0
    rollout = draw(padded)
    scorer = Scorer(padded.model, fused_head(padded.model))
    found, (said,) = look_at_columns(padded, scorer, rollout, 1.0)
    assert found is not None
    values = []
    for size in (24, 21):
        logits = Scorer(padded.model, None).scores(rollout)
        stats = token_stats(
            logits, rollout.completion_ids, mask=rollout.completion_mask, vocab_size=size, outputs=("self_certainty",)
        )
        values.append(stats.self_certainty.sum().item() / int(rollout.completion_mask.sum()))
    assert f"--vocab-size 21 leaves 3 out, and makes it {abs(values[1] / values[0] - 1):.1%}" in said
    assert f"{values[1]:.2f} nats a token for {values[0]:.2f}" in said
    assert padded.vocab_size == 24  # as before
    diagnosis = diagnose(padded, [Prompt("1+2="), Prompt("3+4=")], num_generations=2, max_completion_length=4)
    assert diagnosis.unused_columns is not None
    assert diagnosis.unused_columns.count == found.count
    assert any("are no tokens" in warning for warning in diagnosis.warnings)
    assert math.isfinite(replace(diagnosis).measures["self_certainty"].value)
