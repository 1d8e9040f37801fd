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
    compared = [entry for entry in results["entries"] if entry["wording"] != "recipe"]
    recipe = [entry for entry in results["entries"] if entry["wording"] == "recipe"]
    warmer = [entry for entry in recipe if entry["temperature"] != results["temperature"]]
    levels = [entry for entry in recipe if entry["temperature"] == results["temperature"]]
    texts = [
        [name, (each["system_prompt"] or "that of the chat template").replace("\n", " ⏎ "), str(each["shots"])]
        for name, each in results["wordings"].items()
    ]

    def drawn(first: str, entries: list[dict[str, Any]], key: str) -> str:
        return table([first, *headings], [[str(entry[key]).removesuffix(".0"), *cells(entry)] for entry in entries])

    return (
        f"Level {compared[0]['level']} at temperature {results['temperature']:g}, {compared[0]['prompts']} problems "
        f"and {compared[0]['completions']} completions a row:\n\n{drawn('wording', compared, 'wording')}\n\n"
        f"{table(['wording', 'system prompt', 'solved problems before it'], texts)}\n\n"
        f"The recipe's wording on the same problems at other temperatures:\n\n"
        f"{drawn('temperature', warmer, 'temperature')}\n\n"
        f"And on problems of all levels, {levels[0]['prompts']} problems and {levels[0]['completions']} completions a "
        f"row:\n\n{drawn('level', levels, 'level')}\n\n"
        f"Model `{results['model']}`; ± is a standard error over prompts. A group of {results['num_generations']} "
        "completions is mixed if some are right and some are not."
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
        [
            name,
            interval(entry["right"], ".1%"),
            "" if name == "majority vote" else interval(entry["over_majority"], "+.1%"),
        ]
        for name, entry in results["choices"].items()
    ]
    settings, count = results["settings"], results["num_generations"]
    headings = ["score", "AUROC", "within prompts", "correlation with length", "ECE", "Brier"]
    return (
        f"{table(headings, rows)}\n\n"
        f"{table([f'answer of {count} by', 'right', 'over the majority vote'], chosen)}\n\n"
        f"`{settings['model']}`, `{settings['data']}`, temperature {settings['temperature']:g}: "
        f"{results['completions']} completions of {results['prompts']} prompts, of which "
        f"{interval(results['stated'], '.1%')} state an answer and {interval(results['right'], '.1%')} are right. "
        "Brackets hold 95% intervals over resampled prompts. The correlation is that within prompts. ECE and Brier "
        "score are those of the score made a probability on other "
        f"prompts. Borda votes have the power {results['borda_power']:g}."
    )
