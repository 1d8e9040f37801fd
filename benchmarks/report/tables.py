"""Tables of the suites: which is drawn from which results file, and how."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.ops.floor import floor_milliseconds
from benchmarks.report.answering import evidence, word_prompts
from benchmarks.report.levels import levels
from benchmarks.report.markdown import notes, table
from benchmarks.steps.answers import scores

# The ops as their users know them; those without entropy are in the report alone.
README_OPS = ("token_stats", "grpo_loss", "linear_token_stats", "linear_grpo_loss")


def ops(results: dict[str, Any]) -> str:
    """Return one shape of each op: the first that was timed."""
    rows = []
    for op in README_OPS:
        entry = next(each for each in results["entries"] if each["kind"] == "time" and each["op"] == op)
        lines = implementation_rows(entry, memory_of(entry, results))
        rows += [[f"`{op}`, {shape(entry)}" if number == 0 else "", *line] for number, line in enumerate(lines)]
    shown = table(["op and shape", *HEADINGS], rows)
    return f"{shown}\n\n{all_shapes(results)}" + notes(results["machine"]["versions"], missing(results))


def all_shapes(results: dict[str, Any]) -> str:
    """Of every op and shape, those included that no short table shows: between what `rlif`'s speed-ups lie."""
    eager, others, rounds = [], [], []
    for entry in results["entries"]:
        found = {name: each for name, each in entry["implementations"].items() if "forward_backward" in each}
        if entry["kind"] != "time" or not {"rlif", "eager"} <= set(found):
            continue
        medians = {name: each["forward_backward"]["median"] for name, each in found.items()}
        eager.append(found["rlif"]["forward_backward_speedup"]["median"])
        fastest = min(median for name, median in medians.items() if found[name]["package"] != "rlif")
        others.append(fastest / medians["rlif"])
        rounds.append(found["rlif"]["forward_backward"]["n"])
    if not rounds:
        return ""
    return (
        f"Over all {len(rounds)} shapes and ops of the report, `rlif` forward and backward is {min(eager):.1f} to "
        f"{max(eager):.1f} times as fast as eager, and {min(others):.1f} to {max(others):.1f} times as fast as the "
        f"fastest of the others. Medians of {min(rounds)} to {max(rounds)} rounds."
    )


HEADINGS = ["implementation", "forward", "forward + backward", "speed-up (20-80%)", "of the floor", "memory", "error"]
# The work that cannot be avoided, over the time of forward and backward.
RATE = "bytes or FLOP a second"


def all_ops(results: dict[str, Any]) -> str:
    """Return every shape of every op, a table each."""
    parts = []
    for entry in results["entries"]:
        if entry["kind"] == "time":
            rows = implementation_rows(entry, memory_of(entry, results), rates=True)
            parts.append(f"### `{entry['op']}`, {shape(entry)}\n\n{entry['title'][0].upper()}{entry['title'][1:]}.")
            parts.append(table([*HEADINGS, RATE], rows))
            composed: dict[str, list[str]] = {}
            for name, each in entry["implementations"].items():
                composed.setdefault(each["composed"], []).append(name)
            parts += [f"\\* {', '.join(names)}: {what}." for what, names in composed.items() if what]
    for entry in results["entries"]:
        if entry["kind"] == "memory":
            logits, phases = entry["logits_bytes"], ("forward_bytes", "forward_backward_bytes")
            shares = {name: [share(each[p], logits) for p in phases] for name, each in entry["implementations"].items()}
            rows = [[name, *cells] for name, cells in shares.items()]
            parts.append(f"### Extra memory of `{entry['op']}`, {shape(entry)}")
            parts.append(table(["implementation", "forward", "forward + backward"], rows))
    return "\n\n".join(parts)


def implementation_rows(
    entry: dict[str, Any], memory: dict[str, dict[str, float]], *, rates: bool = False
) -> list[list[str]]:
    """A row for each implementation of an entry; \\* marks what had to be composed."""
    rows = []
    for name, each in entry["implementations"].items():
        label = f"{name} \\*" if each["composed"] else name
        worst = f"{max(each['output_error'], each['gradient_error']):.0e}"
        if each["wrong"]:
            rows.append([label, *["wrong"] * 4, "", f"**{worst}**", *[""] * rates])
            continue
        if "forward_backward" not in each:  # interrupted before
            continue
        ratio = each.get("forward_backward_speedup")
        floor = floor_milliseconds(entry, "forward_backward")
        median = each["forward_backward"]["median"]
        extra = memory.get(name)
        cells = [
            f"{each['forward']['median']:.3g} ms",
            f"{median:.3g} ms",
            f"{ratio['median']:.1f}x ({ratio['low']:.1f}-{ratio['high']:.1f})" if ratio else "",
            f"{floor / median:.0%}" if floor else "",
            share(extra["forward_backward_bytes"], entry["logits_bytes"]) if extra else "",
            worst,
        ]
        rows.append([label, *cells, *([rate(entry, median)] if rates else [])])
    return rows


def rate(entry: dict[str, Any], milliseconds: float) -> str:
    """Bytes or operations of the floor over a time of forward and backward."""
    if entry["hidden_size"]:
        operations = 3 * 2 * entry["rows"] * entry["columns"] * entry["hidden_size"]
        return f"{operations / milliseconds / 1e9:.3g} TFLOP/s"
    transfers = 2 if entry["op"] == "grpo_loss" else 3
    return f"{transfers * entry['logits_bytes'] / milliseconds / 1e6:.3g} GB/s"


def share(extra: float, logits: float) -> str:
    return f"{extra / 1e6:.0f} MB ({extra / logits:.0%})"


def shape(entry: dict[str, Any]) -> str:
    hidden = f", H = {entry['hidden_size']}" if entry["hidden_size"] else ""
    return f"{entry['rows']} x {entry['columns']}{hidden}, {entry['dtype']}"


def memory_of(entry: dict[str, Any], results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Peak memory by implementation, where it was measured at the same shape."""
    same = ("op", "rows", "columns", "hidden_size", "dtype")
    for other in results["entries"]:
        if other["kind"] == "memory" and all(other[key] == entry[key] for key in same):
            found: dict[str, dict[str, float]] = other["implementations"]
            return found
    return {}


def missing(results: dict[str, Any]) -> list[str]:
    """What did not take part, and in which op: of the same package others may have."""
    return sorted(f"{label.replace(': ', ' in ', 1)} ({reason})" for label, reason in results["missing"].items())


def static(results: dict[str, Any]) -> str:
    shown = (
        "forward (bf16)", "backward (bf16)", "forward (fp32)", "backward (fp32)", "forward (bf16, unaligned)",
        "grpo statistics (bf16)", "grpo gradient (bf16)",
    )  # fmt: skip
    targets = [
        name for name in ("sm_80", "sm_90", "sm_100", "gfx942") if any(c["target"] == name for c in results["counts"])
    ]
    peers = sorted({c["kernel"] for c in results["counts"] if c["kernel"].startswith("TRL")}, reverse=True)
    rows = []
    for kernel in (*shown, *peers):
        counts = {c["target"]: c for c in results["counts"] if c["kernel"] == kernel}
        cells = [f"{counts[target]['instructions']:.1f}" for target in targets]
        hopper = counts["sm_90"]
        access = f"{hopper['load_bytes']} bytes"
        cells += [f"{hopper['barriers']} / {hopper['shuffles']}", access, str(hopper["registers"])]
        cells += [str(max(c["spills"] for c in counts.values()))]
        rows.append([kernel, *cells])
    return table(["main loop", *targets, "barriers / shuffles", "loads", "registers (sm_90)", "spills"], rows)


def demo(results: dict[str, Any]) -> str:
    rows = []
    for seed, runs in results.get("seeds", {}).items():
        for reward, evaluations in runs.items():
            if reward == "seconds":
                continue
            accuracy = {row["step"]: row["eval/accuracy"] for row in evaluations}
            best = max(accuracy, key=lambda step: accuracy[step])
            last = max(accuracy)
            cells = [f"{accuracy[step]:.1%} at {step:.0f}" for step in (best, last)]
            rows.append([f"`{reward}`", seed, f"{accuracy[0]:.1%}", *cells])
    return table(["trained on", "seed", "start", "best, at step", "last, at step"], rows)


def trainers(results: dict[str, Any], heading: str, rate: str, first: tuple[str, Callable[[Any], str]]) -> str:
    """Draw a row for each trainer: a first cell under its heading, its rate over TRL's, phases, peak memory."""
    entries = results.get("implementations", {})
    title, cell = first
    rows = []
    for name, entry in entries.items():
        speed_up = f"{entry[rate] / entries['TRL'][rate]:.1f}x" if "TRL" in entries else ""
        phases = ", ".join(f"{phase} {s:.1f} s" for phase, s in entry.get("seconds", {}).items() if phase != "step")
        rows.append([name, cell(entry), speed_up, *([phases] if phases else []), f"{entry['peak_bytes'] / 1e9:.1f} GB"])
    phases_too = ["phases of a step"] if any("seconds" in entry for entry in entries.values()) else []
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    shown = table([heading, title, "speed-up", *phases_too, "peak memory"], rows)
    return shown + notes(results["machine"]["versions"], missing, ["trl"])


def training_step(results: dict[str, Any]) -> str:
    """Trainers by their tokens a second."""
    first = "tokens a second", lambda entry: f"{entry['tokens_per_second']:.0f}"
    return trainers(results, "trainer", "tokens_per_second", first)


def trl_step(results: dict[str, Any]) -> str:
    """Trainers by the seconds of a step."""

    def seconds(entry: dict[str, Any]) -> str:
        low, high = entry["step_quartiles"]
        return f"{entry['seconds']['step']:.1f} s ({low:.1f} to {high:.1f})"

    return trainers(results, "trainer", "tokens_per_second", ("step (quartiles)", seconds))


def generation(results: dict[str, Any]) -> str:
    rows = []
    for name, entry in results.get("models", {}).items():
        plain = statistics.median(entry["seconds"]["plain"])
        cells = [f"{entry['tokens'] / plain:.0f}", f"{entry['statistics_share']:+.1%}"]
        rows.append([name, *cells, f"{entry['second_forward_share']:+.1%}"])
    return table(["model", "tokens a second", "with statistics", "with a second forward"], rows)


def self_feedback(results: dict[str, Any]) -> str:
    """Return the method over its seeds, then a DPO step."""

    def rate(entry: dict[str, Any]) -> str:
        low, high = entry["quartiles"]
        return f"{entry['pairs_per_second']:.1f} ({low:.1f} to {high:.1f})"

    method = f"{self_feedback_method(results)}\n\n" if results.get("seeds") else ""
    return method + trainers(results, "DPO", "pairs_per_second", ("pairs a second (quartiles)", rate))


def self_feedback_method(results: dict[str, Any]) -> str:
    seeds = results["seeds"].values()
    trace, answer = "inverse_perplexity", "probability_disparity"
    measured = {
        "accuracy": ("trace", "accuracy", "{:.1%}"),
        "ECE, confidence in the whole solution": ("trace", f"{trace}/ece", "{:.3f}"),
        "Brier score, confidence in the whole solution": ("trace", f"{trace}/brier", "{:.3f}"),
        "AUROC, confidence in the whole solution": ("trace", f"{trace}/auroc", "{:.3f}"),
        "ECE, confidence in the answer's tokens alone": ("answer", f"{answer}/ece", "{:.3f}"),
        "AUROC of the latter": ("answer", f"{answer}/auroc", "{:.3f}"),
    }
    rows = []
    for label, (part, name, form) in measured.items():
        pairs = [[run[part]["models"][model][name] for model in ("start model", "tuned model")] for run in seeds]
        before, after = (form.format(statistics.fmean(pair[side] for pair in pairs)) for side in (0, 1))
        signed = form.replace(":", ":+")
        bounds = interval([end - start for start, end in pairs])
        rows.append([label, before, after, " to ".join(map(signed.format, bounds)).replace("%", " points")])
    shown = table(["mean over seeds", "start model", "tuned model", "change, 95% interval"], rows)
    agreeing, judged = (sum(run["ranking"][key] for run in seeds) for key in ("agreeing", "judged"))
    return (
        f"{shown}\n\n{len(seeds)} seeds, {results['eval_generations']} samples of each of "
        f"{results['questions'] // 2} held-out questions. Of {judged} pairs of a right and a wrong solution, the more "
        f"confident one was the right one in {agreeing / judged:.1%}."
    )


def interval(values: list[float]) -> tuple[float, ...]:
    """Return the 95% interval of the mean of a few normal values (Student's t); nothing of a single one."""
    if len(values) < 2:
        return ()
    mean = statistics.fmean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def answers(results: dict[str, Any]) -> str:
    """Precision and recall of each judge, and the kinds in which it is wrong."""
    rows = []
    for entry in results["entries"]:
        found = scores(entry)
        wrong = [str(int(found[name])) for name in ("false_positives", "false_negatives")]
        rows.append([entry["judge"], f"{found['precision']:.1%}", f"{found['recall']:.1%}", *wrong])
    judges = {entry["judge"]: entry["kinds"] for entry in results["entries"]}
    kinds = []
    for kind, counts in judges["rlif: is_right"].items():
        pairs = sum(counts.values())
        cells = [
            f"{judge[kind].get('wrong, called True', 0)} / {judge[kind].get('right, called False', 0)}"
            for judge in judges.values()
        ]
        kinds.append([kind, str(pairs), *cells])
    pairs = int(scores(results["entries"][0])["pairs"])
    speed = results["comparisons"]
    return (
        table(["judge", "precision", "recall", "false positives", "false negatives"], rows)
        + f"\n\n{pairs} pairs of {len(kinds)} kinds. By kind, false positives / false negatives:\n\n"
        + table(["kind", "pairs", *judges], kinds)
        + f"\n\n{speed['count']:,} comparisons of typical answers, none of which was seen before, take "
        f"{speed['seconds']:.1f} s. math-verify is {results['math_verify']} by its own settings."
    )


def faults(results: dict[str, Any]) -> str:
    """Return what was lost of every command by every kind of hurt."""
    commands = list(dict.fromkeys(cell["command"] for cell in results["entries"]))
    kinds = list(dict.fromkeys(cell["hurt"] for cell in results["entries"]))
    cells = {
        (cell["command"], cell["hurt"]): cell["why_not"] or f"{len(cell['lost'])} lost of {cell['tried']}"
        for cell in results["entries"]
    }
    shown = table(
        ["", *(f"`{each}`" for each in commands)], [[kind, *(cells[each, kind] for each in commands)] for kind in kinds]
    )
    tried = sum(cell["tried"] for cell in results["entries"])
    return f"{shown}\n\n{tried} hurts, {results['by_chance']} of them drawn at random."


def shared_prompts(results: dict[str, Any]) -> str:
    """Return a row for each shape: tokens, times and memory where completions share their prompt, and where not."""
    rows = []
    for entry in results["entries"]:
        shape, seconds, peak = entry["shape"], entry["seconds"], entry["peak_bytes"]
        model = "random" if shape["model"] is None else Path(shape["model"]).name
        again = ", checkpointed" if shape["gradient_checkpointing"] else ""
        sizes = [str(shape[name]) for name in ("prompts", "prompt_length", "completion_length", "num_generations")]
        times = [f"{statistics.median(seconds[arm]):.2f} s" for arm in ("shared", "separate")]
        speedup = entry["speedup"]
        rows.append(
            [
                f"{model}{again}",
                *sizes,
                f"{entry['tokens']['shared'] / entry['tokens']['separate']:.3f}",
                *times,
                f"{speedup['median']:.2f} ({speedup['low']:.2f} to {speedup['high']:.2f})",
                f"{peak['shared'] / peak['separate']:.2f}",
            ]
        )
    headings = ["model", "prompts", "P", "T", "G", "tokens", "shared", "separate", "speed-up (quartiles)", "memory"]
    return table(headings, rows) + notes({}, [f"{name}: {reason}" for name, reason in results["missing"].items()], [])


def architectures(results: dict[str, Any]) -> str:
    """How far each architecture's distributions are from float64, or why it is refused."""
    rows = []
    for entry in results["entries"]:
        name = [entry["name"], entry["special"]]
        if entry["refused"]:
            rows.append([*name, "refused", "", ""])
            continue
        head = "fused" if entry["head"] == "fused" else "its own logits"
        rows.append([*name, head, *(f"{entry[way]:.0e}" for way in ("sampled", "scored"))])
    served = [entry for entry in results["entries"] if not entry["refused"]]
    worst = max(max(entry["sampled"], entry["scored"]) for entry in served)
    return (
        table(["architecture", "what is special", "head", "sampled", "scored"], rows)
        + f"\n\n{len(served)} of {len(rows)} architectures are served, {len(rows) - len(served)} refused. The last two "
        f"columns are the largest difference from float64, in nats, of any token's log-probability, entropy or "
        f"self-certainty; none exceeds {worst:.0e}."
    )


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "static": static,
    "ops": ops,
    "levels": levels,
    "loop": training_step,
    "generation": generation,
    "trl-step": trl_step,
    "self-feedback": self_feedback,
    "demo": demo,
    "answers": answers,
    "faults": faults,
    "architectures": architectures,
}
# What a report says of each suite.
SUITE_TABLES = TABLES | {
    "ops": all_ops,
    "word-prompts": word_prompts,
    "evidence": evidence,
    "shared-prompts": shared_prompts,
}
