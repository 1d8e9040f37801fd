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
from rlif.self_feedback.spans import MAX_ANSWER_LENGTH, AnswerSpan, elicited_answers, matching_span
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
    """The text of the span that is found, and a check that its tokens are those of the text, space beside it."""
    ids = tokenizer(completion)["input_ids"]
    span = matching_span(ids, tokenizer(answer)["input_ids"], tokenizer)
    if span is None:
        return None
    assert tokenizer.decode(ids[span.tokens]).strip() == span.text
    return span.text


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("0.5 + 0.25 = 0.75", " 0.75", "0.75"),  # a run of equal tokens would be 75
        ("He has $2,200 now.", " 2200", "2,200"),
        ("He has 2200 now.", " $2,200.00.", "2200"),
        ("12 - 4 = 6 apples left.", " 16.", None),
        ("10 pens are $120.", " 12.", None),
        ("it is 3.5 in all", "35", None),
        ("There are 5 million people.", " 5", None),
        ("There are 5 million people.", " 5,000,000.", "5 million"),
        ("So 5x it is.", " 5", None),
        ("So x = 2\\pi", " 2", None),
        ("We get 2^5 in all.", " 5", None),
        ("The ratio is 3:4.", " 3", None),
        ("The point is (1, 2).", " 2", None),
        ("The point is (1, 2).", " (1, 2).", "(1, 2)"),
        ("x is 3/4 of it.", " 3", None),
        ("x is 3/4 of it.", " 0.75", "3/4"),
        ("So he has -5 left.", " 5", None),
        ("It is 50%.", " 0.5", "50%"),
        ("It is 5 PM now.", " 5 AM.", None),
        ("It is 7 cm long.", " 7 cm", "7"),
        ("1. Add 3 and 4.\n2. Get 7 of them.", " 2", None),  # it numbers a step
        ("6*7=42, so 42 it is", " 42.", "42"),
        ("I have 5 and 37. That makes 42", "42 apples", "42"),
        ("There are 12 eggs.", " 12 eggs.\n\nQuestion: 3 + 4? Answer: 7", "12"),
        ("x = \\frac{3}{4}", " $\\frac{3}{4}$.", "\\frac{3}{4}"),
        ("so \\boxed{\\frac{1}{2}} it is", " 0.5", "\\frac{1}{2}"),
        ("the capital is Paris", " Paris.", "Paris"),
        ("In short, paris.", " the Paris", "paris"),
        ("Parisian life", " Paris", None),
        ("So the answer is (B).", " B.", "B"),
        ("A man has a dog.", " A", None),  # an article
        ("ответ: сорок два", " сорок два.", "сорок два"),  # two bytes a letter
        ("答えは四十二です", "四十二", "四十二"),  # three, and no space between words
        ("é", "ê", None),  # their first bytes are the same
        ("no number at all", " 42.", None),
        ("well . , . !", " . , !", None),  # punctuation is no answer
        ("1 2 3", "", None),
    ],
)
@pytest.mark.parametrize("tokenizer", ["BYTES", "WORDS"])
def test_a_span_is_a_whole_number_or_whole_words_of_the_same_value(
    completion: str, answer: str, expected: str | None, tokenizer: str
) -> None:
    assert found(completion, answer, tokenizer={"BYTES": BYTES, "WORDS": WORDS}[tokenizer]) == expected


def test_the_last_place_of_a_value_is_the_answer() -> None:
    completion = "42 is 6 * 7; so #### 42"
    ids = BYTES(completion)["input_ids"]
    assert matching_span(ids, BYTES(" 42.")["input_ids"], BYTES) == AnswerSpan(slice(len(ids) - 2, len(ids)), "42")


def test_a_word_with_and_without_its_space_is_the_same_answer() -> None:
    completion = WORDS("so it is #### 72")["input_ids"]
    answer = WORDS("72")["input_ids"]
    assert answer[0] not in completion
    found = matching_span(completion, answer, WORDS)
    assert found == AnswerSpan(slice(len(completion) - 1, len(completion)), "72")


def test_a_number_that_the_limit_of_tokens_cuts_in_two_is_no_answer() -> None:
    digits = "12345678901234567890"
    assert len(digits) == MAX_ANSWER_LENGTH
    assert found(f"It is {digits}.", digits) is None
    assert found(f"It is {digits[1:]}.", digits[1:]) == digits[1:]


def test_the_end_token_is_part_of_no_answer() -> None:
    completion = [*BYTES("42")["input_ids"], BYTES.eos_token_id]
    found = matching_span(completion, [*BYTES("42")["input_ids"], BYTES.eos_token_id], BYTES)
    assert found == AnswerSpan(slice(0, 2), "42")
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
    arguments = (language_model, [[3], [3]], ids, [stated_answer(text) for text in texts], [True, True])
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


@pytest.mark.parametrize("finished", [True, False])
def test_what_was_cut_off_states_its_elicited_answer_only_behind_a_marker(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    tokenizer = language_model.tokenizer
    texts = ["3+4\n#### 7", "3+4=7", "3+4\n#### 8 7"]
    completions = [tokenizer(text)["input_ids"] for text in texts]
    monkeypatch.setattr(sampling, "elicited_answers", lambda *arguments: [tokenizer("#### 7")["input_ids"]] * 3)
    stated = [stated_answer(text, finished=finished) for text in texts]
    options = SampleOptions(answer_span="elicited")
    spans, answers = find_answers(options, language_model, [[3]] * 3, completions, stated, [finished] * 3)
    # The 7 alone, not its marker; where it is cut off there is still a place to be confident of.
    assert spans == [slice(len(ids) - 1, len(ids)) for ids in completions]
    assert answers == ["7", "7" if finished else None, "7" if finished else None]
