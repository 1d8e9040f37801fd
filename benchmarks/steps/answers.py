"""Suite `answers`: which pairs of answers do `rlif` and math-verify alone call right?

The pairs are those of `tests/rlif/answers`, by kinds, each with the right verdict. Beside precision and recall it
counts how many comparisons of typical answers a second takes. It needs no GPU.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.runner import Options, Step
from rlif.answers.matching import answers_match, is_right

CASES = Path(__file__).parents[2] / "tests" / "rlif" / "answers" / "cases.jsonl"
COMPARISONS = 100_000

Judge = Callable[[str, str], bool]


def steps(options: Options) -> list[Step]:
    judges: dict[str, Judge] = {
        "rlif: is_right": is_right,
        "rlif: answers_match": answers_match,
        "math-verify": math_verify,
    }
    judging = [Step(name, 30, partial(judge_pairs, name, judge)) for name, judge in judges.items()]
    return [*judging, Step("comparisons", 10, count_comparisons)]


def math_verify(answer: str, gold: str) -> bool:
    """What math-verify says by its own settings, given each answer as the content of a box."""
    from math_verify import parse, verify

    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}")))


def judge_pairs(name: str, judge: Judge, results: dict[str, Any]) -> str:
    counts: dict[str, Counter[str]] = {}
    for case in map(json.loads, CASES.read_text(encoding="utf-8").splitlines()):
        verdict = judge(case["answer"], case["gold"])
        counts.setdefault(case["kind"], Counter())[f"{'right' if case['right'] else 'wrong'}, called {verdict}"] += 1
    results["math_verify"] = version("math-verify")
    entry = {"judge": name, "kinds": {kind: dict(count) for kind, count in counts.items()}}
    results["entries"].append(entry)
    return "precision {precision:.1%}, recall {recall:.1%}".format(**scores(entry))


def scores(entry: dict[str, Any]) -> dict[str, float]:
    """Precision, recall, false positives and false negatives of a judge over all kinds."""
    total: Counter[str] = sum((Counter(count) for count in entry["kinds"].values()), Counter())
    found, missed, taken = total["right, called True"], total["right, called False"], total["wrong, called True"]
    return {
        "precision": found / (found + taken) if found + taken else float("nan"),
        "recall": found / (found + missed),
        "false_positives": taken,
        "false_negatives": missed,
        "pairs": sum(total.values()),
    }


def count_comparisons(results: dict[str, Any]) -> str:
    pairs = typical_pairs(COMPARISONS)
    started = time.perf_counter()
    for pair in pairs:
        answers_match(*pair)
    results["comparisons"] = {"count": len(pairs), "seconds": time.perf_counter() - started}
    return f"{results['comparisons']['seconds']:.1f} s"


def typical_pairs(count: int) -> list[tuple[str, str]]:
    """Pairs of answers that nobody has compared before, nine in ten of them plain numbers."""
    generator = random.Random(0)

    def answer() -> str:
        number = generator.randrange(100_000)
        forms = [f"{number:,}", f"{number / 100:.2f}", f"\\frac{{{number % 50 + 1}}}{{{number % 37 + 2}}}"]
        forms += [f"{number} apples", f"{number % 9}\\sqrt{{{number % 20}}}", f"${number}", f"x^2+{number}x+1"]
        return str(number) if generator.random() < 0.8 else forms[min(int(generator.expovariate(1.0)), len(forms) - 1)]

    return [(answer(), answer()) for _ in range(count)]
