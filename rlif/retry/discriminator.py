"""A discriminator that reads no text: logistic regression on the token statistics of a completion, kept as JSON.

That of DRR (arXiv 2501.01457) reads question, rationale and answer. This one knows the scores of `rlif eval` alone,
which the sampling pass computes anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlif.answers.extract import AnswerStyle
from rlif.answers.math_verification import RUN_SECONDS, limited_cost
from rlif.doing import doing
from rlif.errors import UserError
from rlif.evaluation.command import COMPLETIONS_FILE
from rlif.evaluation.completions import VERBALIZED, Completions, read_completions
from rlif.evaluation.options import EvalConfig
from rlif.files.checksums import check_seal, file_sha256, sealed
from rlif.files.json_values import read_json, write_json
from rlif.files.versions import versions
from rlif.metrics.calibration import LogisticModel, auroc, brier_score, fit_logistic, logistic_confidence
from rlif.metrics.selection import majority_choice
from rlif.options.checks import Count, check_value
from rlif.options.groups import Labels, Temperature
from rlif.options.record import CONFIG_FILE, read_record
from rlif.retry.options import RetryConfig
from rlif.scoring.confidence import CONFIDENCE_SCORES

# What an attempt has, so that a discriminator may ask for it.
KNOWN_SCORES = (*CONFIDENCE_SCORES, VERBALIZED)
ATTEMPTS_FILE, DISCRIMINATOR_FILE = "attempts.jsonl", "discriminator.json"
# Measures on prompts that it was not fitted on.
HELD_OUT = ("auroc", "brier")
# And what it accepts of them, by threshold: those from which on it accepts any.
ACCEPTANCE = ("thresholds", "accepted", "precision")
THRESHOLDS = np.arange(0, 100, 5) / 100
# Of completions of which nobody knows, the default of `rlif eval`.
WINDOW = 64


@dataclass(frozen=True)
class Discriminator:
    """What accepts and rejects attempts."""

    scores: tuple[str, ...]
    """Names of the K scores that it knows."""
    model: LogisticModel
    """On these, in this order."""
    temperature: float | None
    """That the completions were sampled at; None where nobody knows."""
    confidence_window: int
    """Tokens of a window, of the scores that look at stretches of a completion."""
    record: Mapping[str, Any]
    """What it was fitted on, and how well it does on prompts that it was not fitted on."""
    prompts: frozenset[str] = frozenset()
    """Texts of the prompts that it was fitted on; none where it was read, since its file does not hold them."""

    def probabilities(self, scores: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Return (N,) probabilities of being right, of completions with (N,) scores by name."""
        return self.model.probability(np.stack([np.asarray(scores[name]) for name in self.scores], axis=1))

    def check_temperature(self, temperature: float | None) -> float:
        """Return the temperature to sample at: its own, or, where nobody knows that, the one given, or 1.

        Raises:
            UserError: another one is given. The statistics of tokens are those of a temperature.
        """
        if None not in (temperature, self.temperature) and temperature != self.temperature:
            raise UserError(
                f"temperature: got {temperature}, but the discriminator was fitted on completions sampled at "
                f"{self.temperature}; expected the same"
            )
        given = temperature if self.temperature is None else self.temperature
        return 1.0 if given is None else given

    def write(self, path: Path) -> None:
        """Write it as JSON, with a checksum.

        Raises:
            UserError: it cannot be written.
        """
        arrays = {"means": self.model.means, "scales": self.model.scales, "coefficients": self.model.coefficients}
        document = {
            "scores": list(self.scores),
            **{name: values.tolist() for name, values in arrays.items()},
            "intercept": self.model.intercept,
            "temperature": self.temperature,
            "confidence_window": self.confidence_window,
            **self.record,
        }
        write_json(path, sealed(document))


def read_discriminator(path: Path, *, argument: str = "discriminator") -> Discriminator:
    """Read what `Discriminator.write` wrote; who changes it by hand takes the checksum out.

    Raises:
        UserError: naming `argument`: it cannot be read, has changed, or is something else.
    """
    document, where = read_json(path, argument=argument), f"{argument}: {path}"
    if not isinstance(document, dict):
        raise UserError(f"{where} holds no discriminator, expected the file that `rlif retry` writes")
    check_seal(document, where)
    names = document.pop("scores", None)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} has no `scores`, expected a list of their names")
    if unknown := [name for name in names if name not in KNOWN_SCORES]:
        raise UserError(f"{where} knows a score {unknown[0][:40]!r}, expected some of {', '.join(KNOWN_SCORES)}")
    means, scales, coefficients = (
        _numbers(document.pop(name, None), name, len(names), where) for name in ("means", "scales", "coefficients")
    )
    (intercept,) = _numbers([document.pop("intercept", None)], "intercept", 1, where)
    if not (scales > 0).all():
        raise UserError(f"{where} has scales of {scales.min():g}, expected numbers greater than 0")
    temperature, window = document.pop("temperature", None), document.pop("confidence_window", WINDOW)
    if temperature is not None:
        temperature = float(_numbers([temperature], "temperature", 1, where)[0])
    check_value(f"{where}: temperature", temperature, Temperature | None)
    check_value(f"{where}: confidence_window", window, Count)
    if (held_out := document.get("held_out")) is not None:
        measured = [held_out.get(name) for name in HELD_OUT] if isinstance(held_out, dict) else held_out
        _numbers(measured, f"held_out ({', '.join(HELD_OUT)})", len(HELD_OUT), where)
        thresholds = held_out.setdefault(ACCEPTANCE[0], [])
        if not isinstance(thresholds, list) or len(thresholds) > len(THRESHOLDS):
            raise UserError(
                f"{where} has thresholds {str(thresholds)[:40]}, expected at most {len(THRESHOLDS)} numbers"
            )
        for name in ACCEPTANCE:
            _numbers(held_out.setdefault(name, []), name, len(thresholds), where)
    model = LogisticModel(means, scales, coefficients, float(intercept))
    return Discriminator(tuple(names), model, temperature, window, document)


def fit_discriminator(
    paths: Sequence[Path], *, labels: Labels = "gold", answer_style: AnswerStyle = "strict"
) -> Discriminator:
    """Fit a discriminator on completions that state an answer.

    Args:
        paths: files of completions, whose scores it learns to read.
        labels: "gold": right answers are to be accepted. "majority": the answers that the most completions of their
            prompt state.
        answer_style: where the answers of completions are looked for.

    Raises:
        UserError: naming `fit_on`: a file that cannot be read, has no gold answers or scores, or has nothing to tell
            apart.
    """
    with doing("fitting the discriminator"), limited_cost(RUN_SECONDS):
        files = [_read(path, labels, answer_style) for path in paths]
        known = [name for name in KNOWN_SCORES if all(name in each.completions.scores for each in files)]
        if not known:
            raise UserError(
                f"fit_on: {paths[0]} has none of the scores {', '.join(KNOWN_SCORES)}; expected the completions.jsonl "
                "of `rlif eval`"
            )
        numbers: dict[str, int] = {}  # a prompt of several files is one prompt
        parts = [_examples(each.completions, known, labels, numbers) for each in files]
        features, right, prompts = (np.concatenate(each) for each in zip(*parts, strict=True))
        if not len(right):
            advice = files[0].completions.advice
            raise UserError(f"fit_on: no completion of {paths[0]} states an answer" + (f"; {advice}" if advice else ""))
        if right.all() or not right.any():
            kind = {"gold": "right", "majority": "the majority's"}[labels]
            raise UserError(
                f"fit_on: {'all' if right.all() else 'none'} of the {len(right)} answers are {kind}, "
                "expected some to accept and some to reject"
            )
        model = fit_logistic(features, right)
        record = {
            "labels": labels,
            "fitted_on": [each.record for each in files],
            "prompts": len(np.unique(prompts)),
            "completions": len(right),
            "accepted_by_the_labels": float(right.mean()),
            "held_out": _held_out(features, right, prompts),
            "made_with": versions(),
        }
    (temperature, window), *others = [(each.temperature, each.window) for each in files]
    if any(other != (temperature, window) for other in others):
        raise UserError(
            f"fit_on: {paths[0]} was sampled at temperature {temperature} with confidence_window {window}, another "
            "file otherwise; expected the same"
        )
    return Discriminator(
        tuple(known), model, temperature, WINDOW if window is None else window, record, frozenset(numbers)
    )


@dataclass(frozen=True)
class _File:
    path: Path
    completions: Completions
    temperature: float | None
    window: int | None
    record: dict[str, Any]


def _read(path: Path, labels: Labels, answer_style: AnswerStyle) -> _File:
    completions = read_completions(path, argument="fit_on", answer_style=answer_style)
    if labels == "gold":
        completions = completions.labelled()
        if not completions.prompts:
            raise UserError(f"fit_on: {path} has no gold answers, expected some, or --labels majority")
    temperature, window, model = _sampled(path)
    record = {"file": str(path), "sha256": file_sha256(path), "model": model}
    return _File(path, completions, temperature, window, record)


def _sampled(path: Path) -> tuple[float | None, int | None, str | None]:
    """Return temperature, window and model of the completions, where the directory that they are in says it."""
    if not (path.parent / CONFIG_FILE).exists() or path.name not in (COMPLETIONS_FILE, ATTEMPTS_FILE):
        return None, None, None
    if path.name == COMPLETIONS_FILE:
        record = read_record(path.parent, EvalConfig, "rlif eval") or {}
        window = record.get("confidence_window")
    else:
        record = read_record(path.parent, RetryConfig, "rlif retry") or {}
        window = read_discriminator(path.parent / DISCRIMINATOR_FILE, argument="fit_on").confidence_window
    return record.get("temperature"), window, record.get("model")


def _examples(
    completions: Completions, names: Sequence[str], labels: Labels, numbers: dict[str, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return (N, K) scores of the completions that state an answer, whether each is to be accepted, and its prompt.

    Args:
        completions: of a file.
        names: of the scores.
        labels: see `fit_discriminator`.
        numbers: of the prompts so far; new ones are added.
    """
    clusters = completions.clusters
    stated = clusters >= 0
    if labels == "gold":
        right = completions.correct()
    else:
        right = clusters == np.take_along_axis(clusters, majority_choice(clusters)[:, None], axis=1)
    number = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in completions.prompts])
    features = np.stack([completions.scores[name][stated] for name in names], axis=1)
    return features, right[stated], np.broadcast_to(number[:, None], stated.shape)[stated]


def _held_out(
    features: NDArray[np.float64], right: NDArray[np.bool_], prompts: NDArray[np.int64]
) -> dict[str, Any] | None:
    """How well such a discriminator does on prompts that it was not fitted on; None of a single prompt.

    `accepted` is the share of their completions with a probability of at least each threshold, and `precision` the
    share of these that the labels accept.
    """
    if len(np.unique(prompts)) < 2:
        return None
    probability = logistic_confidence(features, right, prompts)
    accepted = [probability >= threshold for threshold in THRESHOLDS]
    rows = [
        (float(threshold), float(each.mean()), float(right[each].mean()))
        for threshold, each in zip(THRESHOLDS, accepted, strict=True)
        if each.any()
    ]
    return {
        "auroc": auroc(probability, right),
        "brier": brier_score(probability, right),
        **{name: [row[place] for row in rows] for place, name in enumerate(ACCEPTANCE)},
    }


def _numbers(values: object, name: str, count: int, where: str) -> NDArray[np.float64]:
    if isinstance(values, list) and len(values) == count:
        with suppress(UserError):
            for each in values:
                check_value(name, each, float)
            return np.array(values, dtype=np.float64)
    raise UserError(f"{where} has {name} {str(values)[:40]}, expected {count} finite numbers")
