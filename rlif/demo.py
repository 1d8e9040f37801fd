"""The demonstration: one small model trained on its own confidence and, from the same start, on right answers.

Self-certainty first helps: the base model is less sure after a slip, so confident solutions tend to be right ones. Then
the reward goes on rising while accuracy falls, because nothing ties confidence to the truth (arXiv 2506.17219 sees the
same in large models). The verifiable reward, which needs labels, keeps rising.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from rlif.config import TrainConfig
from rlif.errors import UserError
from rlif.tasks.arithmetic import ArithmeticConfig, write_jsonl
from rlif.tasks.base_model import MAX_POSITIONS, BaseModelConfig, pretrained_base

if TYPE_CHECKING:
    from rlif.trainer import TrainResult

REWARDS = ("self_certainty", "verifiable")
EVAL_GENERATIONS = 4


@dataclass
class DemoConfig:
    """Show the rise and fall of training on confidence, in a few minutes on a laptop and with no download.

    Pretrains a small model on arithmetic (once: it is cached), trains it with the self-certainty and with the
    verifiable reward, and draws both runs.
    """

    output_dir: Path | None = None
    """New directory for data, runs and the figure. None: runs/demo-DATE-TIME."""

    seed: int = 0
    """Seed of the problems, their order and of sampling."""

    max_steps: int = 100
    """Training steps of each run."""

    learning_rate: float = 6e-5
    """Peak learning rate of both runs."""

    prompts_per_step: int = 32
    """Problems in a step, each with 8 sampled solutions."""

    eval_prompts: int = 640
    """Held-out problems of an evaluation, each with 4 sampled solutions."""

    base: BaseModelConfig = field(default_factory=BaseModelConfig)
    """The model that both runs start from."""

    def validate(self) -> None:
        """Check every value.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        for name, minimum in (("max_steps", 1), ("prompts_per_step", 1), ("eval_prompts", 1), ("seed", 0)):
            if getattr(self, name) < minimum:
                raise UserError(f"{name}: got {getattr(self, name)!r}, expected an integer of at least {minimum}")
        if not 0.0 < self.learning_rate < math.inf:
            raise UserError(f"learning_rate: got {self.learning_rate!r}, expected a finite number greater than 0")
        if self.seed >= 2**63:
            raise UserError(f"seed: got {self.seed!r}, expected an integer below 2**63")
        task = self.base.task
        length = task.operands * (task.digits + 1) + completion_length(task)
        if length > MAX_POSITIONS:
            raise UserError(
                f"base.task: {task.operands} operands of {task.digits} digits take up to {length} tokens with their "
                f"solution, expected at most {MAX_POSITIONS}"
            )
        self.base.validate()


def run_demo(config: DemoConfig) -> None:
    """Run the demonstration and print where everything is.

    Raises:
        UserError: bad input, before any work starts.
        KeyboardInterrupt: Ctrl-C; the run in progress is saved first.
    """
    config.validate()
    output_dir = config.output_dir or Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
    if output_dir.exists():
        raise UserError(f"output_dir: {output_dir} exists, expected a new directory")
    try:
        output_dir.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"output_dir: cannot make {output_dir}: {error.strerror}") from error
    console = Console()
    try:
        model = pretrained_base(config.base, console)
    except BaseException:  # Ctrl-C too: an empty directory would stand in the way of the next try
        output_dir.rmdir()
        raise
    console.print(f"Base model: {model}", soft_wrap=True)

    train_data, eval_data = output_dir / "train.jsonl", output_dir / "eval.jsonl"
    task, train_prompts = config.base.task, config.max_steps * config.prompts_per_step
    write_jsonl(train_data, task, "train", train_prompts, config.seed)
    write_jsonl(eval_data, task, "eval", config.eval_prompts, config.seed)

    from rlif.plot import plot_runs
    from rlif.trainer import train

    results = {}
    for reward in REWARDS:
        results[reward] = train(
            TrainConfig(
                model=str(model),
                data=str(train_data),
                eval_data=str(eval_data),
                reward=(reward,),
                run_dir=output_dir / reward,
                max_steps=config.max_steps,
                prompts_per_step=config.prompts_per_step,
                max_completion_length=completion_length(task),
                learning_rate=config.learning_rate,
                lr_scheduler_type="constant",
                warmup_ratio=0.05,
                eval_generations=EVAL_GENERATIONS,
                guard="warn",
                seed=config.seed,
            )
        )
    figure = output_dir / "figure.png"
    plot_runs({reward: result.rows for reward, result in results.items()}, figure)
    console.print(results_table(results, config.eval_prompts * EVAL_GENERATIONS))
    console.print(f"Figure: {figure}\nData, metrics, samples and models: {output_dir}", soft_wrap=True)


def results_table(results: Mapping[str, TrainResult], eval_samples: int) -> Table:
    """Held-out accuracy of each run: at its start, at its best, where the guard would stop without labels, at its end.

    Each of `eval_samples` completions.
    """
    # Of a share near one half, where it is largest.
    standard_error = 0.5 / math.sqrt(eval_samples)
    table = Table(
        title="Held-out accuracy",
        caption=f"{eval_samples} samples at temperature 1, standard error <= {standard_error:.1%}",
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


def completion_length(task: ArithmeticConfig) -> int:
    """Tokens that hold every solution of the teacher's, and half as many again for a policy that goes astray."""
    # A column: its digits and their signs, a carry with its sign, "=", a sum of up to three symbols, "?", a line break.
    column = 2 * task.operands + 2 + 1 + 3 + 1 + 1
    # The marker, a sign, the digits and a carry, the end.
    answer = 1 + 1 + task.digits + 1 + 1
    return (task.digits * column + answer) * 3 // 2
