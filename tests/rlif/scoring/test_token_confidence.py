"""Every token of a completion has its own text and its own numbers, whatever the tokenizer does with both."""

from __future__ import annotations

import math

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import PreTrainedTokenizerFast

from made_rollouts import make_rollout, make_stats
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from rlif.scoring.token_confidence import MAX_TOKENS, TOKEN_OUTPUTS, TokenConfidence, token_confidence, token_texts

KEPT = {"lengths": [1, 2, 0], "logprob": [-0.1, -2.0, 0.0], "entropy": [0.5, None, 0.0]}


def test_sampled_tokens_have_their_texts_and_numbers(language_model: LanguageModel) -> None:
    prompts = [EncodedPrompt(text="1+2=", answer="3", ids=[4, 5])]
    rollout = sample(
        language_model, prompts, num_generations=4, max_completion_length=9, temperature=1.0, seeds=[[0]],
        outputs=TOKEN_OUTPUTS,
    )  # fmt: skip
    for row, text in enumerate(rollout.texts):
        found = token_confidence(rollout, row, language_model.tokenizer)
        length = int(rollout.completion_mask[row].sum())
        assert "".join(found.texts) == text
        assert len(found.texts) == length
        for name in TOKEN_OUTPUTS:
            # Three digits are kept.
            assert found.values[name] == pytest.approx(getattr(rollout.stats, name)[row, :length].tolist(), rel=6e-3)
        assert TokenConfidence.from_json(text, found.to_json()) == found


def test_bytes_of_a_character_count_with_the_last_of_them() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    made = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    text = "né \N{SLIGHTLY SMILING FACE}!"
    ids = tokenizer(text)["input_ids"]
    assert token_texts(ids, text, tokenizer) == ["n", "", "é", " ", "", "", "", "\N{SLIGHTLY SMILING FACE}", "!"]
    cut = tokenizer.decode(ids[:5])  # ends inside a character
    assert "".join(token_texts(ids[:5], cut, tokenizer)) == cut
    assert token_texts([], "", tokenizer) == []


def test_a_tokenizer_that_decodes_a_token_otherwise_after_others_loses_no_character() -> None:
    made = Tokenizer(WordLevel({"a": 0, "x": 1, "y": 2, "z": 3}))
    made.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("xyz", "w")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    text = tokenizer.decode([0, 1, 2, 3, 1])
    assert text == "awx"
    assert token_texts([0, 1, 2, 3, 1], text, tokenizer) == ["a", "", "", "w", "x"]


def test_of_a_long_completion_the_first_tokens_are_kept(language_model: LanguageModel) -> None:
    rollout = make_rollout(["1" * (MAX_TOKENS + 3)])
    _, stats = make_stats(rollout)
    found = token_confidence(rollout, 0, language_model.tokenizer, stats)
    assert len(found.texts) == MAX_TOKENS == len(found.values["entropy"])
    assert rollout.texts[0].startswith("".join(found.texts))


def test_a_number_that_is_not_finite_is_kept_as_none(language_model: LanguageModel) -> None:
    rollout = make_rollout(["12"])
    _, stats = make_stats(rollout)
    entropy = stats.entropy.detach().clone()
    entropy[0, 1] = math.nan
    found = token_confidence(rollout, 0, language_model.tokenizer, stats._replace(entropy=entropy))
    assert found.values["entropy"][1] is None
    assert found.values["entropy"][0] is not None


def test_statistics_that_are_missing_are_asked_for_by_name(language_model: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"rollout: got no statistics, expected those of sample\(..., outputs="):
        token_confidence(make_rollout(["1"]), 0, language_model.tokenizer)


def test_what_is_kept_is_read_back() -> None:
    found = TokenConfidence.from_json("abc", KEPT)
    assert found.texts == ["a", "bc", ""]
    assert found.values == {"logprob": [-0.1, -2.0, 0.0], "entropy": [0.5, None, 0.0]}


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": None},
        {"lengths": [1, 3, 0]},
        {"lengths": [1, -2, 0]},
        {"lengths": [True, 2, 0]},
        {"entropy": [0.5, 0.5]},
        {"entropy": "abc"},
        {"logprob": [-0.1, "x", 0.0]},
        {"logprob": [-0.1, 10**400, 0.0]},
    ],
    ids=str,
)
def test_what_is_of_another_completion_or_damaged_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"lengths|tokens|entropy|logprob"):
        TokenConfidence.from_json("abc", KEPT | changes)
