"""Collect turns: an attempt at each prompt, and where that is not right the best of several next ones.

A row of turns-N.jsonl, of iteration N, is one prompt: {"prompt": as the model read it, "answer": gold or null, "label":
what counted as right or null, "turns": a list of {"prompt_ids": the context, "ids", "text", "answer": that it states or
null, "finished", "reward", "rewards": of all candidates}}. A prompt without a label has no turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from rlif.answers.agreement import majorities
from rlif.answers.extract import Stated
from rlif.answers.matching import GoldAnswer, is_right
from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.answers.outcomes import Outcome, gold_outcomes
from rlif.errors import UserError
from rlif.files.jsonl import Row, read_rows
from rlif.introspection.options import IntrospectConfig
from rlif.models.language_model import LanguageModel
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.turns import Conversation, Turns

# Keeps the random numbers of what is learned from apart from those of what is measured.
COLLECTING_SEED = 20240718
# Prompts worked on at a time where nobody says it, on a GPU.
PROMPTS_PER_BATCH = 32
# Of the paper's code, for the outcomes of an attempt.
REWARDS = {Outcome.RIGHT: 1.0, Outcome.WRONG: 0.0, Outcome.UNANSWERED: -1.0}


@dataclass
class Collected(Conversation):
    """The turns at one prompt so far. It ends by "right", "no_label" or "too_long"."""

    label: GoldAnswer | None = None
    """The answer that counts as right; None where nobody knows."""
    turns: list[Row] = field(default_factory=list)

    def row(self) -> Row:
        """Return the prompt's row of the file."""
        return {
            "prompt": self.prompt.text,
            "answer": self.prompt.answer,
            "label": self.label,
            "turns": self.turns,
        }


@dataclass(frozen=True)
class Collecting:
    """The learner of an iteration, and prompts."""

    config: IntrospectConfig
    language_model: LanguageModel
    prompts: list[EncodedPrompt]
    iteration: int
    """Counted from 1."""

    @property
    def turns(self) -> Turns:
        """What samples the attempts."""
        seeds = COLLECTING_SEED, self.config.seed, self.iteration
        return Turns(self.language_model, self.config, seeds, self.config.window)

    def batch_size(self) -> int:
        """Return how many prompts are worked on at a time."""
        return self.config.prompts_per_batch or prompts_at_a_time(
            self.language_model,
            self.prompts,
            num_generations=self.config.num_candidates,
            max_completion_length=self.config.max_completion_length,
            at_most=PROMPTS_PER_BATCH,
        )

    def rows(self, start: int, prompts: Sequence[EncodedPrompt]) -> list[Row]:
        """Return the rows of some prompts, the first of which is number `start` of all."""
        config, turns = self.config, self.turns
        found = [Collected(start + offset, prompt) for offset, prompt in enumerate(prompts)]
        for turn in range(config.train_turns):
            # The first attempt is on-policy: it is chosen from nothing.
            size = 1 if turn == 0 and config.labels == "gold" else config.num_candidates
            for asked in turns.batches(found, num_generations=size, at_most=len(prompts)):
                is_blind = self.iteration <= config.blind_iterations
                seen = [(each, each.prompt) for each, _ in asked] if is_blind else asked
                rollout = turns.sample(seen, size)
                with limited_cost():
                    for place, (each, context) in enumerate(asked):
                        self._add(each, context, rollout, range(place * size, (place + 1) * size))
        return [each.row() for each in found]

    def _add(self, each: Collected, context: EncodedPrompt, rollout: Rollout, rows: range) -> None:
        """Add the first of some candidates as the first turn of a prompt, or the best as a later one."""
        stated = [rollout.stated[row] for row in rows]
        is_first = not each.turns
        if is_first:
            each.label = each.prompt.answer if self.config.labels == "gold" else agreed_answer(stated)
        if each.label is None:
            each.end = "no_label"
            return
        outcomes = gold_outcomes(stated, [each.label] * len(stated))
        rewards = [REWARDS[outcome] for outcome in outcomes if outcome is not None]
        chosen = 0 if is_first else rewards.index(max(rewards))
        row = rows[chosen]
        each.add(rollout, row)
        each.turns.append(
            {
                "prompt_ids": context.ids,
                "ids": rollout.completion_ids[row, : each.tokens[-1]].tolist(),
                "text": each.texts[-1],
                "answer": each.answers[-1],
                "finished": each.finished[-1],
                "reward": rewards[chosen],
                "rewards": rewards,
            }
        )
        if rewards[chosen] == REWARDS[Outcome.RIGHT]:
            each.end = "right"


def agreed_answer(stated: Sequence[Stated | None]) -> str | None:
    """Return the most common answer of a group; None where no two agree."""
    rows = majorities(stated, len(stated))[0]
    answer = stated[rows[0]] if len(rows) > 1 else None
    return None if answer is None else answer.text


def read_turns(path: Path) -> list[Row]:
    """Read a finished turns-N.jsonl.

    Raises:
        UserError: it cannot be read, is empty, or has changed.
    """
    rows = read_rows(path, sealed_only=True)
    if not rows:
        raise UserError(f"output_dir: {path} is empty, expected the turns at one prompt at least")
    return rows


def summary(rows: Sequence[Row]) -> dict[str, float | None]:
    """Summarise what an iteration collected, in shares; None where there is nothing to share.

    Returns:
        prompts; labelled: those with a label; first_right: of their first attempts; later: prompts with a further turn;
        became_right: of these, in the end; candidates_right: of all candidates of further turns; labels_right: of the
        labels of prompts with a gold answer.
    """
    labelled = [row for row in rows if row["turns"]]
    later = [row["turns"] for row in labelled if len(row["turns"]) > 1]
    rewards = [reward for turns in later for turn in turns[1:] for reward in turn["rewards"]]
    with limited_cost(RUN_SECONDS):
        known = [
            row["label"] == row["answer"] or is_right(row["label"], row["answer"])
            for row in labelled
            if row["answer"] is not None
        ]
    return {
        "prompts": len(rows),
        "labelled": len(labelled),
        "first_right": _share([row["turns"][0]["reward"] == 1 for row in labelled]),
        "later": len(later),
        "became_right": _share([turns[-1]["reward"] == 1 for turns in later]),
        "candidates_right": _share([reward == 1 for reward in rewards]),
        "labels_right": _share(known),
    }


def describe(rows: Sequence[Row]) -> str:
    """Say in a sentence what an iteration collected."""
    found = summary(rows)
    if not found["labelled"]:
        return f"none of {found['prompts']} prompts has a label"
    text = f"{found['first_right']:.1%} of the first attempts at {found['labelled']} prompts are right"
    if found["later"]:
        text += (
            f"; of the {found['later']} other prompts {found['became_right']:.1%} came to a right one, of whose "
            f"candidates {found['candidates_right']:.1%} are right"
        )
    if found["labelled"] != found["prompts"]:
        text += f"; {len(rows) - sum(bool(row['turns']) for row in rows)} prompts have no label"
    if found["labels_right"] not in (None, 1.0):
        text += f"; {found['labels_right']:.1%} of the labels are right"
    return text


def _share(values: Sequence[bool]) -> float | None:
    return fmean(values) if values else None
