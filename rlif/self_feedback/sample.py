"""Sample completions, find the answer in each, and say how confident the model is of it.

A row of the file is one prompt: {"index": its number, "prompt": as the data has it, "prompt_ids", "answer": gold
or null, "completions": a list of {"text", "ids", "finished", "span": [first, end) of its tokens or null, "answer": the
text of the answer or null, "confidence": {name: score}}}. A completion that was cut off has no answer but one that a
marker or a box states; its span is what it seems to come to, which counts only where that is asked for. Files of rlif
0.1 call two of these "question" and "traces".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rlif.answers.extract import Stated
from rlif.answers.matching import is_right
from rlif.data.prompts import Prompt
from rlif.doing import doing
from rlif.errors import UserError
from rlif.files.jsonl import Row, StageFile, read_rows
from rlif.models.language_model import LanguageModel
from rlif.models.vocabulary import num_columns
from rlif.progress_bar import bar
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.answer_tokens import answer_tokens
from rlif.scoring.confidence import OUTPUTS, span_scores
from rlif.scoring.scorer import Scorer, make_scorer, parts_of
from rlif.self_feedback.judge import p_true, verdict_tokens
from rlif.self_feedback.options import SampleOptions, SelfFeedbackConfig
from rlif.self_feedback.prompts import encode
from rlif.self_feedback.spans import elicited_answers, matching_span
from rlif.training.checkpoint import data_fingerprint, model_fingerprint

# Prompts sampled at a time where nobody says it, on a GPU.
PROMPTS_PER_BATCH = 32
# Names in samples.jsonl and beside it: those of rlif 0.1, and what is written since.
RENAMED = {"question": "index", "traces": "completions", "num_questions": "num_prompts"}


def sample_completions(
    config: SelfFeedbackConfig,
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    path: Path,
    *,
    argument: str = "data",
    title: str = "Sampling",
    before_rows: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Sample completions for every prompt into a file, from the prompt on that it stops at.

    A prompt's completions depend on its number and the seed alone, however the prompts are divided over batches.

    Args:
        config: resolved; `config.sample` says how to sample.
        language_model: to sample from, and whose confidence is asked.
        prompts: to sample completions of.
        path: of the file.
        argument: "data" or "eval_data", for error messages.
        title: of the progress bar.
        before_rows: called before rows are written.

    Raises:
        UserError: a prompt is too long, the file was made with other settings, it cannot be written, …
    """
    options = config.sample
    encoded = encode(config, language_model, list(prompts), argument)
    check_decoding(language_model, encoded[0].ids)
    if options.judge is not None:
        verdict_tokens(language_model, options.verdicts)
    scorer = make_scorer(language_model.model, config)
    settings = {
        "model": model_fingerprint(language_model.model)[:16],
        argument: data_fingerprint(encoded)[:16],
        "num_prompts": len(encoded),
        "num_generations": options.num_generations,
        "sampling": options.sampling,
        "temperature": options.temperature,
        "max_completion_length": options.max_completion_length,
        "answer_span": options.answer_span,
        "elicitation": options.elicitation if options.answer_span == "elicited" else None,
        # None as in files from before spans were whole numbers and words, which are not gone on with.
        "spans": "by value" if options.answer_span == "elicited" else None,
        "judge": None if options.judge is None else [options.judge, *options.verdicts],
        "seed": config.seed,
        # None for strict, as in files from before there were styles.
        "answer_style": None if encoded[0].answer_style == "strict" else encoded[0].answer_style,
    }
    file = StageFile(path, settings, RENAMED)
    check_samples(file.rows, path)
    size = options.num_generations
    at_a_time = options.prompts_per_batch or prompts_at_a_time(
        language_model,
        encoded,
        num_generations=size,
        max_completion_length=options.max_completion_length,
        at_most=PROMPTS_PER_BATCH,
    )
    with bar(title, "prompts", len(encoded), len(file.rows)) as advance:
        for start in range(len(file.rows), len(encoded), at_a_time):
            batch = encoded[start : start + at_a_time]
            completions = _sample_batch(config, language_model, scorer, batch, start)
            before_rows()
            file.append(
                {
                    "index": start + offset,
                    "prompt": prompts[start + offset].content,
                    "prompt_ids": prompt.ids,
                    "answer": prompt.answer,
                    "completions": completions[offset * size : (offset + 1) * size],
                }
                for offset, prompt in enumerate(batch)
            )
            advance(len(batch))
    return file.rows


def read_samples(path: Path) -> list[Row]:
    """The rows of samples.jsonl, which may still be growing.

    Raises:
        UserError: naming the file, and the line if one is at fault.
    """
    rows = read_rows(path, made_by="rlif self-feedback sample", growing=True, renamed=RENAMED)
    check_samples(rows, path)
    return rows


def check_samples(rows: Sequence[Row], path: Path) -> None:
    """Hold rows of samples to what sampling writes.

    Raises:
        UserError: naming the file and the row that is something else.
    """
    for number, row in enumerate(rows, start=1):
        if (fault := _fault(row, rows[0])) is not None:
            raise UserError(
                f"output_dir: {path}, row {number}: {fault}; expected what `rlif self-feedback sample` writes"
            )


def _fault(row: Row, first: Row) -> str | None:
    """What in a row is not as sampling writes it, in a few words; None if nothing is. The first row is one that is."""
    completions = row.get("completions")
    if "prompt" not in row or not _is_ids(row.get("prompt_ids")):
        return "it has no prompt, or no prompt_ids"
    if "answer" not in row or not _is_gold(row["answer"]) or not isinstance(completions, list) or not completions:
        return "its answer is no text, or it has no completions"
    for each in completions:
        if not isinstance(each, dict) or not isinstance(each.get("text"), str) or not _is_ids(each.get("ids")):
            return "a completion has no text, or no ids"
        span, scores = each.get("span"), each.get("confidence")
        if not {"answer", "finished", "span"} <= each.keys():
            return "a completion has no answer, no span, or does not say whether it is finished"
        if not isinstance(each["answer"], str | None) or not isinstance(each["finished"], bool):
            return "a completion's answer is no text, or its `finished` is neither true nor false"
        if span is not None and not (_is_ids(span) and len(span) == 2 and span[0] <= span[1] <= len(each["ids"])):
            return "a completion's span is not that of some of its tokens"
        if not isinstance(scores, dict) or not all(_is_score(score) for score in scores.values()):
            return "a completion has no confidence, or one that is no finite number"
        if scores.keys() != first["completions"][0]["confidence"].keys():
            return "a completion has other scores than the first one"
    return None


def _is_gold(value: object) -> bool:
    texts = value if isinstance(value, list) and value else [value]
    return value is None or all(isinstance(each, str) for each in texts)


def _is_score(value: object) -> bool:
    largest = sys.float_info.max
    return type(value) in (int, float) and -largest <= value <= largest  # type: ignore[operator]


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


@torch.no_grad()
def _sample_batch(
    config: SelfFeedbackConfig,
    language_model: LanguageModel,
    scorer: Scorer,
    batch: Sequence[EncodedPrompt],
    start: int,
) -> list[dict[str, Any]]:
    """The completions of some prompts, those of one prompt side by side."""
    options = config.sample
    assert options.temperature is not None
    rollout = sample(
        language_model,
        batch,
        num_generations=options.num_generations,
        max_completion_length=options.max_completion_length,
        temperature=options.temperature,
        seeds=[(config.seed, start + offset) for offset in range(len(batch))],
        branch=options.sampling == "branch",
    )
    _, lengths = rollout.lengths()
    completions = [ids[:length] for ids, length in zip(rollout.completion_ids.tolist(), lengths, strict=True)]
    prompts = [prompt.ids for prompt in batch for _ in range(options.num_generations)]
    spans, answers = find_answers(
        options, language_model, prompts, completions, rollout.stated, rollout.finished.tolist()
    )
    with doing("scoring"):
        scores = _confidences(scorer, rollout, spans, config.max_tokens_per_forward)
    if options.judge is not None:
        judged = p_true(
            language_model,
            prompts,
            completions,
            options.judge,
            options.verdicts,
            config.max_tokens_per_forward,
            share_prompts=scorer.share_prompts,
        )
        scores = [{**score, "p_true": verdict} for score, verdict in zip(scores, judged, strict=True)]
    return [
        {
            "text": text,
            "ids": ids,
            "finished": finished,
            "span": None if span is None else [span.start, span.stop],
            "answer": answer,
            "confidence": score,
        }
        for text, ids, finished, span, answer, score in zip(
            rollout.texts, completions, rollout.finished.tolist(), spans, answers, scores, strict=True
        )
    ]


def find_answers(
    options: SampleOptions,
    language_model: LanguageModel,
    prompts: list[list[int]],
    completions: list[list[int]],
    stated: list[Stated | None],
    finished: list[bool],
) -> tuple[list[slice | None], list[str | None]]:
    """Find which tokens of each of N completions are its answer, and that answer as text; None where it has none.

    Where answers are elicited, one that was cut off has the span of what it seems to come to; its answer is what a
    marker or a box states, if that is the same.

    Args:
        options: whose `answer_span` says how answers are found. With "trace" the tokens are all, whatever is stated.
        language_model: that is asked where answers are elicited.
        prompts: N lists of token ids.
        completions: N lists of token ids.
        stated: N answers that they state.
        finished: whether each ended by itself.
    """
    tokenizer = language_model.tokenizer
    if options.answer_span == "elicited":
        asked = elicited_answers(language_model, prompts, completions, options.elicitation)
        questions = tokenizer.batch_decode(prompts, skip_special_tokens=True)
        spans = [
            matching_span(ids, answer, tokenizer, question)
            for ids, answer, question in zip(completions, asked, questions, strict=True)
        ]
        answers = [
            span.text if span and (ended or (sure and is_right(sure.text, span.text))) else None
            for span, ended, sure in zip(spans, finished, stated, strict=True)
        ]
        return [span and span.tokens for span in spans], answers
    answers = [None if each is None else each.text for each in stated]
    if options.answer_span == "trace":
        return [slice(0, len(ids)) for ids in completions], answers
    return [answer_tokens(each, ids, tokenizer) for each, ids in zip(stated, completions, strict=True)], answers


def _confidences(
    scorer: Scorer, rollout: Rollout, spans: list[slice | None], max_tokens: int
) -> list[dict[str, float]]:
    """Every score of every completion, at temperature 1 whatever that of sampling was."""
    vocab_size = num_columns(scorer.model)
    scores: list[dict[str, float]] = [{} for _ in spans]
    for rows in parts_of(scorer, rollout, max_tokens):
        part = rollout.select(rows)
        stats = scorer(part, 1.0, outputs=OUTPUTS)
        for place, row in enumerate(rows):
            scores[row] = span_scores(stats, part.completion_mask, place, spans[row], vocab_size)
    return scores
