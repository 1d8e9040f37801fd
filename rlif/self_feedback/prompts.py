"""The prompts of a run and the model that they are put to: the user's, or the built-in ones."""

from __future__ import annotations

from itertools import islice

from rlif.data.prompts import Prompt, read_with_options
from rlif.errors import UserError
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.self_feedback.options import SelfFeedbackConfig
from rlif.self_feedback.spans import MAX_ANSWER_LENGTH
from rlif.tasks.arithmetic import Split, problems
from rlif.tasks.built_in_models import pretrained_base
from rlif.tasks.options import BaseModelConfig


def start_model(config: SelfFeedbackConfig) -> str:
    """The name of the model to start from; the built-in one is pretrained first if the cache does not have it."""
    return config.model if config.model is not None else str(pretrained_base(BaseModelConfig()))


def training_prompts(config: SelfFeedbackConfig) -> list[Prompt]:
    """Return the prompts to sample from.

    Raises:
        UserError: the data cannot be used.
    """
    if config.data is None:
        return _built_in(config, "train", config.built_in_prompts)
    return read_with_options(config, config.data, config.split)


def held_out_prompts(config: SelfFeedbackConfig) -> list[Prompt]:
    """The prompts to measure on, of which some have a gold answer; none where there is no `eval_data`.

    Raises:
        UserError: the data cannot be used, or has no gold answers.
    """
    if config.eval_data is None:
        return _built_in(config, "eval", config.built_in_prompts // 2) if config.built_in else []
    prompts = read_with_options(config, config.eval_data, config.eval_split, argument="eval_data")
    if all(prompt.answer is None for prompt in prompts):
        raise UserError(f"eval_data: {config.eval_data} has no `{config.answer_column}`, which accuracy is measured by")
    return prompts


def encode(
    config: SelfFeedbackConfig, language_model: LanguageModel, prompts: list[Prompt], argument: str
) -> list[EncodedPrompt]:
    """Tokenize prompts, leaving room for the completion and for asking for its answer.

    Raises:
        UserError: as `encode_prompts` does; or what is asked after the completion has no tokens or no positions left.
    """
    length = config.sample.max_completion_length
    encoded = encode_prompts(
        language_model,
        prompts,
        length,
        argument=argument,
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=config.answer_style,
    )
    longest = max(len(each.ids) for each in encoded)
    positions = getattr(language_model.model.config.get_text_config(), "max_position_embeddings", None)
    asked = {"judge": (config.sample.judge, 0)}
    if config.sample.answer_span == "elicited":
        asked["elicitation"] = (config.sample.elicitation, MAX_ANSWER_LENGTH)
    for name, (text, answer_length) in asked.items():
        if text is None:
            continue
        request = language_model.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not request:
            raise UserError(f"{name}: got {text!r}, which has no tokens")
        if positions is not None and longest + length + len(request) + answer_length > positions:
            raise UserError(
                f"max_completion_length: {length} tokens after the longest prompt's {longest}, and the {name}'s "
                f"{len(request)} with {answer_length} of an answer, exceed the model's {positions} positions"
            )
    return encoded


def _built_in(config: SelfFeedbackConfig, split: Split, count: int) -> list[Prompt]:
    stream = problems(BaseModelConfig().task, split, config.seed)
    return [Prompt(problem.prompt, problem.answer) for problem in islice(stream, count)]
