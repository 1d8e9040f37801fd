"""How many completions are sampled at a time where nobody says it: few enough that results come soon.

What a forward costs is proportional to parameters x tokens. A GPU takes what its memory takes, and is best kept busy. A
core or two need about a minute for `CPU_WORK`, so a CPU gets CPU_WORK / parameters tokens, whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt

CPU_WORK = 2**40


def tokens_at_a_time(language_model: LanguageModel, at_most: int) -> int:
    """Return how many tokens to go forward over before results are kept: `at_most`, and on a CPU perhaps fewer."""
    if language_model.device.type != "cpu":
        return at_most
    return min(at_most, CPU_WORK // language_model.model.num_parameters())


def prompts_at_a_time(
    language_model: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    *,
    num_generations: int,
    max_completion_length: int,
    at_most: int,
) -> int:
    """Return how many prompts to sample at a time, at least one, always with all of its completions.

    Args:
        language_model: that samples them.
        prompts: of which the longest counts.
        num_generations: completions of each.
        max_completion_length: of each completion, in tokens.
        at_most: the prompts that a GPU gets.
    """
    group = padded_length(prompts, max_completion_length) * num_generations
    return max(1, tokens_at_a_time(language_model, at_most * group) // group)


def padded_length(prompts: Sequence[EncodedPrompt], max_completion_length: int) -> int:
    """Return the tokens of a prompt and its completion as they lie in a batch, the longest of all."""
    return max(len(prompt.ids) for prompt in prompts) + max_completion_length
