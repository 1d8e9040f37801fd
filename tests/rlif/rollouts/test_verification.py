"""A verification asks about a completion as a whole or not at all, in words that the model can read and answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest

from rlif.answers.outcomes import Outcome
from rlif.data.prompts import Prompt
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.options.groups import CompletionOptions, ReadingOptions
from rlif.options.verification import VerificationOptions, check_verification
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.verification import TEMPLATE, Verifier, make_verifier

# Both in the alphabet of the tests' tokenizer: "#" before a message, "\n" after it, "=" to begin an answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '0' if message['role'] == 'system' else '1' }}#{{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}={% endif %}"
)


@dataclass(kw_only=True)
class Options(VerificationOptions, ReadingOptions, CompletionOptions):
    """Those that a verifier goes by."""


OPTIONS = Options(
    verify_template="{prompt}{completion}\n{right}={wrong}={unanswered}",
    verify_ratings=("1", "2", "3"),
    max_completion_length=6,
)


def verifier_of(language_model: LanguageModel, *contents: object, **changes: object) -> tuple[Verifier, list]:
    options = replace(OPTIONS, **changes)
    chat = {"chat": options.chat, "system_prompt": options.system_prompt}
    prompts = encode_prompts(language_model, [Prompt(content) for content in contents], 6, **chat)
    return make_verifier(language_model, options, prompts), prompts


def test_prompt_completion_and_ratings_stand_where_the_template_has_a_place_for_them(language_model) -> None:
    verifier, (prompt,) = verifier_of(language_model, "1+1=")
    asked = verifier.prompt(prompt, "2", Outcome.RIGHT)
    assert (asked.text, asked.answer) == ("1+1=2\n1=2=3", "1")
    assert verifier.language_model.tokenizer.decode(asked.ids) == asked.text
    assert [verifier.prompt(prompt, "2", outcome).answer for outcome in (*Outcome, None)] == ["1", "2", "3", None]


def test_what_stands_in_a_completion_is_no_place_of_the_template(language_model) -> None:
    verifier, (prompt,) = verifier_of(language_model, "1+1=")
    assert verifier.prompt(prompt, "{prompt}{right}").text == "1+1={prompt}{right}\n1=2=3"


def test_a_verification_that_is_too_long_is_left_out_and_the_longest_that_fits_is_whole(language_model) -> None:
    verifier, (prompt,) = verifier_of(language_model, "1+1=")
    room = 64 - 6 - len("1+1=\n1=2=3")
    assert len(verifier.prompt(prompt, "2" * room).ids) == 58
    assert verifier.prompt(prompt, "2" * (room + 1)) is None
    shorter, _ = verifier_of(language_model, "1+1=", verify_max_prompt_length=12)
    assert shorter.prompt(prompt, "22") is not None
    assert shorter.prompt(prompt, "222") is None


def test_a_conversation_keeps_its_system_message_and_goes_through_the_chat_template_once(language_model) -> None:
    language_model.tokenizer.chat_template = CHAT_TEMPLATE
    user, system = {"role": "user", "content": "1+1"}, {"role": "system", "content": "8"}
    verifier, (alone, told) = verifier_of(language_model, [user], [system, user])
    assert verifier.prompt(alone, "2").text == "1#1+12\n1=2=3\n="
    assert verifier.prompt(told, "2").text == "0#8\n1#1+12\n1=2=3\n="
    verifier, (text,) = verifier_of(language_model, "1+1", system_prompt="8")
    assert verifier.prompt(text, "2").text == "0#8\n1#1+12\n1=2=3\n="
    turns = [user, {"role": "assistant", "content": "3"}, {"role": "user", "content": "2"}]
    language_model.model.config.max_position_embeddings = 128
    verifier, (talk,) = verifier_of(language_model, turns)
    assert "user: 1+1\n\nassistant: 3\n\nuser: 22" in verifier.prompt(talk, "2").text


@pytest.mark.parametrize(("answer", "outcome"), [("1", 0), ("1.0", 0), ("2", 1), ("3", 2), ("4", None), ("no", None)])
def test_a_rating_is_read_by_its_value(answer: str, outcome: int | None, language_model) -> None:
    assert verifier_of(language_model, "1+1=")[0].rating(answer) == outcome


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verify_template": "{prompt}?{completion}"}, "verify_template: got '?', of which the tokenizer cannot write"),
        ({"verify_template": None}, "verify_template: got 'Rate the solution"),
        ({"verify_ratings": ("1", "-1", "3")}, "verify_ratings: got '-1', of which the tokenizer cannot write '-'"),
        ({"verify_max_prompt_length": 5}, "verify_template: the verification of an empty completion of the shortest "
                                          "prompt takes 10 tokens, expected at most 5"),
        ({"max_completion_length": 60}, "verify_template: .* takes 10 tokens, expected at most 4"),
    ],
)  # fmt: skip
def test_what_can_never_be_asked_or_answered_is_found_before_work_starts(changes, message, language_model) -> None:
    with pytest.raises(UserError, match=re.escape(message).replace(r"\.\*", ".*")) as error:
        verifier_of(language_model, "1+1=", "10+10=", **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verify_template": "{prompt}"}, "template: got '{prompt}', expected text with {prompt} and {completion}"),
        ({"verify_ratings": ("1", "", "-1")}, "ratings: got '', expected an answer that can stand behind ####"),
        ({"verify_ratings": ("1", "1.0", "-1")}, "ratings: got '1', '1.0', '-1', expected three different answers"),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_named(changes, message) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_verification(replace(VerificationOptions(), **changes))


def test_the_template_that_comes_with_it_asks_for_each_rating_and_the_defaults_are_those_of_the_paper() -> None:
    check_verification(VerificationOptions())
    assert VerificationOptions().verify_ratings == ("1", "-0.5", "-1")
    assert all(f"{{{place}}}" in TEMPLATE for place in ("prompt", "completion", "right", "wrong", "unanswered"))
    assert "####" not in TEMPLATE  # which would be read as an answer where a model repeats it
