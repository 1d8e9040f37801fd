"""The tokenizer loses nothing of the task's text, also after it was saved and loaded by transformers."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlif.tasks.arithmetic import ALPHABET, ArithmeticConfig, teacher_solutions
from rlif.tasks.tokenizer import EOS, PAD, UNK, build_tokenizer

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


@given(st.lists(st.sampled_from(ALPHABET)).map("".join))
def test_decoding_gives_back_any_text_over_the_alphabet(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.unk_token_id not in ids


def test_decoding_gives_back_solutions_after_saving_and_loading(reloaded: PreTrainedTokenizerFast) -> None:
    for prompt, text in islice(teacher_solutions(ArithmeticConfig(subtraction=True, operands=3), seed=0), 50):
        ids = reloaded.encode(prompt + text)
        assert ids == TOKENIZER.encode(prompt + text)
        assert reloaded.decode(ids) == prompt + text


def test_special_tokens_and_padding_side_survive_saving(reloaded: PreTrainedTokenizerFast) -> None:
    assert (reloaded.pad_token, reloaded.eos_token, reloaded.unk_token) == (PAD, EOS, UNK)
    assert len({reloaded.pad_token_id, reloaded.eos_token_id, reloaded.unk_token_id}) == 3
    batch = reloaded(["1", "123"], padding=True)
    assert batch["input_ids"][0][:2] == [reloaded.pad_token_id] * 2
    assert batch["attention_mask"][0] == [0, 0, 1]
    assert reloaded.decode([*reloaded.encode("#### 7"), reloaded.eos_token_id], skip_special_tokens=True) == "#### 7"


def test_every_symbol_is_one_token() -> None:
    assert all(len(TOKENIZER.encode(symbol)) == 1 for symbol in ALPHABET)
    assert len(TOKENIZER) == len(ALPHABET) + 3


def test_a_foreign_character_becomes_the_unknown_token() -> None:
    assert TOKENIZER.encode("1x2") == [*TOKENIZER.encode("1"), TOKENIZER.unk_token_id, *TOKENIZER.encode("2")]
