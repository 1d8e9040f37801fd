"""The training loop, from top to bottom:

prompts -> rollout (a group of completions each) -> one forward -> token statistics (log-probability with gradient,
entropy, self-certainty) -> reward, detached -> group advantages -> policy loss -> backward -> AdamW step

`setup.py` comes before it, `step.py` is the part from the rollout on.
"""

from __future__ import annotations

import gc
import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch

from rlif.data.prompts import shuffled_epochs
from rlif.doing import doing
from rlif.errors import UserError
from rlif.files.jsonl import Row
from rlif.interrupts import StopRequest
from rlif.models.optimization import before_weights_change, rounded_away, scheduled
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.paged import sample_paged
from rlif.rollouts.rollout import Rollout, with_verifications
from rlif.rollouts.sample import sample
from rlif.training.checkpoint import checkpoints
from rlif.training.distributed import all_reduce_max, all_reduce_sum, unsharded
from rlif.training.learner import Learner
from rlif.training.options import TrainConfig
from rlif.training.progress import Progress
from rlif.training.resampling import redraw_equal_groups
from rlif.training.samples import NUM_SAMPLES, step_rows
from rlif.training.scores import Scores, start_scores
from rlif.training.setup import Run, prepare
from rlif.training.silence import warn_of_silence
from rlif.training.step import update
from rlif.training.verification import ask

# Steps without a finite update after which nothing better is to be expected.
MAX_BAD_STEPS = 3


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind."""

    run_dir: Path
    rows: list[dict[str, float]]
    """The rows of metrics.jsonl. With evaluation data the first is step 0, the evaluation before any update."""
    last_step: int
    best_step: int | None
    """The first step with the highest eval/accuracy; None without evaluation or without gold answers."""
    guard_step: int | None = None
    """The step whose policy the guard takes for the best; None if it was off."""
    collapse_step: int | None = None
    """The step at which the guard found that the policy had collapsed; None if it did not, or the guard was off."""
    warning: str | None = None
    """What the guard said when the policy began to fall."""
    stopped: bool = False
    """Whether the guard stopped the run."""


def train(config: TrainConfig, *, progress: Progress | None = None, stop_at_collapse: bool = False) -> TrainResult:
    """Train a model as `config` says, and leave metrics, samples and the model in its run directory.

    Args:
        config: validated here.
        progress: where to report; by default a live view on stderr, or plain lines where stderr is no terminal.
        stop_at_collapse: end where the guard, which must be on, finds that the policy has collapsed.

    Raises:
        UserError: bad input, before any work starts.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP. A step that has not yet changed the weights is abandoned, within
            one forward; one that has, or that several processes take together, is finished. Then a checkpoint is saved,
            and the message says where. A second Ctrl-C in a step that is being finished saves the model alone.
    """
    run = prepare(config, progress)
    run.stop_at_collapse = stop_at_collapse
    learner, step = run.learner, run.state.step
    bad_steps = count_bad_steps([*run.rows, run.unfinished or {}], config.num_iterations)
    # A run that the guard has stopped, and that was then interrupted before it was saved, is at its last step.
    stopped_by_guard, last = (True, step) if run.should_stop and step < config.max_steps else (False, config.max_steps)
    warning, few_moved = None, False
    first_trained = step + 1
    first = step if step == 0 or run.unfinished else first_trained
    prompts = islice(shuffled_epochs(run.train_set, config.seed), step * config.prompts_per_step, None)
    with StopRequest() as stop, before_weights_change(stop.hold):
        try:
            with stop.interruptible():  # no process waits for another here
                run.ask_start_model()
            run.progress.start(config.title, config.max_steps, run.state.step)
            for step in range(first, last + 1):
                row: dict[str, float] = dict(run.unfinished or {"step": step})
                samples: list[Row] = []
                rewarded: list[Row] = []
                evaluates = step % config.eval_steps == 0 or step == config.max_steps
                if step >= first_trained:
                    with interruptible(run, stop):
                        metrics, rollout, scores = train_step(
                            learner, list(islice(prompts, config.prompts_per_step)), step
                        )
                    bad_steps = bad_steps + 1 if metrics["skipped_updates"] == config.num_iterations else 0
                    if bad_steps == 0:  # else `explain_not_finite` may look at them
                        learner.optimizer.zero_grad()  # as large as the weights, while others are sampled from these
                    row |= run.finish_step(step, metrics)
                    if evaluates or step == 1:
                        tokenizer, one_of_each = learner.models.language_model.tokenizer, not run.eval_set
                        rewarded = step_rows(rollout, scores.rewards, scores.stats, tokenizer, one_of_each=one_of_each)
                        run.log_samples(step, rewarded)
                    stop.release()
                    if step == first_trained:
                        warn_of_silence(run, rollout)
                    few_moved = few_moved or warn_of_rounding(run, metrics["moved_weights"])
                alarm = None
                if evaluates and run.eval_set:
                    with interruptible(run, stop):
                        evaluation = run.evaluate(step)
                    row |= {f"eval/{name}": value for name, value in evaluation.metrics.items()}
                    samples = evaluation.samples[:NUM_SAMPLES]
                    guarded, alarm = run.watch(step, evaluation.metrics)
                    row |= guarded
                if len(row) > 1:  # step 0 without evaluation data has nothing to say
                    run.log(row, samples, rewarded)
                if alarm is not None:
                    warning = alarm
                    run.progress.warn(alarm)
                if bad_steps == MAX_BAD_STEPS:
                    raise UserError(explain_not_finite(learner, row))
                if all_reduce_max(learner.accelerator, stop.received is not None) > 0:
                    raise KeyboardInterrupt
                if step > 0 and config.save_steps is not None and step % config.save_steps == 0:
                    run.save_checkpoint()
                if run.should_stop:
                    stopped_by_guard = step < config.max_steps
                    break
            stop.save_in_peace()
            run.save_result()
        except KeyboardInterrupt:
            stop.save_in_peace()
            # Half a step is none that a run could go on from.
            raise KeyboardInterrupt(salvaged(run, step, trained=True) if stop.held else kept(run)) from None
        except Exception as error:
            stop.save_in_peace()
            # What was computed so far is not lost, whatever went wrong; the message says where it is.
            place = salvaged(run, step, trained=run.state.step > 0 or stop.held)
            if isinstance(error, UserError):
                raise UserError(f"{error} ({place})") from error
            error.add_note(place)
            raise
        finally:
            run.close()
    result = TrainResult(
        run_dir=run.path,
        rows=run.rows,
        last_step=step,
        best_step=most_accurate(run.rows),
        guard_step=run.guard.best.step if run.guard and run.guard.best else None,
        collapse_step=run.guard.collapse.step if run.guard and run.guard.collapse else None,
        warning=warning,
        stopped=stopped_by_guard,
    )
    accelerator = learner.accelerator
    accelerator.wait_for_everyone()
    # The model goes before the process group. Were DDP the last to hold the group, torch would end it with Python's
    # lock held, for which the group's threads may be waiting, and the process would never exit.
    del run, learner
    accelerator.free_memory()
    gc.collect()
    accelerator.end_training()
    return result


def count_bad_steps(rows: Sequence[Mapping[str, float]], num_iterations: int) -> int:
    """Count the steps without a finite update that a run ended with, from the rows of its metrics."""
    totals = [0.0, *(row["skipped_updates"] for row in rows if "skipped_updates" in row)]
    skipped = [after - before for before, after in pairwise(totals)]
    return next((count for count, each in enumerate(reversed(skipped)) if each != num_iterations), len(skipped))


def most_accurate(rows: Sequence[Mapping[str, float]]) -> int | None:
    """Return the first step with the highest eval/accuracy; None if no row has one."""
    scored = [row for row in rows if "eval/accuracy" in row]
    return int(max(scored, key=lambda row: row["eval/accuracy"])["step"]) if scored else None


def interruptible(run: Run, stop: StopRequest) -> AbstractContextManager[None]:
    """Let a signal interrupt at once, within; not where other processes would then wait for this one for ever."""
    return stop.interruptible() if run.learner.accelerator.num_processes == 1 else nullcontext()


def train_step(
    learner: Learner, prompts: Sequence[EncodedPrompt], step: int
) -> tuple[dict[str, float], Rollout, Scores]:
    """Train one step: sample, score, learn. Each process takes its share of the prompts.

    Returns:
        The metrics of the step on all processes, per completion or per token (nats), and this process's rollout with
        what was found out about it.
    """
    config, accelerator = learner.config, learner.accelerator
    started = time.perf_counter()
    seed_step(config.seed, step, accelerator.process_index)
    share = range(accelerator.process_index, len(prompts), accelerator.num_processes)

    def solve(positions: Sequence[int], *attempt: int) -> Rollout:
        """Sample completions of the prompts at these positions of the step; an attempt after the first is numbered."""
        seeds = [(config.seed, step, position, *attempt) for position in positions]
        return draw(learner, [prompts[position] for position in positions], seeds)

    with unsharded(accelerator, learner.models.scorer):
        rollout = solve(share)
    more: dict[str, float] = {}
    if config.max_num_gen_batches > 1:
        rollout, redrawn = redraw_equal_groups(
            learner, rollout, lambda groups, attempt: solve([share[group] for group in groups], attempt), step
        )
        more["redrawn_groups"] = all_reduce_sum(accelerator, {"redrawn": redrawn})["redrawn"]
    if learner.verifier is not None:
        asked = ask(learner, prompts, rollout, step, share)
        more["verify/too_long"] = asked.too_long
        with unsharded(accelerator, learner.models.scorer):
            if asked.prompts:
                verifications = draw(learner, asked.prompts, asked.seeds)
                rollout = with_verifications(rollout, verifications, learner.models.language_model.pad_token_id)
    sampled = time.perf_counter()
    with doing(f"learning from {len(rollout.texts)} completions"):
        scores = start_scores(learner, rollout, step)
        metrics = update(learner, rollout, step, learning_rate_at(step, config), scores)
    seconds = time.perf_counter() - started
    more |= {
        "tokens_per_second": metrics["num_tokens"] / seconds,
        "sampling_seconds": sampled - started,
        "step_seconds": seconds,
    }
    return metrics | more, rollout, scores


def draw(learner: Learner, prompts: Sequence[EncodedPrompt], seeds: Sequence[tuple[int, ...]]) -> Rollout:
    """Sample a group of completions of each prompt, by its own random numbers, as the configuration says."""
    config = learner.config
    roll_out = sample_paged if config.use_transformers_continuous_batching else sample
    return roll_out(
        learner.models.language_model,
        prompts,
        num_generations=config.num_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seeds=seeds,
        outputs=("logprob",) if config.importance_sampling_mode is not None else (),
    )


def seed_step(seed: int, step: int, process_index: int) -> None:
    """Seed the global generators, which rewards may use. Sampling has its own random numbers, the same on any process.

    A step's random numbers depend on nothing that happened before it, so a resumed run draws the same.
    """
    key = f"{seed} {step} {process_index}".encode()
    number = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 1."""
    return scheduled(
        step,
        config.max_steps,
        learning_rate=config.learning_rate,
        warmup_ratio=config.warmup_ratio,
        lr_scheduler_type=config.lr_scheduler_type,
    )


def kept(run: Run) -> str:
    """Save a checkpoint of the steps that are done, and say how the run goes on; without any there is none to save."""
    step = run.state.step
    if step == 0 or (run.guard and run.consensus is None):
        return f"stopped before another step was done; --resume continues the run in {run.path}"
    run.progress.warn(f"stopping: step {step} is being saved")  # gigabytes, perhaps
    try:
        run.save_checkpoint()
    except UserError as error:
        raise UserError(f"{error} ({salvaged(run, step, trained=True)})") from error
    return f"stopped after step {step}; --resume continues the run in {run.path}"


def warn_of_rounding(run: Run, moved: float) -> bool:
    """Say that a step moved few weights, if it did; returns whether it was said."""
    config = run.learner.config
    warning = rounded_away(moved, config, config.dtype)
    if warning is not None:
        run.progress.warn(warning)
    return warning is not None


def salvaged(run: Run, step: int, *, trained: bool) -> str:
    """Save the model as it is, if it has been `trained`, and say where everything is that can be used."""
    found = [f"stopped in step {step}; metrics are in {run.path}"]
    if not run.path.is_dir():
        found = [f"stopped in step {step}; {run.path} was removed or renamed while the run wrote to it"]
    # Saving may take all processes, and the others may be elsewhere.
    if trained and run.learner.accelerator.num_processes == 1:
        try:
            found.append(f"the model in {run.save_model()}")
        except UserError as error:
            found.append(f"the model could not be saved: {error}")
    if saved := checkpoints(run.path):
        found.append(f"the newest checkpoint is {saved[0].name}")
    return ", ".join(found)


def explain_not_finite(learner: Learner, row: dict[str, float]) -> str:
    """Tell why a run whose updates are not finite stops, from the gradients of the last one."""
    parameters = [(name, each) for name, each in learner.models.scorer.named_parameters() if each.requires_grad]
    bad = [name for name, each in parameters if each.grad is not None and not each.grad.isfinite().all()]
    weights = all(each.isfinite().all() for _, each in parameters)
    where = f"the gradients of {len(bad)} of {len(parameters)} weights, {bad[0]} first" if bad else "no gradient"
    return (
        f"{MAX_BAD_STEPS} steps in a row had no finite update: the loss is {row['loss']:g}, not finite are {where}; "
        f"the weights are {'finite' if weights else 'not finite'}, rewards {row['reward']:g} on average; "
        "try a lower learning_rate, or float32"
    )
