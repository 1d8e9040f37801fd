"""Conversations go through the tokenizer's template exactly once, and what cannot is refused with its place."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlif.data.prompts import Prompt, read_prompts
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.sample import sample
from rlif.training.options import TrainConfig
from runs import train

# Brackets of the alphabet that the tests' tokenizer knows: "#" before a message, "\n" after it, "=" to begin an answer.
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ '0' if message['role'] == 'system' else '1' }}#{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}={% endif %}"
)
QUESTION = {"role": "user", "content": "1+1"}


@pytest.fixture
def chat_model(language_model: LanguageModel) -> LanguageModel:
    language_model.tokenizer.chat_template = TEMPLATE
    return language_model


def encoded_text(language_model: LanguageModel, prompt: Prompt, **settings: object) -> str:
    (encoded,) = encode_prompts(language_model, [prompt], 6, **settings)  # type: ignore[arg-type]
    assert language_model.tokenizer.decode(encoded.ids) == encoded.text
    assert encoded.answer == prompt.answer
    return encoded.text


def test_a_conversation_is_rendered_up_to_where_the_answer_begins(chat_model: LanguageModel) -> None:
    assert encoded_text(chat_model, Prompt([QUESTION], "2")) == "1#1+1\n="
    system = {"role": "system", "content": "8"}
    assert encoded_text(chat_model, Prompt([system, QUESTION])) == "0#8\n1#1+1\n="


def test_text_is_a_users_message_only_where_that_is_asked_for(chat_model: LanguageModel) -> None:
    assert encoded_text(chat_model, Prompt("1+1")) == "1+1"
    assert encoded_text(chat_model, Prompt("1+1"), chat=True) == "1#1+1\n="
    assert encoded_text(chat_model, Prompt("1+1"), system_prompt="8") == "0#8\n1#1+1\n="
    assert encoded_text(chat_model, Prompt([QUESTION]), system_prompt="8") == "0#8\n1#1+1\n="


def test_special_tokens_that_the_template_writes_are_not_written_twice(chat_model: LanguageModel) -> None:
    from tokenizers.processors import TemplateProcessing

    backend = chat_model.tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 1)])
    chat_model.tokenizer.chat_template = "<eos>" + TEMPLATE
    ids = [encode_prompts(chat_model, [Prompt(content)], 6)[0].ids for content in ("1+1", [QUESTION])]
    assert [row.count(1) for row in ids] == [1, 1]


@pytest.mark.parametrize(
    ("messages", "settings", "message"),
    [
        ([QUESTION, {"role": "tool", "content": "1"}], {}, r"template refuses the conversation: no tools"),
        ([{"role": "system", "content": "8"}, QUESTION], {"system_prompt": "9"}, r"begins with a system message"),
        (
            [{"role": "user", "content": "1" * 60}],
            {},
            r"has 64 tokens, which with max_completion_length 6 is more than",
        ),
    ],
)
def test_a_conversation_that_cannot_be_used_is_named_by_its_place(
    messages: list[dict[str, str]], settings: dict[str, str], message: str, chat_model: LanguageModel
) -> None:
    with pytest.raises(UserError, match=message) as error:
        encode_prompts(chat_model, [Prompt("1"), Prompt(messages, where="line 2")], 6, **settings)  # type: ignore[arg-type]
    assert "data: line 2, prompt '1" in str(error.value)


def test_a_tokenizer_without_a_template_is_one_error(language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"^data: line 1, prompt '1\+1' is a conversation, but .* no chat template"):
        encode_prompts(language_model, [Prompt([QUESTION], where="line 1")], 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "got `prompt` \\[\\], expected a non-empty string or a list of messages"),
        ([{"role": "user"}], "got the message .*, expected `role` and `content`, both text"),
        ([{"role": "user", "content": ["1"]}], "got the message"),
        ([QUESTION, "1+1"], "got `prompt` "),
        ([QUESTION, {"role": "assistant", "content": "2"}], "ends with the assistant"),
    ],
)
def test_a_conversation_of_another_form_is_refused_with_its_line(
    content: object, message: str, write_jsonl: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=f"line 2: .*{message}"):
        read_prompts(write_jsonl({"prompt": "1"}, {"prompt": content}))


def test_training_on_conversations(
    make_config: Callable[..., TrainConfig], write_jsonl: Callable[..., Path], chat_model: LanguageModel, tmp_path: Path
) -> None:
    chat_model.save(tmp_path / "chat")
    data = write_jsonl({"prompt": [QUESTION], "answer": 2}, {"prompt": "2+2", "answer": 4}, name="chat.jsonl")
    config = make_config(model=str(tmp_path / "chat"), data=str(data), system_prompt="8", prompts_per_step=2)
    config = replace(config, eval_data=str(data), save_steps=1)
    result = train(config)
    samples = (result.run_dir / "samples.jsonl").read_text()
    assert '"prompt": "0#8\\n1#1+1\\n="' in samples
    assert '"prompt": "0#8\\n1#2+2\\n="' in samples
    # Resolved before a record is compared with it.
    assert "answer_style: lenient\n" in (result.run_dir / "config.yaml").read_text()
    train(replace(config, output_dir=result.run_dir, resume=True))
    with pytest.raises(UserError, match="resume: answer_style is 'strict', but the run had 'lenient'"):
        train(replace(config, output_dir=result.run_dir, resume=True, answer_style="strict"))


@pytest.mark.parametrize(
    ("content", "settings", "style"),
    [
        ("1+1", {}, "strict"),
        ([QUESTION], {}, "lenient"),
        ("1+1", {"chat": True}, "lenient"),
        ("1+1", {"system_prompt": "8"}, "lenient"),
        ("1+1", {"answer_style": "lenient"}, "lenient"),
        ([QUESTION], {"answer_style": "strict"}, "strict"),
    ],
)
def test_answers_to_a_conversation_are_looked_for_in_prose_too(
    chat_model: LanguageModel, content: str, settings: dict[str, str], style: str
) -> None:
    prompts = encode_prompts(chat_model, [Prompt(content)], 6, **settings)  # type: ignore[arg-type]
    rollout = sample(chat_model, prompts, num_generations=3, max_completion_length=2, temperature=1.0, seeds=[(0,)])
    assert rollout.answer_style == style
    rollout.texts[:] = ["So 1 + 1 = 2.", "So 1 + 1 = 2.", "#### 3"]
    rollout.finished[:] = torch.tensor([True, False, False])
    prose = "2" if style == "lenient" else None
    assert [each and each.text for each in rollout.stated] == [prose, None, "3"]
    assert [each and each.text for each in rollout.select([2, 0]).stated] == ["3", prose]
