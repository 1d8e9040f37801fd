"""Tables of what language models answer, and of what their confidence knows about it."""

from __future__ import annotations

from typing import Any

from benchmarks.report.markdown import table


def word_prompts(results: dict[str, Any]) -> str:
    """Wordings over the levels that they are compared at, then the recipe's at all levels."""

    def cells(entry: dict[str, Any]) -> list[str]:
        shares = [f"{entry[key]['value']:.0%}" for key in ("ended", "stated", "right", "mixed")]
        shares[2] += f" ± {entry['right']['standard_error']:.0%}"
        return [*shares, f"{entry['tokens']:.0f}"]

    headings = ["ended", "answer stated", "right", "mixed groups", "tokens"]
    wordings = [[e["wording"], str(e["level"]), *cells(e)] for e in results["entries"] if e["wording"] != "recipe"]
    levels = [[str(e["level"]), *cells(e)] for e in results["entries"] if e["wording"] == "recipe"]
    texts = [
        [name, f"{each['system_prompt'] or 'that of the chat template'}".replace("\n", " ⏎ ")]
        for name, each in results["settings"].items()
    ]
    first, recipe = (next(e for e in results["entries"] if (e["wording"] == "recipe") is is_recipe) for is_recipe in (0, 1))
    temperature = results["settings"]["recipe"]["temperature"]
    return (
        f"{table(['wording', 'level', *headings], wordings)}\n\n"
        f"{first['prompts']} problems, {first['completions']} completions a row. The wordings are these system prompts:\n\n"
        f"{table(['wording', 'text'], texts)}\n\n"
        f"With the recipe's, at temperature {temperature:g}, {recipe['prompts']} problems and {recipe['completions']} "
        f"completions a level:\n\n{table(['level', *headings], levels)}\n\n"
        f"Model `{results['model']}`; ± is a standard error over prompts. A group of 4 completions is mixed if some are "
        "right and some are not."
    )


def evidence(results: dict[str, Any]) -> str:
    """Every score, then what is right if it chooses."""

    def interval(entry: dict[str, Any], form: str) -> str:
        value, low, high = (entry[key] for key in ("value", "low", "high"))
        return "" if value is None else f"{value:{form}} ({low:{form}} to {high:{form}})"

    rows = [
        [
            f"`{name}`" if "_" in name or name == "agreement" else name,
            *(interval(entry[key], ".2f") for key in ("auroc", "auroc_within", "length_correlation")),
            f"{entry['isotonic_ece']:.3f}",
            f"{entry['isotonic_brier']:.3f}",
        ]
        for name, entry in results["scores"].items()
    ]
    chosen = [
        [name, interval(entry["right"], ".1%"), "" if name == "majority vote" else interval(entry["over_majority"], "+.1%")]
        for name, entry in results["choices"].items()
    ]
    settings, count = results["settings"], results["num_generations"]
    headings = ["score", "AUROC", "within prompts", "correlation with length", "ECE", "Brier"]
    return (
        f"{table(headings, rows)}\n\n"
        f"{table([f'answer of {count} by', 'right', 'over the majority vote'], chosen)}\n\n"
        f"`{settings['model']}`, `{settings['data']}`, temperature {settings['temperature']:g}: {results['completions']} "
        f"completions of {results['prompts']} prompts, of which {interval(results['stated'], '.1%')} state an answer and "
        f"{interval(results['right'], '.1%')} are right. Brackets hold 95% intervals over resampled prompts. The "
        f"correlation is that within prompts. ECE and Brier score are those of the score made a probability on other "
        f"prompts. Borda votes have the power {results['borda_power']:g}."
    )
