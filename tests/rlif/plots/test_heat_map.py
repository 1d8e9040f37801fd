"""Colours say how sure a model was of each token, and a token shows what it is."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import rlif
from rlif.plots.heat_map import LEVELS, MEASURES, Scale, colored_tokens, heat_map, legend, scales_of, summary
from rlif.scoring.token_confidence import TokenConfidence

TOKENS = TokenConfidence(
    ["a", "<b>", "\n", ""],
    {"logprob": [0.0, -0.7, -2.3, -4.6], "entropy": [0.0, 0.5, 1.0, 2.0], "self_certainty": [9.0, 6.0, 4.0, 1.0]},
)


class Spans(HTMLParser):
    """The tokens of a heat map: class and title, and the text of all."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.tokens: list[dict[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = {name: value or "" for name, value in attrs}
        if "title" in found:
            self.tokens.append(found)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_least_sure_token_has_the_strongest_colour_by_every_measure() -> None:
    spans = Spans(colored_tokens(TOKENS, scales_of([TOKENS])))
    first, *_, last = (set(each["class"].split()) for each in spans.tokens)
    for measure in MEASURES.values():
        assert f"{measure.key}0" in first
        assert f"{measure.key}{LEVELS - 1}" in last


@pytest.mark.parametrize(
    ("value", "level"),
    [(0.0, 0), (1.99, 7), (2.0, 7), (1.0, 4), (-5.0, 0), (1e30, 7), (None, None), (float("nan"), None)],
)
def test_a_value_beyond_the_scale_has_the_colour_of_its_end_and_no_value_has_none(value, level) -> None:
    assert Scale(0.0, 2.0).level(value) == level


def test_tokens_that_are_all_alike_are_not_coloured() -> None:
    assert Scale(1.5, 1.5).level(1.5) == 0


def test_a_few_outliers_leave_the_other_tokens_their_colours() -> None:
    many = TokenConfidence(["x"] * 100, {"entropy": [0.1 * place for place in range(99)] + [1000.0]})
    assert scales_of([many])["entropy"].unsure < 10


def test_of_tokens_without_statistics_nothing_is_coloured() -> None:
    bare = TokenConfidence(["a", "b"], {})
    assert scales_of([bare]) == {}
    assert re.search("[ecp][0-7]", colored_tokens(bare, {})) is None
    with pytest.raises(ValueError, match="completions: got none with a number in entropy"):
        heat_map(bare)


def test_text_is_escaped_and_what_shows_nothing_has_a_mark() -> None:
    spans = Spans(colored_tokens(TOKENS, scales_of([TOKENS])))
    assert set(spans.tags) == {"span"}
    assert spans.text == "a<b>↵\n▪"
    assert spans.tokens[1]["title"] == "“<b>” · probability 50% · entropy 0.5 nats · self-certainty 6 nats"
    assert spans.tokens[3]["title"].startswith("a token without text · probability 1%")


def test_a_heat_map_stands_by_itself_and_says_what_its_colours_mean() -> None:
    for by in MEASURES:
        html = heat_map([TOKENS, TOKENS], by=by)
        assert html.count('<div class="tokens">') == 2
        assert legend(by, scales_of([TOKENS])[by]) in html
        assert f".by-{by} .{MEASURES[by].key}7{{background" in html
        assert "http" not in html
    assert heat_map(TOKENS) == rlif.heat_map([TOKENS], by="entropy")
    with pytest.raises(ValueError, match="by: got 'colour', expected one of entropy, self_certainty, logprob"):
        heat_map(TOKENS, by="colour")


def test_words_say_what_the_colours_show() -> None:
    said = summary(TOKENS)
    assert said == (
        "4 tokens, mean entropy 0.875 nats, mean self-certainty 5 nats, least probable: a token without text (1%)"
    )
