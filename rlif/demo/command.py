"""The demonstration: one small model trained on its own confidence and, from the same start, on right answers.

Self-certainty first helps: the base model is less sure after a slip, so confident solutions tend to be right ones. Then
the reward goes on rising while accuracy falls, because nothing ties confidence to the truth (arXiv 2506.17219 sees the
same in large models). The verifiable reward, which needs labels, keeps rising.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from rlif.demo.figure import plot_runs
from rlif.demo.options import DemoConfig
from rlif.files.lock import Lock
from rlif.options.record import CONFIG_FILE, check_unchanged, make_directory, output_directory
from rlif.tasks.arithmetic import completion_length, write_jsonl
from rlif.tasks.built_in_models import pretrained_base
from rlif.terminal import make_console
from rlif.training.loop import TrainResult
from rlif.training.options import TrainConfig
from rlif.training.outcome import run_once

DEMO_REWARDS = ("self_certainty", "verifiable")
DEMO_EVAL_GENERATIONS = 4


def run(config: DemoConfig) -> None:
    """Run the demonstration and print where everything is.

    Raises:
        UserError: bad input, before any work starts.
        KeyboardInterrupt: Ctrl-C; the run in progress is saved first, and `--resume` goes on from there.
    """
    config.validate()
    output_dir = output_directory(config, "demo", what="demonstration")
    if config.resume:
        check_unchanged(output_dir, config, changeable=(), what="demonstration", prog="rlif demo")
    console = make_console()
    with Lock(output_dir) as lock:
        make_directory(output_dir, config, lock)
        try:
            model = pretrained_base(config.base, console)
        except BaseException:  # Ctrl-C too: a directory without runs would stand in the way of the next try
            if not config.resume:
                (output_dir / CONFIG_FILE).unlink()
            raise
        console.print(f"Base model: {model}", soft_wrap=True)
        try:
            results = _train_both(config, model, output_dir)
        except KeyboardInterrupt:  # what it says of the run alone would be the lesser advice
            raise KeyboardInterrupt(
                f"the demonstration in {output_dir} is not finished; the same command with --output-dir {output_dir} "
                "--resume goes on with it"
            ) from None
    figure = output_dir / "figure.png"
    plot_runs({reward: result.rows for reward, result in results.items()}, figure)
    console.print(runs_table(results, config.eval_prompts * DEMO_EVAL_GENERATIONS))
    console.print(f"Figure: {figure}\nData, metrics, samples and models: {output_dir}", soft_wrap=True)


def _train_both(config: DemoConfig, model: Path, output_dir: Path) -> dict[str, TrainResult]:
    """Write the data, and train the model on it with each reward; a run that is finished already is not repeated."""
    train_data, eval_data = output_dir / "train.jsonl", output_dir / "eval.jsonl"
    task, train_prompts = config.base.task, config.max_steps * config.prompts_per_step
    write_jsonl(train_data, task, "train", train_prompts, config.seed)
    write_jsonl(eval_data, task, "eval", config.eval_prompts, config.seed)

    results = {}
    for reward in DEMO_REWARDS:
        results[reward] = run_once(
            TrainConfig(
                model=str(model),
                data=str(train_data),
                eval_data=str(eval_data),
                reward=(reward,),
                output_dir=output_dir / reward,
                max_steps=config.max_steps,
                prompts_per_step=config.prompts_per_step,
                max_completion_length=completion_length(task),
                learning_rate=config.learning_rate,
                lr_scheduler_type="constant",
                warmup_ratio=0.05,
                eval_generations=DEMO_EVAL_GENERATIONS,
                guard="warn",
                guard_labels="majority",  # the gold answers are what its choice is judged by
                seed=config.seed,
            )
        )
    return results


def runs_table(results: Mapping[str, TrainResult], eval_samples: int) -> Table:
    """Held-out accuracy of each run: at its start, at its best, where the guard would stop without labels, at its end.

    Each of `eval_samples` completions.
    """
    # Of a share near one half, where it is largest.
    standard_error = 0.5 / math.sqrt(eval_samples)
    table = Table(
        title="Held-out accuracy",
        caption=f"{eval_samples} samples at temperature 1, standard error <= {standard_error:.1%}",
        pad_edge=False,  # which leaves room for the names in a terminal of 80 columns
    )
    for header in ("trained on", "start", "best", "at step", "guard's", "at step", "last", "at step"):
        table.add_column(header, justify="left" if header == "trained on" else "right")
    for reward, result in results.items():
        accuracy = {int(row["step"]): row["eval/accuracy"] for row in result.rows if "eval/accuracy" in row}
        assert result.best_step is not None
        assert result.guard_step is not None
        cells = [reward, f"{accuracy[0]:.1%}"]
        for step in (result.best_step, result.guard_step, result.last_step):
            cells += [f"{accuracy[step]:.1%}", str(step)]
        table.add_row(*cells)
    return table
