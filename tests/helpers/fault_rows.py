"""Every command of rlif in miniature, on the built-in task: how it is started, how it goes on, what it leaves."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import yaml

from rlif.files.jsonl import write_rows
from rlif.tasks.arithmetic import write_jsonl
from tiny_lab import BASE, INSTRUCT, TASK

OUT = "out"


@dataclass(frozen=True)
class Shared:
    """What all commands read, and none changes."""

    base: Path
    instruct: Path
    train_data: Path
    eval_data: Path
    completions: Path
    """With scores, of prompts some of whose answers are right."""
    lab_options: Path
    runs: tuple[Path, ...]
    """Directories with the metrics of runs."""

    @classmethod
    def make(cls, directory: Path) -> Shared:
        """Make it in a directory that exists, with the models in the cache."""
        from rlif.tasks.built_in_models import pretrained_base, tuned_instruct

        files = {name: directory / f"{name}.jsonl" for name in ("train", "eval", "completions")}
        base = {"hidden_size": 64, "num_hidden_layers": 1, "pretraining_steps": 40, "pretraining_batch_size": 16}
        task = {"digits": 2}
        options = {"quick": True, "workers": 2, "base": base | {"task": task}, "instruct": {"task": task, "steps": 5}}
        if not files["train"].exists():
            (directory / "lab.yaml").write_text(yaml.safe_dump(options))
            write_jsonl(files["eval"], TASK, "eval", 6, seed=0)
            groups: list[dict[str, object]] = [
                {
                    "prompt": f"{number}=",
                    "answer": "1",
                    "answers": ["1", "2"],
                    "scores": {"self_certainty": [number, 3]},
                }
                for number in range(6)
            ]
            write_rows(files["completions"], groups)
            for run in ("a", "b"):
                rows = [{"step": step, "eval/accuracy": 0.1 * step} for step in range(3)]
                (directory / run).mkdir()
                write_rows(directory / run / "metrics.jsonl", rows)
            write_jsonl(files["train"], TASK, "train", 8, seed=0)
        return cls(
            base=pretrained_base(BASE),
            instruct=tuned_instruct(INSTRUCT),
            train_data=files["train"],
            eval_data=files["eval"],
            completions=files["completions"],
            lab_options=directory / "lab.yaml",
            runs=(directory / "a", directory / "b"),
        )


@dataclass(frozen=True)
class Row:
    """One command."""

    words: Callable[[Shared], str]
    """Of its command line, in the directory that has `OUT`."""
    goes_on: str | None
    """Words that are added to go on; None: it always begins anew."""
    reads_own_files: bool = True
    """Whether it reads what it has written when it goes on, so that damage to that matters to it."""
    needs_out: bool = False
    """Whether `OUT` must be there before."""
    all_at_once: bool = False
    """Whether what it leaves is whole or not there, whenever it is hurt."""
    hurts: int = 4
    """How often --full sends it each signal, at the most."""
    files_damaged: int = 6
    """How many of its files --full damages in each way; its random hurts draw from all."""
    delay: float = 0.3
    """Seconds between two of its changes at the most, about."""
    miniature: Callable[[], None] | None = None
    """What makes it small, where its options cannot."""
    full_only: bool = False
    """Whether only --full has the time for it."""


def train(shared: Shared) -> str:
    return (
        f"train --model {shared.base} --data {shared.train_data} --eval-data {shared.eval_data} --output-dir {OUT} "
        "--max-steps 3 --prompts-per-step 2 --num-generations 4 --max-completion-length 8 --save-steps 1 "
        "--save-total-limit 2 --eval-steps 1 --eval-generations 2 --guard warn --guard-prompts 4 --learning-rate 1e-3 "
        "--device cpu"
    )


def plot(shared: Shared) -> str:
    return f"plot {' '.join(map(str, shared.runs))} --output {OUT}/figure.png"


def report(shared: Shared) -> str:
    return f"report {' '.join(map(str, shared.runs))} --output {OUT}/report.html"


def demo(shared: Shared) -> str:
    return (
        f"demo --output-dir {OUT} --max-steps 2 --prompts-per-step 2 --eval-prompts 2 --base.task.digits 1 "
        "--base.hidden-size 64 --base.num-hidden-layers 1 --base.pretraining-steps 3 --base.pretraining-batch-size 8"
    )


def lab(shared: Shared) -> str:
    return f"lab --config {shared.lab_options} --output-dir {OUT}"


def diagnose(shared: Shared) -> str:
    return (
        f"diagnose --model {shared.base} --data {shared.eval_data} --output-dir {OUT} --num-prompts 4 "
        "--num-generations 4 --max-completion-length 8 --prompts-per-batch 1 --device cpu --reward majority_vote "
        "--steps 2 --prompts-per-step 2"
    )


def explain(shared: Shared) -> str:
    return (
        f"explain {shared.base} {shared.instruct} --data {shared.eval_data} --output-dir {OUT} --num-prompts 4 "
        "--num-generations 2 --max-completion-length 8 --prompts-per-batch 1 --device cpu"
    )


def convert(shared: Shared) -> str:
    return f"convert {shared.base} --output-dir {OUT}/converted"


def mix(shared: Shared) -> str:
    return f"mix {shared.base} {shared.instruct} --ratio 0.5 --output-dir {OUT}/mixed"


def evaluate(shared: Shared) -> str:
    return (
        f"eval --model {shared.base} --data {shared.eval_data} --output-dir {OUT} --num-generations 4 "
        "--max-completion-length 8 --max-batch-tokens 100 --device cpu"
    )


def retry(shared: Shared) -> str:
    return (
        f"retry --model {shared.base} --data {shared.eval_data} --fit-on {shared.completions} --output-dir {OUT} "
        "--max-rounds 2 --feedback ? --max-completion-length 8 --prompts-per-batch 2 --device cpu"
    )


def introspect(shared: Shared) -> str:
    return (
        f"introspect --model {shared.base} --data {shared.train_data} --eval-data {shared.eval_data} "
        f"--output-dir {OUT} --num-candidates 2 --blind-iterations 1 --feedback ? --turns 2 --max-completion-length 8 "
        "--items-per-step 8 --num-train-epochs 1 --save-steps 1 --prompts-per-batch 4 --learning-rate 1e-4 --device cpu"
    )


def self_feedback(shared: Shared) -> str:
    return (
        f"self-feedback --model {shared.base} --data {shared.train_data} --eval-data {shared.eval_data} --output-dir "
        f"{OUT} --num-generations 4 --max-completion-length 8 --answer-span trace --sampling independent --confidence "
        "inverse_perplexity --threshold 0 --choose-unfinished --num-train-epochs 1 --pairs-per-step 8 --save-steps 1 "
        "--prompts-per-batch 2 --eval-generations 2 --learning-rate 1e-4 --length-conditioned --length-unit tokens "
        "--length-instructions {prompt}?{n} {prompt}+{n} --device cpu"
    )


def make_lab_small() -> None:
    """Make the lab's trials few and short, and fork its workers from where the command was forked."""
    from rlif.lab import command, options, plan

    options.QUICK = options.Size(5, 5, guard_prompts=4, eval_prompts=4, test_prompts=4)
    planned = plan.plan_trials

    def plan_few(config: options.LabConfig) -> list[plan.Trial]:
        """As many as the report needs."""
        few = [each for each in planned(config) if each.ratio in (0.0, 0.5)]
        return [*few, plan.Trial(0, 1.0, "self_certainty")]

    command.plan_trials = plan_few  # type: ignore[assignment]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    command.run_trials.__globals__["run_trial"] = partial(run_small_trial, limits)
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: get_context("forkserver" if method == "spawn" else method)  # type: ignore[assignment,misc]


def run_small_trial(limits: tuple[int, int], *arguments: object) -> object:
    """Run a trial of the lab in miniature, in a worker, with the limits of the lab's process on the size of a file."""
    from rlif.lab import trials

    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    trials.PROMPTS_PER_STEP, trials.NUM_GENERATIONS, trials.TRIAL_EVAL_GENERATIONS = 2, 4, 2
    return trials.run_trial(*arguments)  # type: ignore[arg-type]


ROWS = {
    "train": Row(train, "--resume"),
    "plot": Row(plot, None, reads_own_files=False, needs_out=True, all_at_once=True, delay=0.05),
    "report": Row(report, None, reads_own_files=False, needs_out=True, all_at_once=True, delay=0.05),
    "demo": Row(demo, "--resume", hurts=2),
    "lab": Row(lab, "--resume", hurts=2, files_damaged=3, delay=3.0, miniature=make_lab_small, full_only=True),
    "diagnose": Row(diagnose, "--resume"),
    "explain": Row(explain, "--resume"),
    "convert": Row(convert, None, reads_own_files=False, all_at_once=True),
    "mix": Row(mix, None, reads_own_files=False, all_at_once=True),
    "eval": Row(evaluate, "--resume"),
    "retry": Row(retry, "--resume"),
    "introspect": Row(introspect, "--resume"),
    "self-feedback": Row(self_feedback, ""),
}
