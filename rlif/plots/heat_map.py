"""Completions as HTML in which the colour of each token says how sure the model was of it.

`heat_map` is for notebooks, and `rlif report` colours with the same functions. The stronger the colour, the less sure:
where the entropy is high, self-certainty low, or the token that was drawn improbable. Nothing is loaded from anywhere
and nothing runs: the numbers are shown on hover, by the `title` of each token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rlif.printable import printable
from rlif.scoring.token_confidence import TokenConfidence

# Steps from sure to unsure, each a class of CSS.
LEVELS = 8
# How much of the colour each step lets through, on a light and on a dark background: text stays readable on all.
OPACITY = (0.0, 0.1, 0.2, 0.31, 0.42, 0.54, 0.66, 0.8)
# Share of all tokens on either side of which values have the colours of the ends: a few would leave the others pale.
OUTER = 0.03


@dataclass(frozen=True)
class Measure:
    """One way to say how sure a model was of a token."""

    key: str
    """Begins the classes of its tokens in CSS."""
    title: str
    label: str
    """In the legend, with the unit."""
    unsure_is_high: bool


MEASURES = {
    "entropy": Measure("e", "entropy", "entropy, nats", unsure_is_high=True),
    "self_certainty": Measure("c", "self-certainty", "self-certainty, nats", unsure_is_high=False),
    "logprob": Measure("p", "probability", "probability of the token that was drawn", unsure_is_high=False),
}


@dataclass(frozen=True)
class Scale:
    """Where the colours of a measure begin and end, in nats."""

    sure: float
    unsure: float

    def level(self, value: float | None) -> int | None:
        """Return the step that a value is at, from 0 where the model is sure; None of no value."""
        if value is None or not math.isfinite(value):
            return None
        share = (value - self.sure) / (self.unsure - self.sure) if self.unsure != self.sure else 0.0
        return min(LEVELS - 1, max(0, int(share * LEVELS)))


def scales_of(completions: Iterable[TokenConfidence]) -> dict[str, Scale]:
    """Find scales that serve several completions, so that their colours compare, by name of a measure.

    A measure of which no token has a value has none.
    """
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    for each in completions:
        for name, numbers in each.values.items():
            values[name] += [number for number in numbers if number is not None]
    scales = {}
    for name, found in values.items():
        if found:
            found.sort()
            outer = int(OUTER * len(found))
            low, high = found[outer], found[len(found) - 1 - outer]
            if name == "entropy":
                low = 0.0
            if name == "logprob":
                high = 0.0
            scales[name] = Scale(low, high) if MEASURES[name].unsure_is_high else Scale(high, low)
    return scales


class HeatMap(str):
    """HTML that a notebook shows as such, where it is the last line of a cell."""

    def _repr_html_(self) -> str:
        return str(self)


def heat_map(
    completions: TokenConfidence | Sequence[TokenConfidence],
    by: str = "entropy",
    scales: Mapping[str, Scale] | None = None,
) -> HeatMap:
    """Colour the tokens of completions by how sure the model was of them, as HTML that stands by itself.

    It is text, and a notebook shows the colours.

    Args:
        completions: by `rlif.token_confidence`; of several, each has a block of its own and all have one scale.
        by: "entropy", "self_certainty" or "logprob".
        scales: by `scales_of`, where several heat maps are to compare; None: those of these completions.

    Raises:
        ValueError: there is no such measure, or no token has a value of it.
    """
    shown = [completions] if isinstance(completions, TokenConfidence) else list(completions)
    scales = scales_of(shown) if scales is None else scales
    if by not in MEASURES:
        raise ValueError(f"by: got {by!r}, expected one of {', '.join(MEASURES)}")
    if by not in scales:
        raise ValueError(f"completions: got none with a number in {by}, expected statistics of at least one token")
    blocks = "".join(f'<div class="tokens">{colored_tokens(each, scales)}</div>' for each in shown)
    style = TOKEN_CSS + level_rules(f".rlif-heat-map.by-{by}", by)
    parts = f"<style>{style}</style>{legend(by, scales[by])}{blocks}"
    return HeatMap(f'<div class="rlif-heat-map by-{by}">{parts}</div>')


def colored_tokens(tokens: TokenConfidence, scales: Mapping[str, Scale]) -> str:
    """Return a `<span>` for each token, with the class of its step on each scale; every text is escaped."""
    parts = []
    for place, text in enumerate(tokens.texts):
        values = {name: numbers[place] for name, numbers in tokens.values.items()}
        levels = [(name, scales[name].level(value)) for name, value in values.items() if name in scales]
        classes = " ".join(f"{MEASURES[name].key}{level}" for name, level in levels if level is not None)
        parts.append(f'<span class="t {classes}" title="{escape(_title(text, values))}">{_visible(text)}</span>')
    return "".join(parts)


def legend(by: str, scale: Scale) -> str:
    """Return what the colours of a measure mean: their steps, from sure to unsure, with the numbers at both ends."""
    measure = MEASURES[by]
    steps = "".join(f'<span class="t {measure.key}{level}">&nbsp;</span>' for level in range(LEVELS))
    ends = [_number(by, value) for value in (scale.sure, scale.unsure)]
    return (
        f'<p class="legend"><span>{measure.label}:</span> <span>sure {ends[0]}</span> <span class="steps" '
        f'aria-hidden="true">{steps}</span> <span>{ends[1]} unsure</span></p>'
    )


def level_rules(selector: str, by: str) -> str:
    """Return the CSS that colours tokens by a measure, within what the selector stands for."""
    key = MEASURES[by].key
    return "".join(
        f"{selector} .{key}{level}{{background:rgb(var(--unsure,230 110 20)/{OPACITY[level]})}}"
        for level in range(1, LEVELS)
    )


def summary(tokens: TokenConfidence) -> str:
    """Say in words what the colours show: the means, and the tokens of which the model was least sure."""
    parts = [f"{len(tokens.texts)} tokens"]
    for name in ("entropy", "self_certainty"):
        numbers = [value for value in tokens.values.get(name, ()) if value is not None]
        if numbers:
            parts.append(f"mean {MEASURES[name].title} {sum(numbers) / len(numbers):.3g} nats")
    drawn = [
        (value, text) for value, text in zip(tokens.values.get("logprob", ()), tokens.texts, strict=False)
        if value is not None
    ]  # fmt: skip
    if drawn:
        value, text = min(drawn, key=lambda each: each[0])
        parts.append(f"least probable: {_quoted(text)} ({_number('logprob', value)})")
    return ", ".join(parts)


# What tokens look like in any page. Colours are laid over the background, so that they suit a light and a dark one.
TOKEN_CSS = (
    ".tokens{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7;"
    "font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}"
    ".rlif-heat-map .tokens{margin:.5em 0}"
    ".t{border-radius:3px;padding:.1em 0;print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    ".t:hover{outline:1px solid}"
    ".mark{opacity:.55;font-size:.85em}"
    ".legend{display:flex;flex-wrap:wrap;gap:.2em .6em;align-items:center;margin:.3em 0;font-size:.9em}"
    ".legend .steps{display:inline-flex;border:1px solid rgb(128 128 128/.4);border-radius:4px;overflow:hidden}"
    ".legend .t{width:1.5em;border-radius:0}"
)


def _visible(text: str) -> str:
    """The text of a token as HTML, with a mark where it would show nothing."""
    if not text:
        return '<span class="mark">▪</span>'
    return escape(printable(text)).replace("\n", '<span class="mark">↵</span>\n')


def _title(text: str, values: Mapping[str, float | None]) -> str:
    parts = [_quoted(text)]
    for name, value in values.items():
        shown = "not finite" if value is None else _number(name, value)
        parts.append(f"{MEASURES[name].title} {shown}{'' if name == 'logprob' or value is None else ' nats'}")
    return " · ".join(parts)


def _quoted(text: str) -> str:
    return f"“{printable(text)}”".replace("\n", "↵") if text else "a token without text"


def _number(by: str, value: float) -> str:
    if by != "logprob":
        return f"{value:.3g}"
    probability = math.exp(min(0.0, value))
    return f"{probability:.0%}" if probability >= 0.01 else f"{probability:.1%}" if probability >= 0.001 else "<0.1%"
