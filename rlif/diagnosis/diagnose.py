"""What a model's own samples tell, without labels and before any training, about what a reward will do to it.

One pass samples a group of completions for every prompt, one forward scores them, and everything is measured on these:
how unsure the model is, whether its answers agree, and whether the reward prefers the answers that most of a group
agree on. Where a majority is right more often than a single sample, a reward that does pushes towards what is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console

from rlif.answers.advice import examples
from rlif.answers.extract import AnswerStyle
from rlif.answers.keys import answer_key
from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.data.prompts import Prompt
from rlif.diagnosis.columns import look_at_columns
from rlif.diagnosis.samples import Samples, join, look_at
from rlif.diagnosis.verdict import Thresholds, Verdict, model_warnings, thresholds_for, verdict
from rlif.doing import doing
from rlif.errors import UserError
from rlif.files.jsonl import Row
from rlif.files.parts import PartsFile
from rlif.metrics.bootstrap import Bootstrap, Estimate, Floats, Resampled
from rlif.metrics.calibration import auroc_by_group
from rlif.models.language_model import LanguageModel
from rlif.models.vocabulary import UnusedColumns, num_columns
from rlif.options.groups import MemoryOptions
from rlif.progress_bar import bar
from rlif.rewards import load_rewards
from rlif.rewards.advantages import equal_groups, group_advantages
from rlif.rewards.registry import INTERNAL
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import make_scorer, parts_of, score_parts
from rlif.training.checkpoint import data_fingerprint, model_fingerprint
from rlif_kernels.stats import DEFAULT_OUTPUTS

if TYPE_CHECKING:
    from rlif.diagnosis.short_training import ShortTraining

# Prompts sampled at a time where nobody says it, on a GPU.
PROMPTS_PER_BATCH = 32


@dataclass(frozen=True)
class RewardDiagnosis:
    """What was found out about one reward."""

    measures: dict[str, Estimate]
    """separation: within-group AUROC of the reward for the completions that state their group's majority answer
    against the others (mean over the groups that have both); separation_std: the difference of their mean rewards in
    within-group standard deviations; alignment: the correlation of advantage and agreeing, over all completions: its
    square is the share of what training will push on that has to do with the answers; frac_reward_zero_std: share of
    groups whose rewards are all equal; length_correlation: of the reward with the length in tokens, within groups;
    mean: of the reward itself."""
    correctness_auroc: Estimate | None
    """Within-group AUROC of the reward for right against wrong completions; None without gold answers. The verdict does
    not see it."""
    verdict: Verdict
    short_training: ShortTraining | None = None
    """Whether and when a training on it collapsed; None if there was none."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a model on some prompts, all from the same samples."""

    num_prompts: int
    num_generations: int
    temperature: float
    measures: dict[str, Estimate]
    """entropy and self_certainty in nats a token; untempered_entropy, where the temperature is not 1: that of the same
    completions at temperature 1, by which models are compared; completion_length in tokens; eos_rate, parse_rate,
    repetition: means over completions; agreement: the share of a group that states its most common answer, mean over
    prompts; common_answer: share of the prompts whose majority answer is the most frequent of all prompts' majority
    answers."""
    distinct_answers: int
    """How many different majority answers the prompts have."""
    rewards: dict[str, RewardDiagnosis]
    accuracy: Estimate | None
    """Share of right completions among those of prompts with a gold answer; None without any, or if no completion
    states an answer. Not in the verdict."""
    warnings: tuple[str, ...]
    """What makes the measures doubtful."""
    thresholds: Thresholds
    """Those of the verdicts."""
    answer_style: AnswerStyle
    """Where answers were looked for."""
    unanswered: tuple[str, ...]
    """The ends of a few completions that state no answer, of different prompts."""
    unused_columns: UnusedColumns | None = None
    """Columns of the head that are no tokens; None if all are. `warnings` says what they do."""


@torch.no_grad()
@limited_cost(RUN_SECONDS)
def diagnose(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    reward: str | Sequence[str] = INTERNAL,
    num_generations: int = 8,
    max_completion_length: int = 256,
    temperature: float = 1.0,
    chat: bool = False,
    system_prompt: str | None = None,
    answer_style: AnswerStyle | None = None,
    batch_size: int | None = None,
    max_tokens_per_forward: int = 8192,
    fused_head: bool = True,
    share_prompts: bool = True,
    resamples: int = 1000,
    thresholds: Thresholds | None = None,
    seed: int = 0,
    console: Console | None = None,
    parts: Path | None = None,
) -> Diagnosis:
    """Sample once, and measure everything that says what training with each reward would do.

    Args:
        language_model: in evaluation mode.
        prompts: one group each; the more, the narrower the intervals.
        reward: names as `rlif.rewards.load_rewards` takes them. Each is judged by itself; a weight only gives its sign.
        num_generations: completions of each prompt, at least 2.
        max_completion_length: tokens after which a completion is cut off.
        temperature: of sampling and of the statistics; greater than 0.
        chat: put prompts that are plain text into the chat template too.
        system_prompt: before every conversation.
        answer_style: where answers are looked for (`rlif.answers.extract`). None: lenient where prompts go through a
            chat template.
        batch_size: prompts sampled at a time; None: 32, and on a CPU few enough for results about each minute
            (`rlif.rollouts.batch_size`). Changes nothing but memory and rounding.
        max_tokens_per_forward: of the scoring, padding included. Changes nothing but memory and rounding.
        fused_head: apply the head in tiles, without logits.
        share_prompts: compute a prompt once for all its completions in the scoring, where the model can. Changes
            nothing but rounding.
        resamples: of the prompts, for the intervals and the sureness of verdicts.
        thresholds: of the verdicts; None are those of `rlif.diagnosis.verdict`.
        seed: of sampling and of the resamples; alone decides the result on a CPU.
        console: shows a progress bar; None shows nothing.
        parts: file for what the completions of each prompt come to, as they come; a diagnosis that was interrupted goes
            on from there. None: nothing is kept.

    Raises:
        UserError: bad input; a file that cannot be written.
    """
    if num_generations < 2:
        raise UserError(f"num_generations: got {num_generations!r}, expected at least 2: agreement is within a group")
    if not temperature > 0:
        raise UserError(f"temperature: got {temperature!r}, expected a number greater than 0")
    if not prompts:
        raise UserError("prompts: got none, expected at least one")
    rewards = load_rewards(reward, seed=seed)
    encoded = encode_prompts(
        language_model,
        prompts,
        max_completion_length,
        chat=chat,
        system_prompt=system_prompt,
        answer_style=answer_style,
    )
    check_decoding(language_model, encoded[0].ids)
    memory = MemoryOptions(
        max_tokens_per_forward=max_tokens_per_forward, fused_head=fused_head, share_prompts=share_prompts
    )
    scorer = make_scorer(language_model.model, memory)
    outputs = tuple(dict.fromkeys(DEFAULT_OUTPUTS + rewards.outputs))
    work = {
        "model": model_fingerprint(language_model.model),
        "columns": num_columns(language_model.model),
        "prompts": data_fingerprint(encoded),
        "rewards": [[each.name, each.weight] for each in rewards.rewards],
        "num_generations": num_generations,
        "max_completion_length": max_completion_length,
        "temperature": temperature,
        "untempered": True,  # rows of earlier versions had no entropy at temperature 1
        "answer_style": encoded[0].answer_style,
        "seed": seed,
    }
    file = None if parts is None else PartsFile(parts, work)
    looks: list[Row] = list(file.rows) if file else []
    at_a_time = batch_size or prompts_at_a_time(
        language_model,
        encoded,
        num_generations=num_generations,
        max_completion_length=max_completion_length,
        at_most=PROMPTS_PER_BATCH,
    )
    with bar("Sampling", "prompts", len(encoded), len(looks), console=console, disable=console is None) as move:
        for start in range(len(looks), len(encoded), at_a_time):
            batch = encoded[start : start + at_a_time]
            rollout = sample(
                language_model,
                batch,
                num_generations=num_generations,
                max_completion_length=max_completion_length,
                temperature=temperature,
                seeds=[(seed, start + offset) for offset in range(len(batch))],
            )
            with doing("scoring"):
                divided = parts_of(scorer, rollout, max_tokens_per_forward)
                stats = score_parts(scorer, rollout, divided, temperature, outputs)
                untempered = stats
                if temperature != 1:
                    untempered = score_parts(scorer, rollout, divided, 1.0, ("entropy",))
                rows = look_at(rollout, stats, untempered, rewards, language_model)
            if start == 0:
                unused, said = look_at_columns(language_model, scorer, rollout.select(divided[-1]), temperature)
                rows[0]["columns"] = {"unused": unused and asdict(unused), "said": list(said)}
            if file:
                file.append(rows)
            looks += rows
            move(len(batch))
    thresholds = thresholds or thresholds_for(language_model.model.get_input_embeddings().num_embeddings)
    bootstrap = Bootstrap(len(encoded), resamples=resamples, seed=seed)
    with doing("judging"):
        found = judge(join(looks), bootstrap, temperature, thresholds, encoded[0].answer_style)
    columns = looks[0]["columns"]
    unused = columns["unused"] and UnusedColumns(**columns["unused"])
    return replace(found, unused_columns=unused, warnings=(*found.warnings, *columns["said"]))


def judge(
    samples: Samples,
    bootstrap: Bootstrap,
    temperature: float,
    thresholds: Thresholds,
    answer_style: AnswerStyle = "strict",
) -> Diagnosis:
    """Take the measures, and verdicts from them."""
    num_prompts, num_generations = samples.tokens.shape
    tokens: Floats = samples.tokens.sum(axis=1)
    keys = [answer_key(answer) for answer in samples.majority_answers]
    common = max(Counter(keys).items(), key=lambda item: item[1], default=(None, 0))[0]
    measures = {
        "entropy": bootstrap.ratio(samples.entropy.sum(axis=1), tokens),
        **(
            {}
            if temperature == 1
            else {"untempered_entropy": bootstrap.ratio(samples.untempered_entropy.sum(axis=1), tokens)}
        ),
        "self_certainty": bootstrap.ratio(samples.self_certainty.sum(axis=1), tokens),
        "completion_length": bootstrap.mean(samples.tokens.mean(axis=1)),
        "eos_rate": bootstrap.mean(samples.finished.mean(axis=1)),
        "parse_rate": bootstrap.mean(samples.parsed.mean(axis=1)),
        "repetition": bootstrap.mean(samples.repetition.mean(axis=1)),
        "agreement": bootstrap.mean(samples.agrees.mean(axis=1)),
    }
    has_majority = samples.agrees.sum(axis=1) > 0
    is_common = np.zeros(num_prompts)
    is_common[has_majority] = [key == common for key in keys]
    measures["common_answer"] = bootstrap.ratio(is_common, has_majority.astype(np.float64))

    # Where no two completions agree there is no majority to speak of.
    agrees = np.where(samples.agrees.sum(axis=1, keepdims=True) > 1, samples.agrees, np.nan)
    # Without any answer nothing is right, which is no measurement.
    has_gold = bool((~np.isnan(samples.correct)).any() and samples.parsed.any())
    lengths = advantages_of(samples.tokens)
    agreeing = samples.agrees - samples.agrees.mean(axis=1, keepdims=True)
    rewards = {}
    for name, values in samples.rewards.items():
        advantages = advantages_of(values)
        equal = equal_groups(torch.from_numpy(values).flatten(), num_generations).double().numpy()
        applies = ~np.isnan(values)
        means = np.where(applies, values, 0).sum(axis=1) / np.where(applies.any(axis=1), applies.sum(axis=1), np.nan)
        judged, right = (np.where(applies, each, np.nan) for each in (agrees, samples.correct))
        found = {
            "separation": bootstrap.mean(auroc_by_group(values, judged)),
            "separation_std": bootstrap.mean(group_difference(advantages, judged)),
            "frac_reward_zero_std": bootstrap.mean(equal),
            "length_correlation": bootstrap.correlation(advantages, lengths),
            "alignment": bootstrap.correlation(advantages, agreeing),
            "mean": bootstrap.mean(means),
        }
        rewards[name] = RewardDiagnosis(
            estimates(found),
            bootstrap.mean(auroc_by_group(values, right)).estimate if has_gold else None,
            verdict(measures | found, name, thresholds),
        )
    return Diagnosis(
        num_prompts=num_prompts,
        num_generations=num_generations,
        temperature=temperature,
        measures=estimates(measures),
        distinct_answers=len(set(keys)),
        rewards=rewards,
        accuracy=bootstrap.mean(samples.correct.mean(axis=1)).estimate if has_gold else None,
        warnings=model_warnings(measures, thresholds, answer_style),
        thresholds=thresholds,
        answer_style=answer_style,
        unanswered=examples(samples.unanswered),
    )


def estimates(measures: Mapping[str, Resampled]) -> dict[str, Estimate]:
    """The measures with their intervals."""
    return {name: measure.estimate for name, measure in measures.items()}


def advantages_of(values: Floats) -> Floats:
    """(P, G) values as training compares them: each group with mean 0, and standard deviation 1 or 0."""
    return group_advantages(torch.from_numpy(values).flatten(), values.shape[1]).view(*values.shape).numpy()


def group_difference(values: Floats, positive: Floats) -> Floats:
    """Return the mean value of the positive completions of each group minus that of the negative ones.

    Arguments and result are those of `auroc_by_group`.
    """
    with np.errstate(invalid="ignore"):
        means = [(values * (positive == kind)).sum(axis=1) / (positive == kind).sum(axis=1) for kind in (1, 0)]
    return means[0] - means[1]
