"""Tables of the suites: which is drawn from which results file, and how."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.report.answering import evidence, word_prompts
from benchmarks.report.collapse import collapse
from benchmarks.report.explain import explain
from benchmarks.report.gpu import gpu_report, gpu_table
from benchmarks.report.guard import guard
from benchmarks.report.introspect import introspect
from benchmarks.report.kl_estimators import kl_estimators
from benchmarks.report.length_conditioned import length_conditioned
from benchmarks.report.levels import levels
from benchmarks.report.markdown import notes, table
from benchmarks.report.ops import all_ops, ops
from benchmarks.report.real_family import real_family
from benchmarks.report.recipe import recipe
from benchmarks.report.releases import releases_report, releases_table
from benchmarks.report.retry import retry
from benchmarks.report.rlcr import rlcr
from benchmarks.report.seen import interval
from benchmarks.report.static import static_report, static_table
from benchmarks.report.verify import verify
from benchmarks.steps.answers import scores


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


def real_step(results: dict[str, Any]) -> str:
    """Trainers of a given model by their tokens a second, and the shape of the step."""
    work = results["workload"]
    models = {entry["model"] for entry in results["implementations"].values()}
    return (
        training_step(results) + f"\n\n{', '.join(sorted(models))}: {work['prompts']} prompts of "
        f"{work['prompt_length']} tokens, {work['num_generations']} completions of at most "
        f"{work['max_completion_length']} tokens of each. All learn from the tokens of {work['rows']} completions at a "
        "time."
    )


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


def real_self_feedback(results: dict[str, Any]) -> str:
    """Return a row for each seed: what the pairs were like, and accuracy and calibration before and after."""
    rows = []
    for entry in results["entries"]:
        before, after = (entry["models"][f"{which} model"] for which in ("start", "tuned"))
        ranking, confidence = entry["ranking"], entry["confidence"]
        rows.append(
            [
                str(entry["seed"]),
                f"{ranking['pairs']}",
                f"{ranking['unanswered'] / ranking['pairs']:.0%}",
                f"{ranking['pair_accuracy']:.0%} of {ranking['judged']}" if ranking["judged"] else "",
                *(f"{row['accuracy']:.1%} ± {row['accuracy_se']:.1%}" for row in (before, after)),
                " to ".join(f"{row['answered']:.0%}" for row in (before, after)),
                " to ".join(
                    f"{row['accuracy'] / row['answered']:.0%}" if row["answered"] else "" for row in (before, after)
                ),
                *(
                    " to ".join("" if row[name] is None else f"{row[name]:.2f}" for row in (before, after))
                    for name in (f"{confidence}/{measure}" for measure in ("auroc", "ece", "brier"))
                ),
                f"{entry['seconds'] / 60:.1f}",
            ]
        )
    headings = [
        "seed",
        "pairs",
        "against no answer",
        "right one preferred",
        "accuracy before",
        "after",
        "answer stated",
        "right if stated",
        "AUROC",
        "ECE",
        "Brier",
        "minutes",
    ]
    missing = [f"{name}: {reason}" for name, reason in results["missing"].items()]
    confidences = ", ".join(sorted({entry["confidence"].replace("_", " ") for entry in results["entries"]}))
    told = f"{results['model']}; confidence is {confidences}, ± a standard error over held-out problems."
    return f"{table(headings, rows)}\n\n{told}" + notes({}, missing, [])


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

    def shown(cell: dict[str, Any]) -> str:
        tried = f"{len(cell['lost'])} lost of {cell['tried']}" if cell["tried"] else "not tried"
        return cell["why_not"] or tried

    cells = {(cell["command"], cell["hurt"]): shown(cell) for cell in results["entries"]}
    drawn = table(
        ["", *(f"`{each}`" for each in commands)], [[kind, *(cells[each, kind] for each in commands)] for kind in kinds]
    )
    tried = sum(cell["tried"] for cell in results["entries"])
    return f"{drawn}\n\n{tried} hurts, {results['by_chance']} of them drawn at random."


def shared_prompts(results: dict[str, Any]) -> str:
    """Return a row for each shape: tokens, times and memory where completions share their prompt, and where not."""
    rows = []
    for entry in results["entries"]:
        shape, seconds, peak = entry["shape"], entry["seconds"], entry["peak_bytes"]
        model = shape["model"] or "random"
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
    "static": static_table,
    "releases": releases_table,
    "gpu": gpu_table,
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
    "shared-prompts": shared_prompts,
    "real-step": real_step,
    "recipe": recipe,
    "kl-estimators": kl_estimators,
    "word-prompts": word_prompts,
    "evidence": evidence,
    "real-self-feedback": real_self_feedback,
    "real-family": real_family,
    "verify": verify,
    "retry": retry,
    "introspect": introspect,
    "length-conditioned": length_conditioned,
    "explain": explain,
    "rlcr": rlcr,
    "collapse": collapse,
    "guard": guard,
}
# What a report says of each suite.
SUITE_TABLES = TABLES | {
    "ops": all_ops,
    "static": static_report,
    "releases": releases_report,
    "gpu": gpu_report,
}
