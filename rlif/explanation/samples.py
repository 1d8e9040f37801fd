"""Completions of two models, each with its implicit reward and with everything that may explain it.

Of a policy that maximises a reward less beta times its divergence from the start model, the reward of a completion is
beta (log pi_tuned - log pi_start), up to a constant of the prompt (arXiv 2305.18290, equation 5). This module computes
that difference, in nats and without beta, which only completions of one prompt can be compared by.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from rlif.answers.agreement import agreeing
from rlif.answers.extract import AnswerStyle, Stated
from rlif.data.prompts import Prompt
from rlif.doing import doing
from rlif.errors import UserError
from rlif.files.json_values import without_nan
from rlif.files.jsonl import Row
from rlif.files.parts import PartsFile
from rlif.metrics.bootstrap import Floats
from rlif.metrics.repetition import repetition
from rlif.models.fused_head import backbone
from rlif.models.language_model import LanguageModel
from rlif.models.vocabulary import num_columns
from rlif.options.groups import MemoryOptions
from rlif.progress_bar import bar
from rlif.rewards import RewardMixture, load_rewards
from rlif.rewards.controls import verifiable
from rlif.rollouts.batch_size import prompts_at_a_time
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.rollouts.rollout import Rollout
from rlif.rollouts.sample import sample
from rlif.scoring.scorer import Scorer, make_scorer, padded_inputs, parts_of, score_parts
from rlif.training.checkpoint import data_fingerprint, model_fingerprint
from rlif_kernels import TokenStats
from rlif_kernels.stats import DEFAULT_OUTPUTS

# Rewards without labels that read one completion alone.
CONFIDENCE = ("self_certainty", "token_entropy", "trajectory_entropy", "sequence_logprob")
# Prompts sampled at a time where nobody says it, on a GPU.
PROMPTS_PER_BATCH = 32


@dataclass(frozen=True)
class Samples:
    """2 G completions of each of P prompts: the first G are the tuned model's, the others the start model's."""

    implicit_reward: Floats
    """(P, 2 G) log pi_tuned - log pi_start, summed over the tokens; nats."""
    scores: dict[str, Floats]
    """(P, 2 G) each, what may explain it; NaN where a score does not apply."""
    states: NDArray[np.float16]
    """(P, 2 G, H) hidden state of the start model before the last token."""


@torch.no_grad()
def sample_both(
    start: LanguageModel,
    tuned: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    reward: Sequence[str] = (),
    num_generations: int,
    max_completion_length: int,
    temperature: float,
    chat: bool = False,
    system_prompt: str | None = None,
    answer_style: AnswerStyle | None = None,
    batch_size: int | None = None,
    memory: MemoryOptions | None = None,
    seed: int = 0,
    console: Console | None = None,
    parts: Path | None = None,
) -> Samples:
    """Sample from both models, and put every completion in numbers.

    Args:
        start: the model before the training.
        tuned: the model after it.
        prompts: the more, the narrower the intervals.
        reward: further rewards to compare with, as `rlif.rewards.load_rewards` takes them; weights do not count.
        num_generations: G, completions of each prompt from each model.
        max_completion_length: tokens after which a completion is cut off.
        temperature: of sampling, and of both models' probabilities; greater than 0.
        chat: put prompts that are plain text into the chat template too.
        system_prompt: before every conversation.
        answer_style: where answers are looked for. None: lenient where prompts go through a chat template.
        batch_size: prompts sampled at a time; None: 32, and on a CPU few enough for results about each minute.
        memory: how completions are scored.
        seed: of sampling.
        console: shows a progress bar; None shows nothing.
        parts: file for the numbers of each prompt, as they come; what was interrupted goes on from there.

    Raises:
        UserError: the models have unlike tokens, or the same weights; bad prompts; a file that cannot be written.
    """
    check_same_tokens(start, tuned)
    weights = [model_fingerprint(model.model) for model in (start, tuned)]
    if weights[0] == weights[1] and have_same_weights(start, tuned):
        raise UserError(
            "tuned: its weights are those of the start model, expected the model after a training; where the guard of "
            "a run finds the start model the best, model/ has that one, and last/ what the run came to"
        )
    memory = memory or MemoryOptions()
    rewards = load_rewards(tuple(dict.fromkeys((*CONFIDENCE, *reward))), seed=seed)
    encoded = encode_prompts(
        start, prompts, max_completion_length, chat=chat, system_prompt=system_prompt, answer_style=answer_style
    )
    for model in (start, tuned):
        check_decoding(model, encoded[0].ids)
    work = {
        "models": weights,
        "columns": num_columns(start.model),
        "prompts": data_fingerprint(encoded),
        "rewards": [each.name for each in rewards.rewards],
        "num_generations": num_generations,
        "max_completion_length": max_completion_length,
        "temperature": temperature,
        "answer_style": encoded[0].answer_style,
        "seed": seed,
    }
    file = None if parts is None else PartsFile(parts, work)
    rows: list[Row] = list(file.rows) if file else []
    comparison = Comparison(
        start,
        tuned,
        make_scorer(start.model, memory),
        make_scorer(tuned.model, memory),
        rewards=rewards,
        num_generations=num_generations,
        max_completion_length=max_completion_length,
        temperature=temperature,
        max_tokens_per_forward=memory.max_tokens_per_forward,
        seed=seed,
        num_prompts=len(encoded),
    )
    at_a_time = batch_size or prompts_at_a_time(
        start,
        encoded,
        num_generations=2 * num_generations,
        max_completion_length=max_completion_length,
        at_most=PROMPTS_PER_BATCH,
    )
    with bar("Sampling", "prompts", len(encoded), len(rows), console=console, disable=console is None) as move:
        for first in range(len(rows), len(encoded), at_a_time):
            batch = encoded[first : first + at_a_time]
            found = comparison.look_at(batch, first)
            if file:
                file.append(found)
            rows += found
            move(len(batch))
    return join(rows)


def have_same_weights(start: LanguageModel, tuned: LanguageModel) -> bool:
    """Tell whether two models of the same names and shapes have the same weights, every one of them."""
    others = tuned.model.state_dict()
    return all(torch.equal(weight, others[name]) for name, weight in start.model.state_dict().items())


def check_same_tokens(start: LanguageModel, tuned: LanguageModel) -> None:
    """Find out that two models do not read the same tokens.

    Raises:
        UserError: they do not.
    """
    sizes = [num_columns(model.model) for model in (start, tuned)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"tuned: its head has {sizes[1]} columns, expected {sizes[0]} as the start model's; --vocab-size leaves "
            "out columns at the end"
        )
    if start.tokenizer.get_vocab() != tuned.tokenizer.get_vocab():
        raise UserError("tuned: its tokenizer has other tokens than the start model's, expected the same ones")


@dataclass(frozen=True)
class Comparison:
    """How the completions of a batch of prompts are made and put in numbers."""

    start: LanguageModel
    tuned: LanguageModel
    start_scorer: Scorer
    tuned_scorer: Scorer
    rewards: RewardMixture
    num_generations: int
    max_completion_length: int
    temperature: float
    max_tokens_per_forward: int
    seed: int
    num_prompts: int

    def look_at(self, batch: list[EncodedPrompt], first: int) -> list[Row]:
        """Return a row for each prompt of a batch, whose first one has that number."""
        parts: list[Row] = []
        rollouts = []
        # Other random numbers for each: with the same ones models that are alike draw the same completions.
        for model, offset in ((self.tuned, first), (self.start, self.num_prompts + first)):
            rollout = sample(
                model,
                batch,
                num_generations=self.num_generations,
                max_completion_length=self.max_completion_length,
                temperature=self.temperature,
                seeds=[(self.seed, offset + number) for number in range(len(batch))],
            )
            with doing("scoring"):
                parts.append(self.in_numbers(rollout))
            rollouts.append(rollout)
        agreement = agreement_with_start(rollouts[0].stated, rollouts[1].stated, self.num_generations)
        size = self.num_generations
        found = []
        for number, agreed in enumerate(agreement):
            places = slice(number * size, (number + 1) * size)
            numbers = {
                name: [value for part in parts for value in part["scores"][name][places]] for name in parts[0]["scores"]
            }
            found.append(
                without_nan(
                    {
                        "prompt": rollouts[0].prompts[places.start],
                        "completions": [text for rollout in rollouts for text in rollout.texts[places]],
                        "implicit_reward": numbers.pop("implicit_reward"),
                        "scores": numbers | agreed,
                        "states": _encoded(np.concatenate([part["states"][places] for part in parts])),
                    }
                )
            )
        return found

    def in_numbers(self, rollout: Rollout) -> Row:
        """Put the N completions of one model in numbers: (N,) lists under `scores`, (N, H) hidden `states`."""
        limit, start, tuned = self.max_tokens_per_forward, self.start_scorer, self.tuned_scorer
        outputs = tuple(dict.fromkeys(DEFAULT_OUTPUTS + self.rewards.outputs))
        divided = parts_of(start, rollout, limit)
        by_start = score_parts(start, rollout, divided, self.temperature, outputs)
        by_tuned = score_parts(tuned, rollout, parts_of(tuned, rollout, limit), self.temperature, outputs)
        assert by_start.logprob is not None
        assert by_tuned.logprob is not None
        # In float64: a sum over a long completion is far larger than what tells two of them apart.
        gained = (by_tuned.logprob.double() - by_start.logprob.double()).sum(dim=1)
        return {
            "scores": {"implicit_reward": gained.tolist()} | self.scores(rollout, by_start, by_tuned),
            "states": last_states(self.start, rollout, divided),
        }

    def scores(self, rollout: Rollout, by_start: TokenStats, by_tuned: TokenStats) -> dict[str, list[float]]:
        """Everything that one completion alone tells.

        A training on a reward of the policy's distributions follows that of each policy on its way, of which the start
        and the end are known: such a reward is the mean of both. One that reads the log-probabilities of the tokens
        drawn is that of the start model alone, since the tuned model's hold the implicit reward itself.
        """
        lengths = rollout.lengths()[1]
        ids = rollout.completion_ids.tolist()
        before, after = (
            self.rewards(stats, rollout, tokenizer=self.start.tokenizer, step=1).parts for stats in (by_start, by_tuned)
        )
        on_the_way = [each.name for each in self.rewards.rewards if each.outputs and "logprob" not in each.outputs]
        rewarded = before | {name: (before[name] + after[name]) / 2 for name in on_the_way}
        known = np.array([answer is not None for answer in rollout.answers])
        return {
            **{name: values.tolist() for name, values in rewarded.items()},
            "verifiable": np.where(known, verifiable(rollout.stated, rollout.answers), np.nan).tolist(),
            "format": [float(each is not None) for each in rollout.stated],
            "ended": rollout.finished.double().tolist(),
            "length": [float(length) for length in lengths],
            "repetition": [repetition(row[:length]) for row, length in zip(ids, lengths, strict=True)],
        }


def agreement_with_start(
    tuned: Sequence[Stated | None], start: Sequence[Stated | None], num_generations: int
) -> list[dict[str, list[float]]]:
    """Compare the answers of both models with those that the start model gives to the same prompt.

    A majority of all completions would be the tuned model's own where that always says the same.

    Args:
        tuned: P x G answers of the tuned model.
        start: P x G answers of the start model.
        num_generations: G.

    Returns:
        For each prompt, of 2 G completions: `semantic_entropy`, the share of the start model's completions with the
        same answer, and `majority_vote`, 1 for its most common answer.
    """
    size = num_generations
    both = [
        answer
        for place in range(0, len(start), size)
        for answer in (*tuned[place : place + size], *start[place : place + size])
    ]
    found = []
    for clusters in agreeing(both, 2 * size):
        places = [[place % (2 * size) for place in cluster] for cluster in clusters]
        counts = [sum(place >= size for place in cluster) for cluster in places]
        # Of answers equally common the one that comes first wins.
        majority = counts.index(max(counts)) if any(counts) else None
        shares, votes = [0.0] * (2 * size), [0.0] * (2 * size)
        for number, (cluster, count) in enumerate(zip(places, counts, strict=True)):
            for place in cluster:
                shares[place], votes[place] = count / size, float(number == majority)
        found.append({"majority_vote": votes, "semantic_entropy": shares})
    return found


def last_states(start: LanguageModel, rollout: Rollout, parts: Sequence[list[int]]) -> NDArray[np.float16]:
    """Return the start model's last hidden state before each completion's last token, (N, H).

    A text-only reward is a head on it (arXiv 2410.12491). The last token is left out: of most completions it is the
    end, which says nothing.
    """
    found: NDArray[np.float16] | None = None
    for rows in parts:
        part = rollout.select(rows)
        length = part.completion_ids.shape[1]
        states = backbone(start.model)(**padded_inputs(part)).last_hidden_state[:, -length:]
        last = part.completion_mask.sum(dim=1) - 1
        values = states[torch.arange(len(rows)), last].float().clamp(-6e4, 6e4).half().cpu().numpy()
        if found is None:
            found = np.zeros((len(rollout.texts), values.shape[1]), dtype=np.float16)
        found[rows] = values
    assert found is not None
    return found


def join(rows: Sequence[Row]) -> Samples:
    """Put the rows of all prompts together; a null is NaN."""
    return Samples(
        implicit_reward=np.array([row["implicit_reward"] for row in rows], dtype=np.float64),
        scores={name: np.array([row["scores"][name] for row in rows], dtype=np.float64) for name in rows[0]["scores"]},
        states=np.stack([_decoded(row["states"], len(row["implicit_reward"])) for row in rows]),
    )


def _encoded(states: NDArray[np.float16]) -> str:
    return base64.b64encode(np.ascontiguousarray(states.astype("<f2")).tobytes()).decode("ascii")


def _decoded(text: str, rows: int) -> NDArray[np.float16]:
    return np.frombuffer(base64.b64decode(text), dtype="<f2").reshape(rows, -1)
