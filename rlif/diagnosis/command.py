"""`rlif diagnose`: measure a model and rewards before any training, and say what to expect."""

from __future__ import annotations

import random

from rlif.data.prompts import read_prompts
from rlif.diagnosis.diagnose import diagnose
from rlif.diagnosis.options import DiagnoseConfig
from rlif.diagnosis.report import show, write_diagnosis
from rlif.models.language_model import load_with_options
from rlif.rewards import load_rewards
from rlif.rewards.registry import INTERNAL
from rlif.terminal import make_console


def run(config: DiagnoseConfig) -> None:
    """Measure, and print tables and sentences or JSON.

    Raises:
        UserError: bad input, before any work starts where it shows by then.
    """
    config.validate()
    rewards = config.reward or INTERNAL
    prompts = read_prompts(
        config.data,
        need_answers=load_rewards(rewards).needs_answers,
        data_config=config.data_config,
        split=config.split,
        prompt_column=config.prompt_column,
        answer_column=config.answer_column,
    )
    if len(prompts) > config.num_prompts:
        prompts = random.Random(config.seed).sample(prompts, config.num_prompts)
    language_model = load_with_options(config, config.model)
    diagnosis = diagnose(
        language_model,
        prompts,
        reward=rewards,
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=config.answer_style,
        batch_size=config.prompts_per_batch,
        max_tokens_per_forward=config.max_tokens_per_forward,
        fused_head=config.fused_head,
        share_prompts=config.share_prompts,
        seed=config.seed,
        console=make_console(errors=True),
    )
    if config.json != "-":
        show(diagnosis, make_console())
    if config.json is not None:
        write_diagnosis(config, diagnosis)
