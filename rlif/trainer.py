"""The training loop, from top to bottom:

prompts -> rollout (a group of completions each) -> one forward -> token statistics (log-probability with gradient,
entropy, self-certainty) -> reward, detached -> group advantages -> policy loss -> backward -> AdamW step
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlif.config import TrainConfig
from rlif.data import read_prompts, shuffled_epochs
from rlif.errors import UserError
from rlif.evaluate import evaluate, mean_metrics, rollout_totals, sample_rows
from rlif.grpo import group_advantages, policy_loss
from rlif.models import LanguageModel, frozen_copy, load_language_model
from rlif.progress import Progress, default_progress
from rlif.rewards import RewardMixture, Rewards, load_rewards
from rlif.rollout import EncodedPrompt, Rollout, check_decoding, encode_prompts, sample
from rlif.run_dir import RunDir, resolve_run_dir
from rlif.scoring import completion_stats
from rlif_kernels import TokenStats
from rlif_kernels.stats import DEFAULT_OUTPUTS

# Completions written to samples.jsonl at a time: enough to see what the policy is up to.
NUM_SAMPLES = 8


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind."""

    run_dir: Path
    rows: list[dict[str, float]]
    """The rows of metrics.jsonl. With evaluation data the first is step 0, the evaluation before any update."""
    last_step: int
    best_step: int | None
    """The first step with the highest eval/accuracy; None without evaluation or without gold answers."""


def train(config: TrainConfig, *, progress: Progress | None = None) -> TrainResult:
    """Train a model as `config` says, and leave metrics, samples and the model in its run directory.

    Args:
        config: validated here.
        progress: where to report; by default a live bar on stderr, or plain lines where stderr is no terminal.

    Raises:
        UserError: bad input, before any work starts.
        KeyboardInterrupt: Ctrl-C. Metrics and model so far are saved first, and the message says where.
    """
    # Everything that can be wrong is found before the run directory exists, and before the model loads where possible.
    config.validate()
    rewards = load_rewards(config.reward, aggregation=config.multi_objective_aggregation, seed=config.seed)
    read = partial(
        read_prompts,
        data_config=config.data_config,
        prompt_column=config.prompt_column,
        answer_column=config.answer_column,
    )
    prompts = read(config.data, split=config.split, need_answers=rewards.needs_answers)
    eval_prompts = read(config.eval_data, argument="eval_data", split=config.eval_split) if config.eval_data else []
    run_path = resolve_run_dir(config)
    policy = load_language_model(config.model, device=config.device, dtype=config.dtype)
    encode = partial(
        encode_prompts,
        policy,
        max_completion_length=config.max_completion_length,
        chat=config.chat,
        system_prompt=config.system_prompt,
    )
    train_set, eval_set = encode(prompts), encode(eval_prompts, argument="eval_data")
    check_decoding(policy, train_set[0].ids)

    reference = frozen_copy(policy.model) if config.beta > 0 or eval_set else None
    optimizer = torch.optim.AdamW(policy.model.parameters(), weight_decay=config.weight_decay, fused=True)
    generator = torch.Generator(policy.device).manual_seed(config.seed)
    prompt_stream = shuffled_epochs(train_set, config.seed)

    run = RunDir(run_path, config)
    progress = progress or default_progress()
    rows: list[dict[str, float]] = []
    skipped_updates, step = 0.0, 0
    try:
        progress.start(config.title, config.max_steps)
        for step in range(config.max_steps + 1):
            row: dict[str, float] = {"step": step}
            samples: list[dict[str, object]] = []
            if step > 0:
                step_prompts = list(islice(prompt_stream, config.prompts_per_step))
                metrics, rollout = train_step(
                    policy, reference, optimizer, generator, step_prompts, step, config, rewards
                )
                skipped_updates += metrics["skipped_updates"]
                row |= metrics | {"skipped_updates": skipped_updates}
                samples = sample_rows(rollout)
            if step % config.eval_steps == 0 or step == config.max_steps:
                if eval_set and reference is not None:
                    evaluation = evaluate(policy, reference, eval_set, config)
                    row |= {f"eval/{name}": value for name, value in evaluation.metrics.items()}
                    samples = evaluation.samples
                run.log_samples({"step": step, **completion} for completion in samples[:NUM_SAMPLES])
            if len(row) > 1:  # step 0 without evaluation data has nothing to say
                run.log_metrics(row)
                rows.append(row)
                progress.report(row)
            if step > 0 and config.save_steps is not None and step % config.save_steps == 0:
                run.save_model(policy, f"checkpoint-{step}")
        run.save_model(policy)
    except KeyboardInterrupt:
        saved = run.save_model(policy)
        raise KeyboardInterrupt(f"stopped in step {step}; metrics are in {run.path}, the model in {saved}") from None
    except Exception as error:
        # What was computed so far is not lost, whatever went wrong; the message says where it is.
        saved = run.save_model(policy)
        place = f"stopped in step {step}; metrics are in {run.path}, the model in {saved}"
        if isinstance(error, UserError):
            raise UserError(f"{error} ({place})") from error
        error.add_note(place)
        raise
    finally:
        progress.stop()
        run.close()
    scored = [row for row in rows if "eval/accuracy" in row]
    best = max(scored, key=lambda row: row["eval/accuracy"], default=None)
    return TrainResult(run.path, rows, int(rows[-1]["step"]), None if best is None else int(best["step"]))


def train_step(
    policy: LanguageModel,
    reference: PreTrainedModel | None,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    prompts: Sequence[EncodedPrompt],
    step: int,
    config: TrainConfig,
    rewards: RewardMixture,
) -> tuple[dict[str, float], Rollout]:
    """One step of training: sample, score, learn.

    Memory is bounded by splitting the rollout into parts of whole groups. A part's loss is divided by the tokens of the
    whole step, so the accumulated gradient is that of the whole.

    Returns:
        The step's metrics, per completion or per token (nats), and the rollout.
    """
    started = time.perf_counter()
    rollout = sample(
        policy,
        prompts,
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        generator=generator,
    )
    parts = list(rollout.split(config.groups_per_forward))
    num_tokens = int(rollout.completion_mask.sum())
    learning_rate = learning_rate_at(step, config)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate

    scores: list[Score] = []
    losses: list[float] = []
    grad_norms: list[float] = []
    skipped = 0
    for iteration in range(config.num_iterations):
        optimizer.zero_grad()
        losses.append(0.0)
        for index, part in enumerate(parts):
            # Further statistics only where a reward reads them, and only in the forward that scores.
            outputs = tuple(dict.fromkeys(DEFAULT_OUTPUTS + (rewards.outputs if iteration == 0 else ())))
            stats = completion_stats(policy.model, part, temperature=config.temperature, outputs=outputs)
            assert stats.logprob is not None
            if iteration == 0:  # still on-policy: the forward that carries the gradient also scores the completions
                rewarded = rewards(stats, part, tokenizer=policy.tokenizer, step=step)
                scores.append(score_completions(stats, part, rewarded, reference, config))
            loss = policy_loss(
                stats.logprob,
                scores[index].old_logprob,
                scores[index].advantages,
                part.completion_mask,
                num_tokens=num_tokens,
                epsilon=config.epsilon,
                beta=config.beta,
                reference_logprob=scores[index].reference_logprob,
            )
            loss.backward()
            losses[-1] += loss.item()
        grad_norms.append(torch.nn.utils.clip_grad_norm_(policy.model.parameters(), config.max_grad_norm).item())
        if math.isfinite(losses[-1]) and math.isfinite(grad_norms[-1]):
            optimizer.step()
        else:
            skipped += 1

    total = torch.cat([score.rewards.total for score in scores])
    groups = total.view(-1, config.num_generations)
    equal = groups.amax(dim=1) == groups.amin(dim=1)
    metrics = {
        "reward": total.mean().item(),
        **{
            f"reward/{name}": torch.cat([score.rewards.parts[name] for score in scores]).mean().item()
            for name in scores[0].rewards.parts
        },
        "reward_std": groups.std(dim=1).mean().item(),
        "frac_reward_zero_std": equal.float().mean().item(),
        **mean_metrics([score.totals for score in scores]),
        "loss": fmean(losses),
        "grad_norm": fmean(grad_norms),
        "learning_rate": learning_rate,
        "skipped_updates": skipped,
        "step_seconds": time.perf_counter() - started,
    }
    return metrics, rollout


@dataclass(frozen=True)
class Score:
    """What the first forward over n completions fixes for all updates from them; nothing here carries a gradient."""

    rewards: Rewards
    """(n,) float32, their sum and its parts."""
    advantages: Tensor
    """(n,) float32."""
    old_logprob: Tensor
    """(n, T) float32, of the policy that sampled."""
    reference_logprob: Tensor | None
    """(n, T) float32, of the frozen start model; None where beta is 0."""
    totals: dict[str, float]
    """Sums for the metrics."""


@torch.no_grad()
def score_completions(
    stats: TokenStats, rollout: Rollout, rewards: Rewards, reference: PreTrainedModel | None, config: TrainConfig
) -> Score:
    """Compare the rewards of completions within their groups, and note what further updates compare with."""
    assert stats.logprob is not None
    reference_logprob = None
    if reference is not None and config.beta > 0:
        reference_logprob = completion_stats(
            reference, rollout, temperature=config.temperature, outputs=("logprob",)
        ).logprob
    return Score(
        rewards=rewards,
        advantages=group_advantages(rewards.total, config.num_generations),
        old_logprob=stats.logprob.detach(),
        reference_logprob=reference_logprob,
        totals=rollout_totals(rollout, stats, reference_logprob),
    )


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, counted from 1: a linear rise in the first `warmup_ratio`, then the schedule.

    The peak comes right after the warm-up, and no step is spent at 0.
    """
    warmup_steps = math.ceil(config.warmup_ratio * config.max_steps)
    if step <= warmup_steps:
        return config.learning_rate * step / (warmup_steps + 1)
    done = (step - 1 - warmup_steps) / (config.max_steps - warmup_steps)
    factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return config.learning_rate * factor[config.lr_scheduler_type]
