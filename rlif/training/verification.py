"""Solve and verify (RISE, arXiv 2505.13445): a step asks the policy too whether some of its own completions are right.

The completions are drawn in pairs, a right one and one that is not. The paper's code takes them as they come, so that
a policy that is mostly right may learn to call everything right. What is too long to be asked about is left out.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from rlif.answers.math_verification import limited_cost
from rlif.answers.outcomes import Outcome, gold_outcomes, majority_outcomes
from rlif.metrics.calibration import auroc
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.verification import VERIFICATION_SEED
from rlif.training.distributed import all_reduce_sum, gather_list
from rlif.training.learner import Learner
from rlif.training.scores import Scores, kind_metrics, kind_totals

Key = tuple[int, bool]
"""The position of a prompt in its step, and whether the completion is right."""


@dataclass(frozen=True)
class Asked:
    """The verifications that this process samples in a step."""

    prompts: list[EncodedPrompt]
    """Each with the rating that it should come to as its gold answer."""
    seeds: list[tuple[int, ...]]
    too_long: int
    """Completions of all processes that were left out because a verification of them would be too long."""


def ask(
    learner: Learner, prompts: Sequence[EncodedPrompt], rollout: Rollout, step: int, positions: Sequence[int]
) -> Asked:
    """Choose among the completions of a step those that are to be verified, the same however many processes there are.

    Args:
        learner: with a verifier.
        prompts: of the step.
        rollout: the completions of some of them, on this process.
        step: counted from 1.
        positions: of the rollout's prompts among those of the step.
    """
    config, verifier, size = learner.config, learner.verifier, rollout.num_generations
    assert verifier is not None
    with limited_cost():
        if config.verify_labels == "gold":
            outcomes = gold_outcomes(rollout.stated, rollout.answers)
        else:
            outcomes = majority_outcomes(rollout.stated, size)
    found: dict[Key, EncodedPrompt] = {}
    too_long = 0
    for group, position in enumerate(positions):
        generator = random.Random(f"verify {config.seed} {step} {position}")
        for right in (True, False):
            rows = [
                row
                for row in range(group * size, (group + 1) * size)
                if outcomes[row] is not None and (outcomes[row] is Outcome.RIGHT) == right
            ]
            if rows:
                row = generator.choice(rows)
                prompt = verifier.prompt(prompts[position], rollout.texts[row], outcomes[row])
                if prompt is None:
                    too_long += 1
                else:
                    found[position, right] = prompt
    num_pairs = max(1, round(config.verify_share * len(prompts) / 2))
    chosen = pairs(gather_list(learner.accelerator, found), num_pairs, f"verify {config.seed} {step}")
    own = [key for key in chosen if key in found]
    return Asked(
        [found[key] for key in own],
        [(VERIFICATION_SEED, config.seed, step, *map(int, key)) for key in own],
        int(all_reduce_sum(learner.accelerator, {"too_long": too_long})["too_long"]),
    )


def pairs(found: Sequence[Key], count: int, seed: str) -> list[Key]:
    """Draw so many right completions, and as many others: fewer of both where there are fewer of one kind."""
    generator = random.Random(seed)
    right, other = (sorted(key for key in found if key[1] == kind) for kind in (True, False))
    count = min(count, len(right), len(other))
    return generator.sample(right, count) + generator.sample(other, count)


def verification_metrics(learner: Learner, rollout: Rollout, scores: Scores) -> dict[str, float]:
    """Return the metrics of a step's verifications on all processes, by names that begin with `verify/`; none without.

    Balanced accuracy is the mean of two shares: of the verifications of right completions those that call them right,
    and of the others those that do not. The AUROC is that of the share of a completion's verifications that call it
    right. The parse rate is the share that states a rating.
    """
    verifier, size = learner.verifier, rollout.num_generations
    if verifier is None:
        return {}
    rows = rollout.verifications
    totals: dict[str, float] = {}
    judged: list[tuple[bool, float]] = []
    if rows:
        stated = [rollout.stated[row] for row in rows]
        rated = [None if each is None else verifier.rating(each.text) for each in stated]
        called = [each is Outcome.RIGHT for each in rated]
        # Who solves the problem once more states an answer, and no rating.
        parsed = {"parsed": sum(each is not None for each in rated)}
        totals = {**scores.verifying, **kind_totals(scores.rewards[rows], size), **parsed}
        for start in range(0, len(rows), size):
            is_right = rollout.answers[rows[start]] == verifier.ratings[Outcome.RIGHT]
            judged.append((is_right, fmean(called[start : start + size])))
    sums: Counter[str] = Counter()
    for each in gather_list(learner.accelerator, [totals]):
        sums.update(each)
    judged = gather_list(learner.accelerator, judged)
    if not judged:
        return {"verify/prompts": 0}
    right, share = (np.array(column) for column in zip(*judged, strict=True))
    # Who states no rating calls nothing right, and knows nothing: of a step without any it is no chance of one half.
    balanced = float(share[right].mean() + 1 - share[~right].mean()) / 2 if sums["parsed"] else math.nan
    return {
        "verify/prompts": len(judged),
        "verify/balanced_accuracy": balanced,
        "verify/auroc": auroc(share, right),
        **{f"verify/{name}": value for name, value in kind_metrics(sums).items()},
        "verify/num_tokens": sums["tokens"],
    }
