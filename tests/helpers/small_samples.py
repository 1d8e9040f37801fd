"""A few sums, and how their completions are sampled for self-feedback."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlif.data.prompts import Prompt
from rlif.self_feedback.options import SampleOptions, SelfFeedbackConfig

PROMPTS = [Prompt(f"{a}+{b}=", str(a + b)) for a in (1, 20) for b in (3, 4, 50)]
OPTIONS = SampleOptions(num_generations=3, sampling="branch", max_completion_length=6, answer_span="trace")


def sampling_config(**changes: Any) -> SelfFeedbackConfig:
    """Three branches of at most six tokens, measured whole; keyword arguments change the options of sampling."""
    return SelfFeedbackConfig(model="m", data="d", device="cpu", sample=replace(OPTIONS, **changes)).resolved()
