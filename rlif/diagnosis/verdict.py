"""From measures of a model and a reward to a verdict in words: rules, their thresholds, and how sure they are.

The rules look at what needs no label, and the first that applies decides. They cannot tell where most completions state
no answer: how far answers agree is then unknown, and so is what the reward has to do with them. There is a risk of
collapse where the model has collapsed already (one answer to most prompts, loops), where there is nothing to be
confident about (groups do not agree), and where much of what the reward prefers has nothing to do with the answers:
training finds that, too. There is little to gain where the reward hardly ever tells the completions of a group apart,
and where the model is sure already (groups that agree, low entropy). Otherwise the groups disagree and the reward knows
which side to take: it is likely to help.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rlif.answers.advice import FEW_ANSWERED, how_to_get_answers
from rlif.answers.extract import AnswerStyle
from rlif.metrics.bootstrap import Resampled

# These reward the majority itself: that they tell it from the others says nothing.
AGREEMENT_REWARDS = ("majority_vote", "semantic_entropy")

Outlook = Literal["likely to help", "little to gain", "risk of collapse", "cannot tell"]


@dataclass(frozen=True)
class Thresholds:
    """Where the rules change their mind. Provisional: set by hand between models whose training is known."""

    min_entropy: float = 0.1
    """Nats a token at temperature 1. Lower: little to gain. Depends on vocabulary and text; see `THRESHOLDS`."""
    entropy_from: str = "the built-in task's models, of 19 symbols"
    """The models that `min_entropy` was learnt from."""
    max_agreement: float = 0.9
    """Share of a group with its most common answer. Higher: little to gain. Needs no scale: it tracks accuracy."""
    min_agreement: float = 0.25
    """Lower: the majority is hardly one, and no guide."""
    max_common_answer: float = 0.8
    """Share of the prompts with the same majority answer. Higher: the model answers without looking at the prompt."""
    max_repetition: float = 0.5
    """Share of a completion's 4-token pieces that occurred in it before. Higher: loops."""
    min_alignment: float = 0.6
    """Within-group correlation of advantage and agreeing with the majority; its square is the share of what training
    pushes on that has to do with the answers. Lower: training finds what else the reward prefers."""
    settled_agreement: float = 0.6
    """From this agreement on there is more to lose than to win, and `min_settled_alignment` holds instead."""
    min_settled_alignment: float = 0.8
    """As `min_alignment`, of a model whose groups mostly agree."""
    max_frac_reward_zero_std: float = 0.9
    """Share of groups whose rewards are all equal. Higher: hardly a group has a gradient."""
    max_length_correlation: float = 0.7
    """Of reward and length, either way: half of the reward's variance is length. Higher: said, but no verdict."""
    min_eos_rate: float = 0.8
    """Share of completions that end by themselves. Lower: said, but no verdict."""
    min_parse_rate: float = 0.8
    """Share of completions that state an answer. Lower: said, but no verdict."""
    min_told_parse_rate: float = FEW_ANSWERED
    """Lower: cannot tell. The rest count as disagreeing, so agreement would say more of them than of the answers."""


# By the size of the vocabulary from which they hold, the largest first: nats a token of one tokenizer and text say
# little about another's. 2506.17219 has 3B models with 152k tokens: .81 and .71 nats helped, .44 and .38 did not. Of
# alignment it says nothing; long completions differ in much besides their answers, so there only none at all is a risk.
THRESHOLDS = (
    (
        10_000,
        Thresholds(
            min_entropy=0.58,
            entropy_from="3B models on mathematics, arXiv 2506.17219",
            min_alignment=0.05,
            min_settled_alignment=0.05,
        ),
    ),
    (0, Thresholds()),
)
# What the lab found out about these verdicts. Until there is such a file nothing is said about it.
LAB_FINDINGS = Path(__file__).with_name("lab_findings.json")


class LabRecord(NamedTuple):
    """How often a verdict came true in the lab."""

    agreed: int
    pairs: int
    """Of start model and reward for which the rule gave this outlook."""


class Ruling(NamedTuple):
    """What the rules say of one set of numbers."""

    outlook: Outlook
    reasons: tuple[str, ...]
    """Sentences with the numbers; the first is the rule that decided."""


@dataclass(frozen=True)
class Verdict:
    """What training with a reward would do, stopped in time: whether held-out accuracy rises before it falls.

    "likely to help": it rises first. "little to gain": it hardly moves. "risk of collapse": it falls without having
    risen. "cannot tell": too few completions state an answer to know.
    """

    outlook: Outlook
    sureness: float
    """Share of the resamples of the prompts with the same outlook: what other prompts might have changed. It knows
    nothing of how often the rule itself is wrong, which `lab` tells."""
    reasons: tuple[str, ...]
    """Sentences with the numbers; the first is the rule that decided."""
    warnings: tuple[str, ...]
    """What else to know about the reward."""
    lab: LabRecord | None
    """None where the lab has no record of this outlook."""


def verdict(measures: Mapping[str, Resampled], reward: str, thresholds: Thresholds) -> Verdict:
    """Return the verdict on a reward.

    Args:
        measures: those of the model and of the reward, as `rlif.diagnosis.diagnose` names them, on the same resamples.
        reward: its name, for the sentences.
        thresholds: of the rules.
    """
    values = {name: measure.value for name, measure in measures.items()}
    ruling = rule(values, reward, thresholds)
    resamples = zip(*(measure.resamples for measure in measures.values()), strict=True)
    same = [
        rule(dict(zip(measures, row, strict=True)), reward, thresholds).outlook == ruling.outlook for row in resamples
    ]
    warnings = []
    if abs(values["length_correlation"]) > thresholds.max_length_correlation:
        kind = "long" if values["length_correlation"] > 0 else "short"
        warnings.append(
            f"{reward} mainly measures length: it prefers {kind} completions (correlation "
            f"{values['length_correlation']:.2f} within groups)"
        )
    sureness = sum(same) / len(same) if same else math.nan
    return Verdict(ruling.outlook, sureness, ruling.reasons, tuple(warnings), lab_record(ruling.outlook))


def model_warnings(
    measures: Mapping[str, Resampled], thresholds: Thresholds, answer_style: AnswerStyle = "strict"
) -> tuple[str, ...]:
    """Say what makes the measures of a model doubtful, in sentences."""
    warnings = []
    if (eos_rate := measures["eos_rate"].value) < thresholds.min_eos_rate:
        warnings.append(
            f"{1 - eos_rate:.0%} of the completions were cut off: raise max_completion_length, unless the model never "
            "stops by itself"
        )
    if (parse_rate := measures["parse_rate"].value) < thresholds.min_parse_rate:
        warnings.append(
            f"only {parse_rate:.0%} of the completions state an answer, and the others count as disagreeing: "
            f"{how_to_get_answers(answer_style)}"
        )
    return tuple(warnings)


def rule(values: Mapping[str, float], reward: str, thresholds: Thresholds) -> Ruling:
    """The outlook that the rules give for the values of the measures, and why.

    NaN decides nothing, but where agreeing correlates with nothing, no reward is likely to help.

    Args:
        values: as `verdict` takes them.
        reward: its name.
        thresholds: of the rules.
    """
    t, v = thresholds, values
    # Colder sampling makes any model look sure: thresholds are of distributions at temperature 1.
    untempered = v.get("untempered_entropy", v["entropy"])
    at_one = " at temperature 1" if "untempered_entropy" in v else ""
    min_alignment = t.min_alignment if v["agreement"] < t.settled_agreement else t.min_settled_alignment
    rules: tuple[tuple[bool, Outlook, str], ...] = (
        (
            v["parse_rate"] < t.min_told_parse_rate,
            "cannot tell",
            f"only {v['parse_rate']:.0%} of the completions state an answer (less than {t.min_told_parse_rate:.0%}): "
            "how far answers agree is unknown, and so is what the reward has to do with them",
        ),
        (
            v["common_answer"] > t.max_common_answer,
            "risk of collapse",
            f"{v['common_answer']:.0%} of the prompts get the same answer (more than {t.max_common_answer:.0%})",
        ),
        (
            v["repetition"] > t.max_repetition,
            "risk of collapse",
            f"{v['repetition']:.0%} of what the model says repeats itself (more than {t.max_repetition:.0%}): loops",
        ),
        (
            v["agreement"] < t.min_agreement,
            "risk of collapse",
            f"only {v['agreement']:.0%} of a group state its most common answer (less than {t.min_agreement:.0%}): "
            "there is no majority to be confident about",
        ),
        (
            v["frac_reward_zero_std"] > t.max_frac_reward_zero_std,
            "little to gain",
            f"the reward is the same throughout {v['frac_reward_zero_std']:.0%} of the groups (more than "
            f"{t.max_frac_reward_zero_std:.0%}): nothing to compare",
        ),
        (
            v["alignment"] < min_alignment,
            "risk of collapse",
            f"the reward has too little to do with the answers: its correlation with agreeing is {v['alignment']:.2f} "
            f"(less than {min_alignment:.2f} at an agreement of {v['agreement']:.0%}), and training will find what "
            "else it prefers",
        ),
        (
            v["agreement"] > t.max_agreement,
            "little to gain",
            f"{v['agreement']:.0%} of a group state the same answer already (more than {t.max_agreement:.0%})",
        ),
        (
            untempered < t.min_entropy,
            "little to gain",
            f"the model is sure already: {untempered:.2f} nats a token{at_one} (less than {t.min_entropy:.2f}, which "
            f"is from {t.entropy_from})",
        ),
    )
    found = [(outlook, reason) for applies, outlook, reason in rules if applies]
    if found:
        decided = found[0][0]
        return Ruling(decided, tuple(reason for outlook, reason in found if outlook == decided))
    if math.isnan(v["alignment"]):
        return Ruling("little to gain", ("in no group some completions agree and others do not: nothing to prefer",))
    by_construction = ", which is what it rewards" if reward in AGREEMENT_REWARDS else ""
    return Ruling(
        "likely to help",
        (
            f"there is room: {v['agreement']:.0%} of a group state its most common answer",
            f"the reward prefers that answer: its correlation with agreeing is {v['alignment']:.2f}{by_construction}",
        ),
    )


def thresholds_for(vocab_size: int) -> Thresholds:
    """Return the thresholds learnt from models with such a vocabulary."""
    return next(thresholds for smallest, thresholds in THRESHOLDS if vocab_size >= smallest)


def lab_record(outlook: Outlook, path: Path = LAB_FINDINGS) -> LabRecord | None:
    """How often this outlook came true in the lab's runs, from `{"verdicts": {outlook: {"agreed": n, "pairs": n}}}`."""
    if not path.is_file():
        return None
    findings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["verdicts"]
    return LabRecord(**findings[outlook]) if outlook in findings else None
