"""Preference pairs: of two completions of one prompt the more confident one is preferred.

A row of preferences.jsonl has TRL's columns `prompt`, `chosen` and `rejected` (text, or messages where the prompt is
a conversation), so that TRL and its like can train on the file; `gap`, the difference in confidence; `confidence`, that
of the chosen one; and the very tokens that were sampled, `prompt_ids`, `chosen_ids` and `rejected_ids`, which our own
training uses instead of the text.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif.answers.matching import is_right
from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.data.prompts import Prompt, check_encodable
from rlif.errors import UserError
from rlif.files.jsonl import Row, read_rows
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.scoring.confidence import SPAN_SCORES
from rlif.self_feedback.options import RankOptions

REQUIRED = ("prompt", "chosen", "rejected")
IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
OPTIONAL = (*IDS, "gap", "confidence", "broken_prompt", "kept_prompt")
EXPECTED = f"{', '.join(REQUIRED)} and perhaps {', '.join(OPTIONAL)}"


@dataclass(frozen=True)
class Pair:
    """A preference pair as token ids."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    """The EOS included, where the completion reached it."""
    rejected_ids: list[int]
    gap: float
    """Chosen minus rejected confidence; 0 where the file does not say."""

    def sequences(self) -> list[tuple[list[int], list[int]]]:
        """Prompt and completion, of the chosen one and of the rejected one."""
        return [(self.prompt_ids, self.chosen_ids), (self.prompt_ids, self.rejected_ids)]


@dataclass(frozen=True)
class Ranking:
    """What the pairs of a ranking are like."""

    prompts: int
    completions: int
    answered: int
    """Completions that have an answer."""
    pairs: int
    prompts_with_pairs: int
    unanswered: int
    """Pairs whose rejected completion states no answer, cut off perhaps: they teach to state one."""
    judged: int
    """Pairs of a right and a wrong completion, as far as there are gold answers. One without an answer is wrong."""
    agreeing: int
    """Those of them whose chosen one is the right one."""

    @property
    def pair_accuracy(self) -> float | None:
        """The share of judged pairs whose chosen completion is the right one; None if there is no such pair."""
        return self.agreeing / self.judged if self.judged else None


@limited_cost(RUN_SECONDS)
def rank(rows: Sequence[Row], options: RankOptions) -> tuple[list[Row], Ranking]:
    """Return the preference pairs of sampled completions, as rows of preferences.jsonl.

    A completion that was cut off is chosen only where the options say so (`as_it_counts`). A prompt's identical
    completions count once, and two that only differ in how their text is cut into tokens
    make no pair. The pairs of a prompt come with the largest gap first; of equal ones, in the order in which they
    were sampled.

    Raises:
        UserError: the samples lack the score, no completion has an answer, or no pair is above the threshold; the
            message has the numbers.
    """
    check_confidence(rows, options)
    rows = [
        row
        | {
            "completions": [
                as_it_counts(each, choose_unfinished=options.choose_unfinished) for each in row["completions"]
            ]
        }
        for row in rows
    ]
    pairs: list[Row] = []
    with_pairs = unanswered = judged = agreeing = 0
    for row in rows:
        before = len(pairs)
        for chosen, rejected in itertools.islice(_pairs(row["completions"], options), options.max_pairs_per_prompt):
            unanswered += rejected["answer"] is None
            verdicts = [is_correct(completion, row["answer"]) for completion in (chosen, rejected)]
            if None not in verdicts and verdicts[0] != verdicts[1]:
                judged, agreeing = judged + 1, agreeing + bool(verdicts[0])
            pairs.append(_preference(row, chosen, rejected, options))
        with_pairs += len(pairs) > before
    completions = [completion for row in rows for completion in row["completions"]]
    ranking = Ranking(
        prompts=len(rows),
        completions=len(completions),
        answered=sum(completion["answer"] is not None for completion in completions),
        pairs=len(pairs),
        prompts_with_pairs=with_pairs,
        unanswered=unanswered,
        judged=judged,
        agreeing=agreeing,
    )
    if not any(completion["span"] for completion in completions):
        cut_off = sum(not completion["finished"] for completion in completions)
        raise UserError(
            f"answer_span: none of the {len(completions)} completions of {len(rows)} prompts has an answer"
            + (f", and {cut_off} were cut off" if cut_off else "")
            + "; expected some: look at samples.jsonl, and sample into another output_dir with another answer_span, "
            "with a system_prompt that says how to state the answer, or with a longer max_completion_length"
            + ("; choose_unfinished ranks what was cut off too" if cut_off and not options.choose_unfinished else "")
        )
    if not pairs:
        scores = sorted(completion["confidence"][options.confidence] for completion in completions)
        against = " against one that states an answer" if options.answered_only else ""
        raise UserError(
            f"threshold: no pair has a chosen {options.confidence} of at least {options.threshold:g} and a gap above "
            f"{options.min_gap:g}{against}: {len(rows)} prompts with {len(completions)} completions, "
            f"{ranking.answered} with an answer, have a confidence from {scores[0]:.3f} to {scores[-1]:.3f}, median "
            f"{scores[len(scores) // 2]:.3f}; expected a lower threshold, another confidence, or samples that differ "
            "(num_generations, temperature)"
        )
    return pairs, ranking


def check_confidence(rows: Sequence[Row], options: RankOptions) -> None:
    """Find out that samples lack the score they are to be ranked by.

    Raises:
        UserError: they do.
    """
    lacking = [row for row in rows if any(options.confidence not in each["confidence"] for each in row["completions"])]
    if lacking:
        raise UserError(
            f"confidence: {options.confidence} is not among the samples' scores, "
            f"{', '.join(lacking[0]['completions'][0]['confidence'])}; expected one of them (p_true is there if "
            "`sample` ran with a judge)"
        )


def as_it_counts(completion: Row, *, choose_unfinished: bool = False) -> Row:
    """Return a completion as it is ranked and measured: what was cut off is no answer.

    A completion that was cut off cannot be chosen, so it has no span. Unless a marker or a box states its answer, the
    confidence in that is 0, as where the paper finds no match: seen were .95 in what it had copied from the question.

    Args:
        completion: of samples.jsonl.
        choose_unfinished: take it like one that ended by itself.
    """
    if completion["finished"] or choose_unfinished:
        return completion
    scores = completion["confidence"]
    if completion["answer"] is None:
        scores = {name: 0.0 if name in SPAN_SCORES else score for name, score in scores.items()}
    return completion | {"span": None, "confidence": scores}


def is_correct(completion: Row, gold: str | Sequence[str] | None) -> bool | None:
    """Whether a completion has the right answer; None where nobody knows."""
    if gold is None:
        return None
    return completion["answer"] is not None and is_right(completion["answer"], gold)


def read_preferences(path: Path, language_model: LanguageModel, *, argument: str = "output_dir") -> list[Pair]:
    """The pairs of a file, ours or another in TRL's format; text is tokenized, and ends with the end token as in TRL.

    Args:
        path: JSONL with `prompt`, `chosen` and `rejected`: text, or messages; those of `chosen` and `rejected` are the
            assistant's turn alone.
        language_model: that is to learn from them.
        argument: that names the file, for error messages.

    Raises:
        UserError: naming the file and the line.
    """
    rows = preference_rows(path, argument=argument)
    return [pair_of(row, language_model, f"{argument}: {path}, row {n}") for n, row in enumerate(rows, start=1)]


def preference_rows(path: Path, *, argument: str) -> list[Row]:
    """The rows of a file of preferences, one at least; what is in them is not looked at.

    Raises:
        UserError: naming the file, and the line if one is at fault.
    """
    rows = read_rows(path, argument=argument, made_by="rlif self-feedback rank")
    if not rows:
        raise UserError(f"{argument}: {path} has no rows, expected at least one preference pair")
    return rows


def _pairs(completions: Sequence[Row], options: RankOptions) -> Iterator[tuple[Row, Row]]:
    distinct: dict[tuple[int, ...], Row] = {}
    for completion in completions:
        distinct.setdefault(tuple(completion["ids"]), completion)

    def score(completion: Row) -> float:
        assert options.confidence is not None
        return completion["confidence"][options.confidence]

    best = max((each for each in distinct.values() if each["span"]), key=score, default=None)
    found = [
        (chosen, rejected)
        for chosen, rejected in itertools.permutations(distinct.values(), 2)
        if (chosen is best or not options.best_only)
        and (rejected["answer"] is not None or not options.answered_only)
        and chosen["span"]
        and chosen["text"] != rejected["text"]
        and score(chosen) >= options.threshold
        and score(chosen) - score(rejected) > options.min_gap
    ]
    yield from sorted(found, key=lambda pair: score(pair[1]) - score(pair[0]))


def _preference(row: Row, chosen: Row, rejected: Row, options: RankOptions) -> Row:
    is_text = isinstance(row["prompt"], str)

    def content(text: str) -> Any:
        return text if is_text else [{"role": "assistant", "content": text}]

    scores = [completion["confidence"][options.confidence] for completion in (chosen, rejected)]
    return {
        "prompt": row["prompt"],
        "chosen": content(chosen["text"]),
        "rejected": content(rejected["text"]),
        "confidence": scores[0],
        "gap": scores[0] - scores[1],
        "prompt_ids": row["prompt_ids"],
        "chosen_ids": chosen["ids"],
        "rejected_ids": rejected["ids"],
    }


def pair_of(row: Row, language_model: LanguageModel, where: str) -> Pair:
    """Return the pair of a row, which stands where `where` says.

    Raises:
        UserError: beginning with `where`.
    """
    unknown = [name for name in row if name not in REQUIRED + OPTIONAL]
    missing = [name for name in REQUIRED if name not in row]
    if unknown or missing:
        came = f"unknown columns {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
        raise UserError(f"{where}: got {came}, expected {EXPECTED}")
    gap = row.get("gap", 0.0)
    if isinstance(gap, bool) or not isinstance(gap, int | float) or not abs(gap) <= sys.float_info.max:
        raise UserError(f"{where}: got gap {str(gap)[:40]!r}, expected a number, and a finite one")
    has_ids = all(name in row for name in IDS)
    ids = [row[name] for name in IDS] if has_ids else _tokenized(row, language_model, where)
    num_embeddings = language_model.model.get_input_embeddings().num_embeddings
    for name, each in zip(IDS, ids, strict=True):
        if not isinstance(each, list) or not each or not all(isinstance(token, int) for token in each):
            raise UserError(f"{where}: got {name} {str(each)[:40]}, expected at least one token id")
        if min(each) < 0 or max(each) >= num_embeddings:
            raise UserError(f"{where}: {name} has a token outside the model's {num_embeddings} embeddings")
    length = len(ids[0]) + max(len(ids[1]), len(ids[2]))
    positions = getattr(language_model.model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and length > positions:
        raise UserError(
            f"{where}: prompt and completion have {length} tokens, expected at most the model's {positions} positions"
        )
    return Pair(ids[0], ids[1], ids[2], float(gap))


def text_of(completion: object, name: str, where: str) -> str:
    """Return the text of a completion: of a text itself, of a list of one message its content.

    Raises:
        UserError: beginning with `where`, and naming the completion by `name`.
    """
    message = completion[0] if isinstance(completion, list) and len(completion) == 1 else None
    text = message.get("content") if isinstance(message, dict) else completion
    if not isinstance(text, str):
        raise UserError(f"{where}: got {name} {str(completion)[:40]!r}, expected a text or one message")
    check_encodable(text, name, where)
    return text


def _tokenized(row: Row, language_model: LanguageModel, where: str) -> list[list[int]]:
    texts = [text_of(row[name], name, where) for name in ("chosen", "rejected")]
    prompt = row["prompt"]
    is_chat = isinstance(prompt, list) and bool(prompt) and all(isinstance(message, dict) for message in prompt)
    if not is_chat and not (isinstance(prompt, str) and prompt):
        raise UserError(f"{where}: got prompt {str(prompt)[:40]!r}, expected a text or messages")
    encoded: list[EncodedPrompt] = encode_prompts(language_model, [Prompt(prompt)], 0, argument=where)
    # Of several ends the tokenizer's, as in TRL: in a chat it ends the turn, where the first may end the document.
    ends = language_model.eos_token_ids
    end = [language_model.tokenizer.eos_token_id] if language_model.tokenizer.eos_token_id in ends else list(ends[:1])
    tokenized = [language_model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [encoded[0].ids, *(ids if ids[-1:] == end else ids + end for ids in tokenized)]
