"""An attempt sees the prompt, and the last attempts before it, as turns of a conversation or as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rlif.errors import UserError
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rollouts.encode import EncodedPrompt, check_writable
from rlif.rollouts.turns import Conversation, Turns

CHAT = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}<assistant>"
MESSAGES = [{"role": "user", "content": "1+2\n"}]


@dataclass
class Options:
    max_completion_length: int = 8
    temperature: float | None = 1.0
    top_k: int = 0
    top_p: float = 1.0
    chat: bool = False
    system_prompt: str | None = None
    feedback: str = "?"


@pytest.fixture
def language_model(answering_model: Path) -> LanguageModel:
    return load_language_model(str(answering_model), device="cpu", dtype="float32")


def prompt(language_model: LanguageModel, text: str = "1+2\n") -> EncodedPrompt:
    return EncodedPrompt(text, "3", language_model.tokenizer(text)["input_ids"], "strict", text)


def test_attempts_are_a_part_of_the_text_or_turns_of_a_conversation(language_model: LanguageModel) -> None:
    asked = prompt(language_model)
    plain = Turns(language_model, Options(), ())
    assert plain.with_attempts(asked, ["4", "5"]).text == "1+2\n4\n\n?\n\n1+2\n5\n\n?\n\n1+2\n"
    language_model.tokenizer.chat_template = CHAT
    for content, chat in (("1+2\n", True), (MESSAGES, False)):
        turns = Turns(language_model, Options(chat=chat), ())
        encoded = turns.with_attempts(asked._replace(content=content), ["4", "5"])
        assert encoded.text == "<user>1+2\n<assistant>4<user>?<assistant>5<user>?<assistant>"
        assert (encoded.answer, encoded.answer_style) == ("3", "strict")


def test_a_template_that_holds_one_turn_or_none_is_one_clear_error(language_model: LanguageModel) -> None:
    asked, turns = prompt(language_model)._replace(content=MESSAGES), Turns(language_model, Options(), ())
    with pytest.raises(UserError, match=r"is a conversation, but the model's tokenizer has no chat template"):
        turns.check([asked])
    language_model.tokenizer.chat_template = "{{ raise_exception('one turn') if messages | length > 1 }}"
    with pytest.raises(UserError, match=r"^data: prompt '1\+2\\n' with an earlier attempt: .*refuses .*one turn"):
        turns.check([asked])


@pytest.mark.parametrize(
    ("window", "seen"), [(None, ["4", "5", "6"]), (2, ["6"]), (3, ["5", "6"]), (9, ["4", "5", "6"])]
)
def test_the_window_keeps_the_prompt_and_the_last_attempts(
    window: int | None, seen: list[str], language_model: LanguageModel
) -> None:
    asked = prompt(language_model)
    turns = Turns(language_model, Options(), (), window)
    context = turns.context(Conversation(0, asked, ["4", "5", "6"]))
    assert context == turns.with_attempts(asked, seen)
    assert turns.context(Conversation(0, asked)) == asked
    assert Turns(language_model, Options(), (), window, shown=False).context(Conversation(0, asked, ["4"])) == asked


def test_what_became_too_long_ends_and_is_never_cut(language_model: LanguageModel) -> None:
    long, short = Conversation(0, prompt(language_model), ["9" * 500]), Conversation(1, prompt(language_model), ["9"])
    turns = Turns(language_model, Options(), (0,))
    batches = list(turns.batches([long, short], at_most=8))
    assert [each.number for batch in batches for each, _ in batch] == [1]
    assert (long.end, short.end) == ("too_long", None)
    with pytest.raises(
        UserError, match=r"^feedback: with it after an empty attempt the shortest prompt takes 513 tokens"
    ):
        Turns(language_model, Options(feedback="9" * 501), ()).check([prompt(language_model)])


def test_attempts_depend_on_the_prompt_and_the_turn_alone(language_model: LanguageModel) -> None:
    turns = Turns(language_model, Options(), (7,))
    found = []
    for at_most in (1, 4):
        conversations = [Conversation(number, prompt(language_model, f"{number}+1\n")) for number in range(3)]
        for _ in range(2):
            for asked in turns.batches(conversations, at_most=at_most):
                rollout = turns.sample(asked)
                for row, (each, _) in enumerate(asked):
                    each.add(rollout, row)
        found.append([(each.texts, each.answers, each.tokens, each.finished) for each in conversations])
    assert found[0] == found[1]
    assert [len(texts) for texts, *_ in found[0]] == [2, 2, 2]


def test_feedback_that_the_tokenizer_cannot_write_is_named(language_model: LanguageModel) -> None:
    check_writable(language_model, "feedback", "?")
    with pytest.raises(UserError, match=r"^feedback: got 'Wrong', of which the tokenizer cannot write 'W'"):
        check_writable(language_model, "feedback", "Wrong")
