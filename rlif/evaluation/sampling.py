"""Sample completions for `rlif eval`: one line of a file after the other, so that what is done is never lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rlif.answers.math_verification import limited_cost
from rlif.answers.outcomes import Outcome
from rlif.data.prompts import answer_style_of, read_with_options
from rlif.errors import UserError
from rlif.evaluation.analyses import mean_confidences
from rlif.evaluation.completions import VERBALIZED_MEAN, VERIFICATION, completion_row, rounded
from rlif.evaluation.extremes import Extremes
from rlif.evaluation.given import KEPT_OF_EACH, kept_scores, read_completed, with_golds
from rlif.evaluation.options import EvalConfig
from rlif.files.checksums import sealed
from rlif.files.jsonl import JsonLines, Row, read_rows
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.progress_bar import bar
from rlif.rollouts.batch_size import padded_length, prompts_at_a_time
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.rollouts.verification import VERIFICATION_SEED, Verifier, make_verifier
from rlif.scoring.confidence import EVALUATED_OUTPUTS, confidence_scores
from rlif.scoring.token_confidence import token_confidence

# Tokens sampled at a time where nobody says it, on a GPU.
MAX_BATCH_TOKENS = 16384


@dataclass(frozen=True)
class EvalSampling:
    """A model and prompts, checked."""

    config: EvalConfig
    language_model: LanguageModel
    prompts: list[EncodedPrompt]
    extremes: Extremes
    """Of what is sampled, to know of which completions the tokens' statistics are kept."""
    verifier: Verifier | None = None
    """What asks the model to verify completions, if it is to."""
    given: Sequence[Row] = ()
    """The completions of the prompts, to be verified; none: they are sampled."""

    def run(self, path: Path) -> None:
        """Append a row to `path` for every prompt that has none there yet.

        Raises:
            UserError: the file has other prompts than the data, or cannot be written.
            KeyboardInterrupt: Ctrl-C.
        """
        done = read_rows(path, argument="resume", growing=True) if path.exists() else []
        if self.given:
            self._check_given(path, done)
        elif done:
            self.extremes.take(done, path)
        size, title = (
            self.batch_size(self.prompts, self.config.num_generations),
            "Verifying" if self.given else "Sampling",
        )
        append_rows(path, self.prompts, size, self.rows, title=title)

    def _check_given(self, path: Path, done: Sequence[Row]) -> None:
        for number, (row, given) in enumerate(zip(done, self.given, strict=False), start=1):
            unlike = any(row.get(name) != given.get(name) for name in ("completions", *KEPT_OF_EACH))
            if unlike or kept_scores(row) != given["scores"]:
                raise UserError(
                    f"resume: {path}, line {number} has other completions, or scores of them, than "
                    f"{self.config.completions} now; expected no change"
                )

    def batch_size(self, prompts: Sequence[EncodedPrompt], num_generations: int) -> int:
        """Return how many of these prompts are sampled at a time, with so many completions of each."""
        config = self.config
        group = padded_length(prompts, config.max_completion_length) * num_generations
        if config.max_batch_tokens is not None:
            return max(1, config.max_batch_tokens // group)
        return prompts_at_a_time(
            self.language_model,
            prompts,
            num_generations=num_generations,
            max_completion_length=config.max_completion_length,
            at_most=MAX_BATCH_TOKENS // group,
        )

    def sample(
        self, prompts: Sequence[EncodedPrompt], seeds: Sequence[Sequence[int]], num_generations: int, **more: Any
    ) -> Rollout:
        """Sample as the configuration says."""
        config = self.config
        return sample(
            self.language_model,
            prompts,
            num_generations=num_generations,
            max_completion_length=config.max_completion_length,
            temperature=config.temperature,
            seeds=seeds,
            top_k=config.top_k,
            top_p=config.top_p,
            **more,
        )

    def verifications(
        self, verifier: Verifier, start: int, prompts: Sequence[EncodedPrompt], texts: Sequence[str]
    ) -> list[list[Row] | None]:
        """Sample verifications of every completion of some prompts, the first of which is number `start` of all.

        Returns:
            the verifications of each completion, with `text`, `finished`, and the `rating` that it states, None if it
            states none; None for a completion that is too long to be verified.
        """
        config, count = self.config, self.config.verify_generations
        found: list[list[Row] | None] = [None] * len(texts)
        asked = [
            (row, prompt)
            for row, text in enumerate(texts)
            if (prompt := verifier.prompt(prompts[row // config.num_generations], text)) is not None
        ]
        size = self.batch_size([prompt for _, prompt in asked], count) if asked else 1
        for first in range(0, len(asked), size):
            batch = asked[first : first + size]
            seeds = [(VERIFICATION_SEED, config.seed, start * config.num_generations + row) for row, _ in batch]
            sampled = self.sample([prompt for _, prompt in batch], seeds, count)
            rows: list[Row] = [
                {"text": text, "finished": finished, "rating": None if stated is None else stated.text}
                for text, finished, stated in zip(sampled.texts, sampled.finished.tolist(), sampled.stated, strict=True)
            ]
            for each in rows:  # an answer that is no rating is none
                if each["rating"] is not None and verifier.rating(each["rating"]) is None:
                    each["rating"] = None
            for place, (row, _) in enumerate(batch):
                found[row] = rows[place * count : (place + 1) * count]
        return found

    def rows(self, start: int, prompts: Sequence[EncodedPrompt]) -> list[Row]:
        """The rows of some prompts, the first of which is number `start` of all."""
        made = list(self.given[start : start + len(prompts)]) if self.given else self._sampled(start, prompts)
        return made if self.verifier is None else self._verified(self.verifier, start, prompts, made)

    def _sampled(self, start: int, prompts: Sequence[EncodedPrompt]) -> list[Row]:
        config, count = self.config, self.config.num_generations
        seeds = [(config.seed, start + offset) for offset in range(len(prompts))]
        rollout = self.sample(prompts, seeds, count, outputs=EVALUATED_OUTPUTS)
        tensors = confidence_scores(
            rollout, self.language_model.tokenizer, self.language_model.vocab_size, config.confidence_window
        )
        scores = {name: values.tolist() for name, values in tensors.items()}
        if config.analyses > 1:
            scores[VERBALIZED_MEAN] = mean_confidences(
                self.language_model,
                rollout,
                analyses=config.analyses,
                max_completion_length=config.max_completion_length,
                temperature=config.temperature,
                seeds=[(config.seed, start + row // count, row % count, 1) for row in range(len(rollout.texts))],
                top_k=config.top_k,
                top_p=config.top_p,
            )
        lengths, finished = rollout.completion_mask.sum(dim=1).tolist(), rollout.finished.tolist()
        groups = [slice(first, first + count) for first in range(0, len(rollout.texts), count)]
        made = [
            completion_row(
                rollout.prompts[group.start],
                rollout.answers[group.start],
                rollout.texts[group],
                {name: values[group] for name, values in scores.items()},
                tokens=lengths[group],
                finished=finished[group],
            )
            for group in groups
        ]
        with limited_cost():
            for group, row in zip(groups, made, strict=True):
                if places := self.extremes.places(row):
                    row["token_confidence"] = self._token_confidence(rollout, group, places)
        return made

    def _verified(
        self, verifier: Verifier, start: int, prompts: Sequence[EncodedPrompt], rows: Sequence[Row]
    ) -> list[Row]:
        count, texts = self.config.num_generations, [text for row in rows for text in row["completions"]]
        with limited_cost():
            found = self.verifications(verifier, start, prompts, texts)
            shares = rounded([share_right(each, verifier) for each in found])
        groups = [slice(first, first + count) for first in range(0, len(texts), count)]
        return [
            row | {"scores": row["scores"] | {VERIFICATION: shares[group]}, "verifications": found[group]}
            for row, group in zip(rows, groups, strict=True)
        ]

    def _token_confidence(self, rollout: Rollout, group: slice, places: Sequence[int]) -> list[Any]:
        """Those of a group's completions at some places, None for the others."""
        kept: list[Any] = [None] * (group.stop - group.start)
        for place in places:
            kept[place] = token_confidence(rollout, group.start + place, self.language_model.tokenizer).to_json()
        return kept


def prepare_sampling(config: EvalConfig) -> EvalSampling:
    """Read the prompts, and the completions that are to be verified if there are any, and load the model.

    Raises:
        UserError: bad input.
    """
    assert config.model is not None
    assert config.data is not None
    prompts = read_with_options(config, config.data, config.split, default_split="test")
    language_model = load_with_options(config, config.model)
    style = config.answer_style or answer_style_of(prompts, chat=config.chat, system_prompt=config.system_prompt)
    encoded = encode_prompts(
        language_model,
        prompts,
        config.max_completion_length,
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=style,
    )
    config, given = replace(config, answer_style=style), list[Row]()
    if config.completions is not None:
        encoded = with_golds(config.completions, encoded, style)
        given = read_completed(config.completions, encoded)
        config = replace(config, num_generations=len(given[0]["completions"]))
    check_decoding(language_model, encoded[0].ids)
    verifier = make_verifier(language_model, config, encoded) if config.verify_generations else None
    return EvalSampling(config, language_model, encoded, Extremes(style), verifier, given)


def share_right(verifications: list[Row] | None, verifier: Verifier) -> float:
    """Return the share of a completion's verifications that call it right; 0 where there are none."""
    ratings = [each["rating"] for each in verifications or ()]
    return fmean(each is not None and verifier.rating(each) is Outcome.RIGHT for each in ratings) if ratings else 0.0


def append_rows(
    path: Path,
    prompts: Sequence[EncodedPrompt],
    size: int,
    rows: Callable[[int, Sequence[EncodedPrompt]], list[Row]],
    *,
    title: str = "Sampling",
) -> None:
    """Append a row to a file for every prompt that has none there yet, and show how far it is.

    Args:
        path: of the file.
        prompts: all of them, in the order of the rows.
        size: prompts at a time.
        rows: makes those of some prompts, the first of which has that number.
        title: of the progress bar.

    Raises:
        UserError: the file has other prompts, or cannot be written.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    done = finished_rows(path, prompts)
    try:
        file = JsonLines(path)
        with bar(title, "prompts", len(prompts), done) as move:
            for start in range(done, len(prompts), size):
                new = rows(start, prompts[start : start + size])
                file.append(map(sealed, new))
                move(len(new))
    except OSError as error:
        raise UserError(f"output_dir: cannot write {path}: {error.strerror}") from error
    except KeyboardInterrupt as interrupt:
        count = path.read_bytes().count(b"\n") if path.exists() else 0  # it may have come right after a row
        raise KeyboardInterrupt(
            f"interrupted: {count} of {len(prompts)} prompts are in {path}; the same command with "
            f"--output-dir {path.parent} --resume goes on"
        ) from interrupt


def finished_rows(path: Path, prompts: Sequence[EncodedPrompt]) -> int:
    """How many whole rows a file has that sampling left.

    Raises:
        UserError: they are not the first of the prompts, or have other gold answers.
    """
    if not path.exists():
        return 0
    rows = read_rows(path, argument="resume", growing=True)
    if len(rows) > len(prompts):
        raise UserError(f"resume: {path} has {len(rows)} prompts, but the data has {len(prompts)}; expected no change")
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=False), start=1):
        gold = list(prompt.answer) if isinstance(prompt.answer, tuple) else prompt.answer
        for name, key, wanted in (("prompt", "prompt", prompt.text), ("gold answer", "answer", gold)):
            if key not in row:
                raise UserError(f"resume: {path}, line {number} is damaged: it has no {key!r}")
            if row[key] != wanted:
                raise UserError(
                    f"resume: {path}, line {number} has another {name} than the data, {row[key]!r} for {wanted!r}; "
                    "expected no change"
                )
    return len(rows)
