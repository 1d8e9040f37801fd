"""Run the trials, several at a time, each in a process of its own; one that is done is never run again."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import TimeElapsedColumn

from rlif.data.prompts import read_prompts
from rlif.digits import duration
from rlif.errors import UserError
from rlif.files.checksums import check_seal, file_sha256, sealed
from rlif.files.json_values import read_json, without_nan, write_json
from rlif.files.jsonl import check_metrics, read_rows, write_rows
from rlif.files.lock import Lock
from rlif.files.whole import written_whole
from rlif.interrupts import stop_signals
from rlif.lab.options import LabConfig, Size
from rlif.lab.plan import LEARNING_RATE, NUM_GENERATIONS, PROMPTS_PER_STEP, TRIAL_EVAL_GENERATIONS, Trial, start_name
from rlif.models.language_model import load_language_model
from rlif.progress_bar import bar
from rlif.rewards.controls import verifiable
from rlif.rollouts.encode import encode_prompts
from rlif.rollouts.sample import sample
from rlif.scoring.confidence import inverse_perplexity
from rlif.scoring.scorer import Scorer
from rlif.tasks.arithmetic import ArithmeticConfig, completion_length, problems, write_jsonl
from rlif.training.loop import train
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress

RESULT = "result.json"
SAMPLES = "policies.npz"
# The policies that a trial looks at, and the means over their completions that its result has, with their names here.
POLICIES = ("start", "guarded", "last")
MEANS = {"accuracy": "correct", "doubt": "doubt", "parsed": "parsed", "probability": "probability"}
# Of the evaluations that every trial has in common.
EVAL_PROBLEMS_SEED = 0
TEST_SEED = 1
# Metrics of training that the report has a use for; of the evaluations it keeps all.
KEPT = ("step", "reward")
# Samples of each test prompt.
TEST_GENERATIONS = 4


def write_data(directory: Path, task: ArithmeticConfig, size: Size, seeds: int) -> None:
    """The prompts: to train on for each seed, to evaluate on, and a test set apart from both.

    Of the evaluation prompts the first have no gold answer. The guard looks at these, accuracy is that of the others.
    """
    directory.mkdir(exist_ok=True)
    held_out = problems(task, "eval", EVAL_PROBLEMS_SEED)
    rows: list[dict[str, str]] = []
    seen = set()
    while len(rows) < size.held_out_prompts:
        problem = next(held_out)
        if problem.prompt not in seen:
            seen.add(problem.prompt)
            is_guard = len(rows) < size.guard_prompts
            rows.append({"prompt": problem.prompt} | ({} if is_guard else {"answer": problem.answer}))
    evaluated = size.guard_prompts + size.eval_prompts
    write_rows(directory / "eval.jsonl", rows[:evaluated])
    write_rows(directory / "test.jsonl", rows[evaluated:])
    for seed in range(seeds):
        write_jsonl(directory / f"train-{seed}.jsonl", task, "train", size.max_steps * PROMPTS_PER_STEP, seed)


def run_trials(directory: Path, config: LabConfig, size: Size, trials: list[Trial], console: Console) -> None:
    """Run those that have no result yet, and show how far they are.

    Raises:
        UserError: a process died.
        KeyboardInterrupt: Ctrl-C; those that are done stay so.
    """
    left = [trial for trial in trials if not (directory / "runs" / trial.name / RESULT).exists()]
    steps = size.max_steps
    # Spawned, since threads of torch do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(config.workers, max(1, len(left))),
        mp_context=context,
        initializer=_begin_worker,
    )
    try:
        total, finished = steps * len(trials), steps * (len(trials) - len(left))
        with bar("Trials", "steps", total, finished, columns=(TimeElapsedColumn(),), console=console) as move:
            running = {pool.submit(run_trial, directory, size, trial, config.base.task): trial for trial in left}
            pending = set(running)
            while pending:
                done, pending = wait(pending, timeout=2, return_when=FIRST_EXCEPTION)
                for future in done:
                    result = future.result()
                    start, guarded, last = (result["accuracy"][key] for key in ("start", "guarded", "last"))
                    console.print(
                        f"{running[future].name}: accuracy {start:.1%}, {guarded:.1%} at the guard's choice (step "
                        f"{result['guard_step']}), {last:.1%} at the end ({duration(result['seconds'])})",
                        highlight=False,
                        soft_wrap=True,
                    )
                move(completed=sum(_steps_done(directory / "runs" / each.name, steps) for each in trials))
    except BrokenProcessPool as error:
        raise UserError(
            "workers: the process of a trial died, for want of memory perhaps; --resume runs the trials that are not "
            "finished, if need be with fewer workers"
        ) from error
    finally:
        # Without it the trials that run would be waited for, and those that wait begun.
        pool.shutdown(wait=False, cancel_futures=True)
        # Not by SIGTERM, which a training answers by saving: its process would then wait for a trial that never comes.
        # What it leaves of its trial is removed before the trial is run again.
        for process in multiprocessing.active_children():
            process.kill()


def run_trial(directory: Path, size: Size, trial: Trial, task: ArithmeticConfig) -> dict[str, Any]:
    """Train one policy, with the guard only watching, look at what is left, and write and return the result."""
    run_dir, data = directory / "runs" / trial.name, directory / "data"
    if run_dir.is_dir():  # of a trial that was interrupted; its process ends within seconds of the lab's
        with Lock(run_dir, wait=lambda owner: None):
            shutil.rmtree(run_dir, ignore_errors=True)
    started, started_cpu = time.perf_counter(), time.process_time()
    config = trial_config(directory, size, trial, task)
    outcome = train(config, progress=SilentProgress())
    paths = (Path(config.model), run_dir / "best", run_dir / "model")
    policies = {
        name: look_at_policy(path, data / "test.jsonl", completion_length(task))
        for name, path in zip(POLICIES, paths, strict=True)
    }
    arrays: dict[str, Any] = {f"{name}/{key}": value for name, each in policies.items() for key, value in each.items()}
    with written_whole(run_dir / SAMPLES) as unfinished:
        np.savez_compressed(unfinished, **arrays)
    result = {
        **asdict(trial),
        "guard_step": outcome.guard_step,
        "warning": outcome.warning,
        **{title: {name: float(each[key].mean()) for name, each in policies.items()} for title, key in MEANS.items()},
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        "samples_sha256": file_sha256(run_dir / SAMPLES),
        "rows": [
            without_nan(
                {
                    name: float(f"{value:.5g}")
                    for name, value in row.items()
                    if name in KEPT or name.startswith(("eval/", "guard/"))
                }
            )
            for row in outcome.rows
        ],
    }
    write_json(run_dir / RESULT, sealed(result), indent=None)
    return result


def trial_config(directory: Path, size: Size, trial: Trial, task: ArithmeticConfig) -> TrainConfig:
    """Return the configuration of a trial in a directory that has the start models and the data."""
    data = directory / "data"
    return TrainConfig(
        model=str(directory / "starts" / start_name(trial.ratio)),
        data=str(data / f"train-{trial.seed}.jsonl"),
        eval_data=str(data / "eval.jsonl"),
        reward=(trial.reward,),
        output_dir=directory / "runs" / trial.name,
        max_steps=size.max_steps,
        prompts_per_step=PROMPTS_PER_STEP,
        num_generations=NUM_GENERATIONS,
        max_completion_length=completion_length(task),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_ratio=0.05,
        eval_steps=size.eval_steps,
        eval_generations=TRIAL_EVAL_GENERATIONS,
        guard="warn",
        guard_labels="majority",  # the gold answers are what its choice is judged by
        guard_prompts=size.guard_prompts,
        device="cpu",
        seed=trial.seed,
    )


def read_result(path: Path) -> dict[str, Any]:
    """Read what `run_trial` wrote.

    Raises:
        UserError: it is something else.
    """
    result = read_json(path)
    hint = f"; expected what a trial writes, or {path.name} removed, so that --resume runs it again"
    if not isinstance(result, dict):
        raise UserError(f"output_dir: {path}: got {str(result)[:40]}, expected an object{hint}")
    check_seal(result, f"output_dir: {path}")
    numbers = {name: result.get(name) for name in ("ratio", "seed", "guard_step", "seconds", "cpu_seconds")}
    for name in MEANS:
        means = result.get(name)
        numbers |= {f"{name} {key}": means.get(key) if isinstance(means, dict) else None for key in POLICIES}
    wrong = [name for name, value in numbers.items() if type(value) not in (int, float)]
    if not isinstance(result.get("reward"), str):
        wrong.append("reward")
    rows = result.get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        wrong.append("rows")
    if wrong:
        raise UserError(f"output_dir: {path} has no {wrong[0]}, or one of another type{hint}")
    check_metrics(result["rows"], path, argument="output_dir")
    samples, checksum = path.with_name(SAMPLES), result.pop("samples_sha256", None)
    if checksum is not None and (not samples.is_file() or file_sha256(samples) != checksum):
        raise UserError(
            f"output_dir: {samples} is gone or has changed since the trial wrote it; expected it as it was, or "
            f"{path.name} beside it removed, so that --resume runs the trial again"
        )
    return result


def look_at_policy(model: Path, prompts: Path, max_completion_length: int) -> dict[str, np.ndarray]:
    """What a policy says to the test prompts.

    Returns:
        (P x `TEST_GENERATIONS`,) arrays: correct, parsed and doubt (whether the completion has a question mark, which
        is how the task's teacher shows that he is unsure) as bool; probability, the geometric mean of its tokens'.
    """
    language_model = load_language_model(str(model), device="cpu", dtype="float32")
    encoded = encode_prompts(language_model, read_prompts(str(prompts)), max_completion_length)
    rollout = sample(
        language_model,
        encoded,
        num_generations=TEST_GENERATIONS,
        max_completion_length=max_completion_length,
        temperature=1.0,
        seeds=[(TEST_SEED, index) for index in range(len(encoded))],
    )
    with torch.no_grad():
        stats = Scorer(language_model.model, None)(rollout, 1.0, outputs=("logprob",))
    return {
        "correct": np.array(verifiable(rollout.stated, rollout.answers), dtype=bool),
        "parsed": np.array([each is not None for each in rollout.stated]),
        "doubt": np.array(["?" in text for text in rollout.texts]),
        "probability": inverse_perplexity(stats, rollout.completion_mask).double().numpy(),
    }


def _begin_worker() -> None:
    """Of a worker: its share of the cores, signals left to the process that started it, no life after that one's."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    transformers.utils.logging.disable_progress_bar()

    def watch() -> None:
        lab = multiprocessing.parent_process()
        assert lab is not None
        lab.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _steps_done(run_dir: Path, steps: int) -> int:
    if (run_dir / RESULT).exists():
        return steps
    metrics = run_dir / "metrics.jsonl"
    rows = read_rows(metrics, growing=True) if metrics.exists() else []
    return min(steps - 1, rows[-1]["step"]) if rows and type(rows[-1].get("step")) is int else 0
