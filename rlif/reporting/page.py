"""The page: one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from rlif.files.versions import versions
from rlif.plots.heat_map import (
    MEASURES,
    TOKEN_CSS,
    Scale,
    colored_tokens,
    legend,
    level_rules,
    scales_of,
    summary,
)
from rlif.printable import one_line, printable
from rlif.reporting.charts import Chart
from rlif.reporting.completions import Shown
from rlif.reporting.evaluations import EvaluationView, side_by_side
from rlif.reporting.intervals import Interval
from rlif.reporting.labs import LabView
from rlif.reporting.runs import RunView, charts_of, run_name
from rlif.scoring.token_confidence import TokenConfidence

TEMPLATE, STYLE = "page.html", "page.css"


@dataclass(frozen=True)
class Subjects:
    """What a page is about."""

    runs: list[RunView]
    labs: list[LabView]
    evaluations: list[EvaluationView] = field(default_factory=list)


def render(subjects: Subjects) -> str:
    """Return the page as text. Everything that comes from files, and so from models, is escaped."""
    scales = scales_of(_shown_tokens(subjects))
    files = [view.files for view in subjects.runs]
    environment = Environment(
        loader=PackageLoader("rlif.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": printable, "line": one_line, "code": _with_code}
    page = environment.get_template(TEMPLATE).render(
        title=_title(subjects),
        style=Markup(_style(environment, scales)),
        measures={name: MEASURES[name].title for name in MEASURES if name in scales},
        legends={name: Markup(legend(name, scale)) for name, scale in scales.items()},
        runs=subjects.runs,
        # A lab's one trial in full has the name that it has there.
        names=[each.path.name if subjects.labs else run_name(each, files) for each in files],
        charts=charts_of(files) if files else [],
        labs=subjects.labs,
        evaluations=subjects.evaluations,
        compared=side_by_side(subjects.evaluations),
        svg=_svg,
        tokens=lambda shown: _tokens(shown, scales),
        token_words=lambda shown: None if shown.sample.tokens is None else summary(shown.sample.tokens),
        written=f"{time.strftime('%Y-%m-%d %H:%M')}, by {versions()}",
    )
    return page.encode("utf-8", "replace").decode()  # half a surrogate pair, which JSON can hold and UTF-8 cannot


def _title(subjects: Subjects) -> str:
    if subjects.labs:
        return "No Free Lunch, in the lab"
    counts = {"run": len(subjects.runs), "evaluation": len(subjects.evaluations)}
    if counts == {"run": 1, "evaluation": 0}:
        return subjects.runs[0].files.title
    if counts == {"run": 0, "evaluation": 1}:
        return f"Evaluation of {subjects.evaluations[0].files.title}"
    return " and ".join(f"{count} {what}{'s' * (count > 1)}" for what, count in counts.items() if count)


def _style(environment: Environment, scales: dict[str, Scale]) -> str:
    """The page's CSS, with the rules by which the measure that is chosen colours the tokens."""
    assert environment.loader is not None
    style = environment.loader.get_source(environment, STYLE)[0]
    chosen = "".join(
        f"{level_rules(f'#by-{name}:checked~main', name)}"
        f"#by-{name}:checked~main .legend-of-{name}{{display:block}}"
        f"#by-{name}:checked~main label[for=by-{name}]{{background:var(--ink);color:var(--page)}}"
        f"#by-{name}:focus-visible~main label[for=by-{name}]{{outline:2px solid var(--accent);outline-offset:2px}}"
        for name in scales
    )
    return f"{style}\n{TOKEN_CSS}\n{chosen}"


def _svg(chart: Chart | Interval) -> Markup:
    return Markup(chart.svg())


def _tokens(shown: Shown, scales: dict[str, Scale]) -> Markup:
    """A completion with its tokens coloured as far as their statistics were kept, and the rest as it is."""
    tokens, text = shown.sample.tokens, shown.sample.completion
    if tokens is None:
        return Markup(escape(printable(text)))
    rest = text[sum(map(len, tokens.texts)) :]
    return Markup(colored_tokens(tokens, scales)) + escape(printable(rest))


def _with_code(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    parts = re.split(r"`([^`]*)`", one_line(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def _shown_tokens(subjects: Subjects) -> list[TokenConfidence]:
    """The tokens of all completions on the page: one scale for them all, so that their colours compare."""
    shown = [each for view in subjects.evaluations for _, ends in view.ends for each in ends]
    for run in subjects.runs:
        shown += [each for group in run.rewarded for each in (*group.highest, *group.lowest)]
        shown += [each for row in run.held_out for each in row if each is not None]
    return [each.sample.tokens for each in shown if each.sample.tokens is not None]
