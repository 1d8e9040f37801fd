"""Prompts become token ids, padded on the left, or an error that says what is wrong with them."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from rlif.data.prompts import Prompt
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel, positions
from rlif.rollouts.encode import encode_prompts, pad_left
from tiny_models import EOS, PAD


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_left_padding_keeps_every_sequence_and_its_positions_count_from_zero(lengths: list[int]) -> None:
    sequences = [[row + 1] * length for row, length in enumerate(lengths)]
    ids, mask = pad_left(sequences, 0, torch.device("cpu"))
    assert ids.shape == (len(lengths), max(lengths))
    assert [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)] == sequences
    assert [row[keep].tolist() for row, keep in zip(positions(mask), mask, strict=True)] == [
        list(range(length)) for length in lengths
    ]
    assert mask[:, -1].all()


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("", "no tokens"), ("1" * 53, "53 tokens, which with max_completion_length 12 is more than the model's 64")],
)
def test_a_prompt_that_the_model_cannot_take_is_an_error(
    language_model: LanguageModel, prompt: str, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        encode_prompts(language_model, [Prompt(prompt)], 12)
    assert encode_prompts(language_model, [Prompt("1" * 52)], 12)


def test_a_prompt_that_is_far_too_long_is_refused_before_it_is_cut_into_tokens(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(type(language_model.tokenizer), "__call__", lambda *text, **options: asked.append(text))
    with pytest.raises(UserError, match="has 64001 characters, which are more than the model's 64 positions hold"):
        encode_prompts(language_model, [Prompt("1" * 64_001)], 12)
    assert not asked


def test_the_context_of_a_model_that_reads_images_too_is_that_of_its_text(language_model: LanguageModel) -> None:
    text = SimpleNamespace(max_position_embeddings=8)
    language_model.model.config = SimpleNamespace(get_text_config=lambda: text)
    with pytest.raises(UserError, match="more than the model's 8 positions"):
        encode_prompts(language_model, [Prompt("1+1=")], 5)


def test_a_tokenizer_larger_than_the_model_is_an_error(language_model: LanguageModel) -> None:
    language_model.tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match="token id 18, but the model has 18 embeddings"):
        encode_prompts(language_model, [Prompt("1<new>")], 12)


@pytest.mark.parametrize(("text", "ids"), [("1+2=", [0, 4, 13, 5, 14]), ("", [0]), ("1<eos>", [0, 4, EOS])])
def test_an_end_token_that_the_tokenizer_appends_is_taken_off(
    text: str, ids: list[int], language_model: LanguageModel
) -> None:
    language_model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <eos> <eos>", special_tokens=[("<pad>", PAD), ("<eos>", EOS)]
    )
    assert language_model.tokenizer("1")["input_ids"] == [PAD, 4, EOS, EOS]
    (encoded,) = encode_prompts(language_model, [Prompt(text)], 12)
    assert encoded.ids == ids  # one that stands in the prompt itself is the user's
