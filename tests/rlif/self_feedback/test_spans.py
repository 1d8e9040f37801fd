"""The answer's tokens are found wherever a completion may have them, and confidence is that of those tokens alone."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlif.answers.extract import extract_answer, stated_answer
from rlif.models.language_model import LanguageModel
from rlif.scoring.answer_tokens import answer_tokens
from rlif.self_feedback import sample as sampling
from rlif.self_feedback.options import SampleOptions
from rlif.self_feedback.sample import find_answers
from rlif.self_feedback.spans import MAX_ANSWER_LENGTH, elicited_answers, matching_span
from tiny_models import EOS, make_tokenizer


def byte_tokenizer(merges: list[tuple[str, str]] | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, as GPT-2 writes them, and one for each merge."""
    merges = merges or []
    vocab = ["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(vocab)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", clean_up_tokenization_spaces=False)


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character of ASCII; others are bytes, as SentencePiece writes them."""
    vocab = ["<unk>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(128))]
    model = models.BPE({token: n for n, token in enumerate(vocab)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


BYTES = byte_tokenizer()
# "72" and " 72" are one token each, and different ones, as in most vocabularies.
WORDS = byte_tokenizer([("7", "2"), ("Ġ", "72")])


def found(completion: str, answer: str, tokenizer: PreTrainedTokenizerFast = BYTES) -> str | None:
    """The text of the span that is found, and a check that it is where the text says."""
    ids = tokenizer(completion)["input_ids"]
    span = matching_span(ids, tokenizer(answer)["input_ids"], tokenizer)
    return None if span is None else tokenizer.decode(ids[span])


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("6*7=42, so 42 it is", " 42.", "42"),  # split across tokens, a full stop in the answer
        ("I have 5 and 37. That makes 42", "42 apples", "42"),
        ("the capital is Paris", " Paris.", "Paris"),
        ("x = \\frac{3}{4}", " $\\frac{3}{4}$.", "\\frac{3}{4}"),
        ("ответ: сорок два", " сорок два.", "сорок два"),  # two bytes a letter
        ("答えは四十二です", "四十二", "四十二"),  # three
        ("it is 3.5 in all", "35", "5"),  # one digit is the longest that they share, and the 5 is the later one
        ("no number at all", " 42.", None),
        ("well . , . !", " . , !", None),  # punctuation is no answer
        ("1 2 3", "", None),
    ],
)
def test_the_span_is_what_completion_and_answer_share(completion: str, answer: str, expected: str | None) -> None:
    assert found(completion, answer) == expected


def test_of_equal_matches_the_last_is_the_answer() -> None:
    completion = "42 is 6 * 7; so #### 42"
    ids = BYTES(completion)["input_ids"]
    assert matching_span(ids, BYTES(" 42.")["input_ids"], BYTES) == slice(len(ids) - 2, len(ids))


def test_a_word_with_and_without_its_space_is_the_same_answer() -> None:
    completion = WORDS("so it is #### 72")["input_ids"]
    answer = WORDS("72")["input_ids"]
    assert answer[0] not in completion
    assert matching_span(completion, answer, WORDS) == slice(len(completion) - 1, len(completion))


def test_parts_of_different_characters_are_different_though_both_decode_to_the_replacement() -> None:
    # U+00E9 and U+00EA differ in their last byte, and either byte alone decodes to the replacement character.
    first, second = BYTES("é")["input_ids"], BYTES("ê")["input_ids"]
    assert first[0] == second[0]
    assert found("é", "ê") == BYTES.decode(first[:1])
    assert matching_span(first[1:], second[1:], BYTES) is None


def test_the_end_token_is_part_of_no_answer() -> None:
    completion = [*BYTES("42")["input_ids"], BYTES.eos_token_id]
    assert matching_span(completion, [*BYTES("42")["input_ids"], BYTES.eos_token_id], BYTES) == slice(0, 2)
    assert matching_span([BYTES.eos_token_id], [BYTES.eos_token_id], BYTES) is None


def test_the_elicited_answer_is_what_the_model_goes_on_with_greedily(language_model: LanguageModel) -> None:
    prompts, completions = [[5, 6, 13], [4]], [[7, 8, EOS], [9, 10, 11]]
    request = language_model.tokenizer("=", add_special_tokens=False)["input_ids"]
    answers = elicited_answers(language_model, prompts, completions, "=")
    for prompt, completion, answer in zip(prompts, completions, answers, strict=True):
        asked = torch.tensor([prompt + [token for token in completion if token != EOS] + request])
        generated = language_model.model.generate(
            asked, max_new_tokens=MAX_ANSWER_LENGTH, do_sample=False, pad_token_id=0
        )[0, asked.shape[1] :].tolist()
        expected = generated[: generated.index(EOS)] if EOS in generated else generated
        assert answer == [token for token in expected if token > 2]  # 0 to 2 are special


def test_a_marker_gives_the_answers_tokens_and_a_completion_all_of_them(language_model: LanguageModel) -> None:
    texts = ["3+4\n#### 7", "3+4="]
    ids = [[*make_tokenizer()(text)["input_ids"], EOS] for text in texts]
    arguments = (language_model, [[3], [3]], ids, [stated_answer(text) for text in texts])
    # A token a character: the 7 stands before the end token.
    marked = slice(len(ids[0]) - 2, len(ids[0]) - 1)
    assert find_answers(SampleOptions(answer_span="marker"), *arguments) == ([marked, None], ["7", None])
    whole = [slice(0, len(row)) for row in ids]
    assert find_answers(SampleOptions(answer_span="trace"), *arguments) == (whole, ["7", None])


@pytest.mark.parametrize("text", ["é答 #### 42", "#### 答1😀\n答", "答😀#### 😀", "é é #### 1é", "\\boxed{é}答"])
@pytest.mark.parametrize("tokenizer", [BYTES, byte_fallback_tokenizer()], ids=["byte level", "byte fallback"])
def test_a_marked_answer_has_all_bytes_of_its_characters_and_no_others(
    text: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    tokens = answer_tokens(stated_answer(text), ids, tokenizer)
    assert tokens is not None
    assert tokenizer.decode(ids[tokens]).strip() == extract_answer(text)


def test_an_elicited_answer_is_compared_without_the_marker_that_it_repeats(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    completion = language_model.tokenizer("3+4\n#### 7")["input_ids"]
    monkeypatch.setattr(sampling, "elicited_answers", lambda *arguments: [completion[-6:]])
    spans, answers = find_answers(
        SampleOptions(answer_span="elicited"), language_model, [[3]], [completion], [stated_answer("3+4\n#### 7")]
    )
    assert answers == ["7"]
    assert spans == [slice(len(completion) - 6, len(completion))]
