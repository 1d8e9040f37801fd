"""Self-feedback (RLSF) on the built-in task, with several seeds, and a DPO step's speed and memory beside TRL's.

    python -m benchmarks.self_feedback [--seeds 0 1 2] [--turns 3] [--parts method dpo] [--output benchmarks/results]

`method` runs `rlif self-feedback` as it comes for every seed (its questions, samples and order of pairs) and keeps
accuracy and calibration on held-out questions before and after, of the confidence that the pairs are ranked by, and of
the answer's tokens alone; and how often the more confident of a right and a wrong solution was the right one. `dpo`
trains the same random model on the same pairs, in float32 and with reference log-probabilities computed before, by
`rlif self-feedback train` and by TRL's DPOTrainer, in turns, each turn in a fresh process. The first step of a turn
warms up; figures are medians over the others of all turns. Peak memory is that of the process, libraries included.
Writes CORES-core-cpu-DATE-self-feedback.json after every seed and turn; what the other part measured on that day stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from benchmarks.memory import resident_bytes
from benchmarks.training_step import Workload as Sizes
from benchmarks.training_step import make_model, timed
from rlif.options.record import CONFIG_FILE
from rlif.self_feedback.command import run as run_self_feedback
from rlif.self_feedback.options import MeasureOptions, RankOptions, SampleOptions, SelfFeedbackConfig
from rlif.tasks.built_in_models import pretrained_base
from rlif.tasks.options import BaseModelConfig

PARTS = ("method", "dpo")


@dataclasses.dataclass
class Workload:
    """What DPO trains, and on how much."""

    vocab_size: int = 32000
    hidden_size: int = 256
    num_layers: int = 4
    pairs_per_step: int = 16
    prompt_length: int = 16
    completion_length: int = 64
    steps: int = 5
    learning_rate: float = 1e-6
    beta: float = 0.2


def run_method(seed: int, questions: int, eval_generations: int) -> dict[str, Any]:
    """Self-feedback from the built-in base model: ranking, and the measures of the start model and of the tuned one."""
    pretrained_base(BaseModelConfig())
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        measure = MeasureOptions(eval_generations=eval_generations)
        config = SelfFeedbackConfig(
            output_dir=directory, seed=seed, built_in_prompts=questions, measure=measure, device="cpu"
        )
        started = time.perf_counter()
        run_self_feedback(config)
        seconds = time.perf_counter() - started
        # The same answers judged by their own tokens alone.
        answers = dataclasses.replace(
            config,
            stage="measure",
            output_dir=Path(scratch) / "answers",
            tuned_model=str(directory / "model"),
            sample=SampleOptions(answer_span="marker"),
            rank=RankOptions(confidence="probability_disparity"),
        )
        answers.output_dir.mkdir()
        shutil.copy(directory / CONFIG_FILE, answers.output_dir)  # that it was the built-in model and its additions
        run_self_feedback(answers)
        return {
            "seconds": seconds,
            "ranking": json.loads((directory / "ranking.json").read_text()),
            "trace": json.loads((directory / "measure.json").read_text()),
            "answer": json.loads((answers.output_dir / "measure.json").read_text()),
        }


def make_preferences(workload: Workload, path: Path) -> None:
    """Pairs of random words for every step, all of one length."""
    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(3, workload.vocab_size)}" for _ in range(count))

    rows = [
        {
            "prompt": words(workload.prompt_length),
            "chosen": " " + words(workload.completion_length),
            "rejected": " " + words(workload.completion_length),
        }
        for _ in range(workload.pairs_per_step * workload.steps)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepare(workload: Workload, directory: Path) -> None:
    """The model and the pairs."""
    sizes = Sizes(vocab_size=workload.vocab_size, hidden_size=workload.hidden_size, num_layers=workload.num_layers)
    make_model(sizes, directory / "model")
    make_preferences(workload, directory / "preferences.jsonl")


def run_rlif(workload: Workload, directory: Path) -> dict[str, Any]:
    """`rlif self-feedback train`."""
    from rlif.self_feedback import train as training
    from rlif.self_feedback.options import TrainOptions

    steps: list[float] = []
    reference: list[float] = []
    # The benchmark times what the loop calls, by the names under which it calls them.
    vars(training)["train_step"] = timed(vars(training)["train_step"], steps)
    vars(training)["reference_logprobs"] = timed(vars(training)["reference_logprobs"], reference)
    options = TrainOptions(
        num_train_epochs=1,
        pairs_per_step=workload.pairs_per_step,
        learning_rate=workload.learning_rate,
        beta=workload.beta,
    )
    run_self_feedback(
        SelfFeedbackConfig(
            stage="train",
            model=str(directory / "model"),
            preferences=directory / "preferences.jsonl",
            output_dir=directory / "run",
            train=options,
            device="cpu",
        )
    )
    rows = [json.loads(line) for line in (directory / "run" / "train-dpo" / "metrics.jsonl").read_text().splitlines()]
    return {"steps": steps, "reference_seconds": sum(reference), "first_loss": rows[0]["loss"]}


def run_trl(workload: Workload, directory: Path) -> dict[str, Any]:
    """TRL's DPOTrainer, gradient checkpointing off."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    steps: list[float] = []

    class Watch(TrainerCallback):
        """Times every step, the optimizer's included."""

        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            steps.append(time.perf_counter() - self.started)

    reference: list[float] = []
    DPOTrainer._precompute_ref_logps = timed(DPOTrainer._precompute_ref_logps, reference)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory / "model", dtype=torch.float32),
        args=DPOConfig(
            output_dir=str(directory / "run"),
            num_train_epochs=1,
            per_device_train_batch_size=workload.pairs_per_step,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=workload.pairs_per_step,
            learning_rate=workload.learning_rate,
            beta=workload.beta,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=load_dataset("json", data_files=str(directory / "preferences.jsonl"), split="train"),
        processing_class=AutoTokenizer.from_pretrained(directory / "model"),
        callbacks=[Watch()],
    )
    trainer.train()
    return {
        "steps": steps,
        "reference_seconds": sum(reference),
        "first_loss": trainer.state.log_history[0]["loss"],
    }


IMPLEMENTATIONS = {"rlif": run_rlif, "TRL": run_trl}


def summary(workload: Workload, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Pairs a second over the steps of all turns but each one's first: median and quartiles; and the peak memory."""
    rates = [workload.pairs_per_step / seconds for turn in turns for seconds in turn["steps"][1:]]
    low, median, high = statistics.quantiles(rates, n=4, method="inclusive")
    return {
        "pairs_per_second": median,
        "quartiles": [low, high],
        "first_loss": turns[0]["first_loss"],
        "peak_bytes": max(turn["peak_bytes"] for turn in turns),
        "turns": turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the method")
    parser.add_argument("--turns", type=int, default=3, help="of each implementation of DPO")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS, help="what to measure")
    parser.add_argument("--questions", type=int, default=400, help="to sample from; half as many are held out")
    parser.add_argument("--eval-generations", type=int, default=16, help="solutions of each held-out question")
    for field in dataclasses.fields(Workload):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help=f"default {field.default}")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="directory to write to")
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, help="run this one's DPO here, and print it")
    arguments = parser.parse_args()
    workload = Workload(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Workload)})
    if arguments.implementation:
        with tempfile.TemporaryDirectory() as scratch:
            prepare(workload, Path(scratch))
            result = IMPLEMENTATIONS[arguments.implementation](workload, Path(scratch))
            print(json.dumps(result | {"peak_bytes": resident_bytes("VmHWM")}))
        return

    results: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "machine": describe(),
        "questions": arguments.questions,
        "eval_generations": arguments.eval_generations,
        "workload": dataclasses.asdict(workload),
        "seeds": {},
        "implementations": {},
        "missing": {},
    }
    path = arguments.output / f"{results['machine']['cores']}-core-cpu-{results['date']}-self-feedback.json"
    path.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        path.write_text(json.dumps(results, indent=1) + "\n")

    if path.exists():
        before = json.loads(path.read_text())
        kept = {"method": ["seeds"], "dpo": ["implementations", "missing"]}
        results |= {key: before[key] for part in PARTS if part not in arguments.parts for key in kept[part]}

    turns: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.turns if "dpo" in arguments.parts else 0):
        for name in IMPLEMENTATIONS:
            options = [f"--{key.replace('_', '-')}={value}" for key, value in dataclasses.asdict(workload).items()]
            command = [sys.executable, "-m", "benchmarks.self_feedback", "--implementation", name, *options]
            process = subprocess.run(command, capture_output=True, text=True)
            if process.returncode:
                lines = process.stderr.strip().splitlines() or [f"it ended with {process.returncode}"]
                results["missing"][name] = lines[-1]
                print(name, results["missing"][name], flush=True)
            else:
                turns.setdefault(name, []).append(json.loads(process.stdout.splitlines()[-1]))
                entry = results["implementations"][name] = summary(workload, turns[name])
                print(
                    f"{name}: {entry['pairs_per_second']:.2f} pairs/s, {entry['peak_bytes'] / 1e9:.2f} GB", flush=True
                )
            save()
    if "method" in arguments.parts:
        for seed in arguments.seeds:
            results["seeds"][seed] = run_method(seed, arguments.questions, arguments.eval_generations)
            save()
    print(path)


if __name__ == "__main__":
    main()
