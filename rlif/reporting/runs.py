"""What the page says of one run: what it was, how it went, what the guard decided, and which completions it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlif.answers.gold import in_words
from rlif.answers.matching import is_right
from rlif.answers.math_verification import limited_cost
from rlif.errors import UserError
from rlif.options.fields import options_of
from rlif.plots.runs import PANELS
from rlif.reporting.charts import Chart, Line
from rlif.reporting.decisions import GuardReport, guard_report
from rlif.reporting.run_files import METRICS, RunFiles, Sample, steps_of
from rlif.training.options import TrainConfig

# Held-out prompts of which completions are shown, of the first that are kept.
SHOWN_PROMPTS = 4
# Completions of a step that are shown on either side, of those rewarded most and least.
SHOWN_EXTREMES = 2
# Metrics that are shares.
PERCENT = {"accuracy", "eos_rate", "consensus"}
SUMMARY = {**PANELS, "consensus": "share that agrees with the start model"}


@dataclass(frozen=True)
class Shown:
    """One completion on the page."""

    sample: Sample
    verdict: str
    """What became of its answer, in words."""
    is_right: bool | None
    """None where nothing tells."""


@dataclass(frozen=True)
class Rewarded:
    """The completions of one step that were rewarded most and least."""

    step: int
    highest: list[Shown]
    lowest: list[Shown]


@dataclass(frozen=True)
class Column:
    """A step whose numbers and completions are shown."""

    step: int
    title: str


@dataclass(frozen=True)
class RunView:
    """Everything that the page says of one run."""

    files: RunFiles
    state: str
    facts: list[tuple[str, str]]
    changed: list[tuple[str, str]]
    """Options that are not at their defaults."""
    columns: list[Column]
    summary: list[tuple[str, list[str]]]
    """Metrics, each with its value at the columns."""
    guard: GuardReport | None
    guard_note: str
    rewarded: list[Rewarded]
    held_out: list[list[Shown | None]]
    """Of some held-out prompts the completion at each of the columns."""
    note: str | None
    """Why completions have no colours, where they have none."""


def view_run(files: RunFiles) -> RunView:
    """Put together what the page says of a run.

    Raises:
        UserError: its metrics are damaged.
    """
    try:
        guard = guard_report(files.metrics, files.option("guard_patience"))
    except ValueError as error:
        raise UserError(f"runs: {files.path / METRICS}: {error}") from error
    columns = columns_of(files, guard)
    with limited_cost():
        rewarded = [_rewarded(files.samples, step) for step in _ends(steps_of(_with_reward(files.samples), "train"))]
        held_out = _held_out(files.samples, [column.step for column in columns])
    return RunView(
        files=files,
        state=state_of(files, guard),
        facts=_facts(files),
        changed=_changed(files),
        columns=columns,
        summary=_summary(files.metrics, columns),
        guard=guard,
        guard_note=_guard_note(files, guard),
        rewarded=rewarded,
        held_out=held_out,
        note=_note(rewarded, held_out),
    )


def state_of(files: RunFiles, guard: GuardReport | None) -> str:
    """Say whether a run is finished, and how it ended."""
    last, planned = files.last_step, files.options.get("max_steps")
    of = f"step {last}" if planned is None else f"step {last} of {planned}"
    if files.is_running:
        return f"Still running: {of}. The page shows what there is so far."
    if files.has_model and (planned is None or last >= planned):
        return f"Finished after step {last}."
    if files.has_model and guard is not None and guard.would_stop == last and files.option("guard") == "stop":
        return f"Ended by the guard at {of}."
    if files.has_model:
        return f"Not finished: stopped at {of}, where its model was saved."
    return f"Not finished: stopped at {of}. rlif train --resume goes on with it if it has a checkpoint."


def columns_of(files: RunFiles, guard: GuardReport | None) -> list[Column]:
    """Return the steps at which a run is looked at: the first, that of the guard's choice, and the last."""
    evaluated = [int(row["step"]) for row in files.metrics if any(name.startswith("eval/") for name in row)]
    steps = evaluated or [int(row["step"]) for row in files.metrics]
    names: dict[int, list[str]] = {steps[0]: ["start" if steps[0] == 0 else "first"]}
    if guard is not None and guard.best_step in steps:
        names.setdefault(guard.best_step, []).append("guard's choice")
    names.setdefault(steps[-1], []).append("last")
    return [Column(step, " and ".join(names[step])) for step in sorted(names)]


def charts_of(runs: Sequence[RunFiles]) -> list[Chart]:
    """Return a panel for each metric that any run has, held out where there is an evaluation, else of training.

    Of a single run a mark shows the guard's choice.
    """
    charts = []
    for metric, title in SUMMARY.items():
        names = [f"eval/{metric}", metric]
        found = next((name for name in names if any(name in row for run in runs for row in run.metrics)), None)
        if found is None:
            continue
        lines = [_line(found, run, runs, number) for number, run in enumerate(runs)]
        marks: list[tuple[float, str]] = []
        if len(runs) == 1 and (best := _best_step(runs[0])) is not None:
            marks.append((best, f"the guard's choice, step {best}"))
        note = "held out" if found != metric else "in training"
        if metric == "reward" and len({run.title for run in runs}) > 1:  # each in a unit of its own
            charts += [Chart(f"Reward of {line.name}", [line], note=note) for line in lines]
        else:
            charts.append(Chart(_sentence(title), lines, note=note, percent=metric in PERCENT, marks=marks))
    return [chart for chart in charts if chart.svg()]


def _line(metric: str, run: RunFiles, runs: Sequence[RunFiles], number: int) -> Line:
    rows = [row for row in run.metrics if metric in row]
    return Line(run_name(run, runs), [row["step"] for row in rows], [row[metric] for row in rows], number)


def run_name(run: RunFiles, runs: Sequence[RunFiles]) -> str:
    """Name a run: by its rewards where that tells it from the others, else by its directory."""
    titles = [each.title for each in runs]
    return run.title if titles.count(run.title) == 1 else str(run.path)


def shown_value(metric: str, value: float | None) -> str:
    """Write a metric for people; nothing where there is none."""
    if value is None:
        return "—"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.1%}" if metric in PERCENT else f"{value:.4g}"


def _best_step(run: RunFiles) -> int | None:
    report = guard_report(run.metrics, run.option("guard_patience"))
    return None if report is None else report.best_step


def _summary(rows: Sequence[Mapping[str, float]], columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    by_step = {int(row["step"]): row for row in rows}
    table = []
    for metric, title in SUMMARY.items():
        for name, suffix in ((f"eval/{metric}", "held out"), (metric, "in training")):
            cells = [by_step[column.step].get(name) for column in columns]
            if any(cell is not None for cell in cells):
                table.append((f"{_sentence(title)} ({suffix})", [shown_value(metric, cell) for cell in cells]))
                break
    return table


def _facts(files: RunFiles) -> list[tuple[str, str]]:
    """What the run was: what a reader asks first."""
    options = files.options
    if not options:
        return [("Record", "The directory has no config.yaml, so that nothing says what the run was.")]
    option = files.option
    facts = [
        ("Start model", str(option("model"))),
        ("Prompts", str(option("data"))),
        ("Held-out prompts", str(option("eval_data") or "held out of the prompts, for the guard")),
        ("Reward", ", ".join(map(str, option("reward")))),
        (
            "A step",
            f"{option('prompts_per_step')} prompts x {option('num_generations')} completions of at most "
            f"{option('max_completion_length')} tokens, at temperature {option('temperature'):g}",
        ),
        (
            "Loss",
            f"{option('loss_type')}, KL weight {option('beta'):g}, learning rate {option('learning_rate'):g}, "
            f"seed {option('seed')}",
        ),
        ("Weights", f"LoRA of rank {option('lora_rank')}" if option("lora_rank") else "all are trained"),
        ("Guard", f"{option('guard')}, patience {option('guard_patience')}"),
    ]
    if files.versions:
        facts.append(("Versions", files.versions))
    return facts


def _changed(files: RunFiles) -> list[tuple[str, str]]:
    known = options_of(TrainConfig)
    return [
        (name, _written(value))
        for name, value in files.options.items()
        if known[name].required or value != known[name].default()
    ]


def _written(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _guard_note(files: RunFiles, guard: GuardReport | None) -> str:
    """Say what the guard's decisions led to."""
    if guard is None:
        off = files.options.get("guard") == "off"
        return "The run had no guard." if off else "The guard has seen no evaluation yet."
    collapse = f" {_sentence(guard.collapse)}." if guard.collapse else ""
    if guard.best_step is None:
        return f"Every policy that the guard saw counts as degenerate.{collapse}"
    sentence = (
        f"The guard takes the policy of step {guard.best_step} for the best; best/ in the run's directory has it."
    )
    if guard.would_stop is not None and files.last_step > guard.would_stop:
        sentence += f" Its patience was over at step {guard.would_stop}; the run went on, since it was only to warn."
    return sentence + collapse


def _ends(steps: Sequence[int]) -> list[int]:
    return list(dict.fromkeys([steps[0], steps[-1]])) if steps else []


def _with_reward(samples: Sequence[Sample]) -> list[Sample]:
    return [each for each in samples if each.reward is not None]


def _rewarded(samples: Sequence[Sample], step: int) -> Rewarded:
    found = [each for each in _with_reward(samples) if each.split == "train" and each.step == step]
    found.sort(key=lambda each: -(each.reward or 0.0))
    count = min(SHOWN_EXTREMES, max(1, len(found) // 2))
    return Rewarded(step, _shown(found[:count]), _shown(found[max(count, len(found) - count) :]))


def _held_out(samples: Sequence[Sample], steps: Sequence[int]) -> list[list[Shown | None]]:
    """The completions of the same prompts at each of the steps; a prompt may be there more than once."""
    at = {step: [each for each in samples if each.split == "eval" and each.step == step] for step in steps}
    table = []
    for number in range(min(SHOWN_PROMPTS, max(map(len, at.values()), default=0))):
        found = [at[step][number] if number < len(at[step]) else None for step in steps]
        prompts = {each.prompt for each in found if each is not None}
        if len(prompts) == 1:
            table.append([None if each is None else _shown([each])[0] for each in found])
    return table


def _shown(samples: Sequence[Sample]) -> list[Shown]:
    return [Shown(each, *_verdict(each)) for each in samples]


def _verdict(sample: Sample) -> tuple[str, bool | None]:
    ending = "" if sample.finished else ", cut off"
    if sample.stated is None:
        return f"states no answer{ending}", False if sample.answer is not None else None
    if sample.answer is None:
        return f"states {sample.stated}{ending}", None
    if is_right(sample.stated, sample.answer):
        return f"right: {sample.stated}{ending}", True
    return f"states {sample.stated}, right is {in_words(sample.answer)}{ending}", False


def _note(rewarded: Sequence[Rewarded], held_out: Sequence[Sequence[Shown | None]]) -> str | None:
    shown = [each for group in rewarded for each in (*group.highest, *group.lowest)]
    shown += [each for row in held_out for each in row if each is not None]
    if not shown:
        return "The run has kept no completions yet."
    if any(each.sample.tokens is not None for each in shown):
        return None
    return "These completions have no colours: the version of rlif that ran kept no statistics of their tokens."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
