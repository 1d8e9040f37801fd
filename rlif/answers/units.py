r"""The unit of an answer: `7\text{ cm}` is 7 and cm, `$72` is 72 dollars, `42 apples` is 42.

Units of measurement are kept, since 7 cm is not 7 m. Dollars and degrees, which answers have with and without a sign,
and things that are counted (apples, dollars, people) are left out: the question says what is counted.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Each unit with the other ways to write it, without plural s.
_ALIASES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre kms",
    "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram gm",
    "kg": "kilogram kilo kgs", "lb": "pound lbs", "oz": "ounce", "ton": "tonne", "ml": "milliliter millilitre",
    "cl": "centiliter", "l": "liter litre", "gal": "gallon", "qt": "quart", "pt": "pint", "cup": "",
    "s": "second sec secs", "min": "minute mins", "h": "hour hr hrs", "day": "", "week": "wk", "month": "",
    "year": "yr yrs", "am": "a.m. a.m", "pm": "p.m. p.m", "mph": "miles per hour|mi/h|miles/hour",
    "kmh": "km/h|kph|kmph|kilometers per hour",
    "m/s": "meters per second|meter/second",
    "ft/s": "feet per second|fps", "cents": "cent \u00a2", "eur": "\u20ac euro",
    "gbp": "\u00a3", "jpy": "\u00a5 yen", "inr": "\u20b9 rupee rs", "n": "newton", "j": "joule", "w": "watt",
    "kw": "kilowatt",
    "v": "volt", "hz": "hertz", "pa": "pascal", "mol": "mole", "degc": r"^\circ c|celsius|degrees celsius",
    "degf": r"^\circ f|fahrenheit|degrees fahrenheit", "rad": "radian", "acre": "", "hectare": "ha", "mb": "megabyte",
    "gb": "gigabyte", "dozen": "", "pair": "", "quarter": "", "kelvin": "", "ppm": "parts per million",
}  # fmt: skip
# Units that say nothing beside the question: answers have them or not. So do the words "7 more" and "7 left".
BARE_UNITS = frozenset({"$", "degrees", "things", "more", "left"})
_BARE_ALIASES = {
    "$": ("dollar", "usd", "us$", "buck", r"\$", "$"),
    "degrees": ("degree", "deg"),
    "things": ("unit", "point", "time", "people"),
}
_MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Words that say more about a number than what is counted.
_NO_NOUNS = frozenset(
    [
        "or", "and", "to", "than", "minus", "plus", "times", "over", "by", "between", "not",
        "no", "negative", "half", "halves", "third", "thirds", "fourth", "fourths", "fifth", "fifths", "sixth",
        "sixths", "seventh", "sevenths", "eighth", "eighths", "ninth", "ninths", "tens", "tenth", "hundredth",
        "thousandth", "tenths", "hundreds", "hundredths", "thousandths", "point",
        "squared", "cubed", "from", "at", "least", "most", "about", "around",
        "approximately", "if", "when", "then", "is", "are", "was", "equals", "equal", "mod", "modulo", "base",
        "if", "infinity", "none", "all", "both", "th", "st", "nd", "rd", "choose", "factorial", "root",
        "square-root", "below", "above", "under", "zero", "divided", "multiplied",
    ]
)  # fmt: skip
# Words with an opposite, which are kept: 5 miles north are not 5 miles south.
_OPPOSITES = frozenset(
    [
        "north", "south", "east", "west", "northeast", "northwest", "southeast", "southwest", "up", "down", "upward",
        "downward", "left", "right", "forward", "forwards", "backward", "backwards", "clockwise", "counterclockwise",
        "anticlockwise", "more", "less", "fewer", "increase", "decrease", "profit", "gain", "loss", "surplus",
        "deficit", "wins", "losses", "won", "lost", "early", "late", "earlier", "later", "ahead", "behind", "older",
        "younger", "taller", "shorter", "longer", "higher", "lower", "faster", "slower", "heavier", "lighter",
        "larger", "ago", "bigger", "greater", "smaller", "noon", "midnight", "morning", "afternoon", "evening",
    ]
)  # fmt: skip
_COMPASS = frozenset("nsew")
# An hour, per day, each week.
_RATE = re.compile(r"(?:(?P<above>.+) )?(?:per|an?|each|every) (?P<below>[a-z]+)")
_WORDS = re.compile(
    r"(?:\s*\\(?:text|textrm|mathrm|mbox|hbox|operatorname|rm)\s*\{\s*(?P<command>[^{}\\]{1,60}?)\s*\}"
    r"|(?P<space>\s*)(?P<plain>[A-Za-z\u00a2\u20ac\u00a3][A-Za-z/.'\- ]{0,60}?))"
    r"\s*(?:\^\s*\{?\s*(?P<power>[23])\s*\}?)?\s*$"
)
_DEGREES = re.compile(r"\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\(?:text|mathrm|rm)\s*\{\s*([CF])\s*\}|([CF]))?\s*$")
_ANGLE_FUNCTION = re.compile(r"sin|cos|tan|cot|sec|csc")
_CURRENCY = re.compile(r"^\s*(-?)\s*(\\\$|US\$|\$|USD|\u20ac|\u00a3|\u00a5|\u20b9|Rs\.?)\s*(?=[-0-9.\\(])")
_NOUN = re.compile(r"[A-Za-z][A-Za-z'-]*(?: [A-Za-z][A-Za-z'-]*){0,5}")
_OPERAND_END = re.compile(r"[0-9)}|\]]\s*$|\\pi\s*$")


def _table() -> dict[str, str]:
    table = {}
    for unit, aliases in _ALIASES.items():
        table[unit] = unit
        for alias in aliases.split("|") if "|" in aliases else aliases.split():
            table[alias.strip()] = unit
    for unit, names in _BARE_ALIASES.items():
        table |= dict.fromkeys(names, unit)
    return table


_TABLE = _table()


def split_currency(text: str) -> tuple[str, str]:
    """Divide an answer into the amount and the one name of the currency before it, or "" if there is none."""
    currency = _CURRENCY.match(text)
    if currency is None or text.count("$") > 1:  # $72$ is mathematics
        return text, ""
    return currency[1] + text[currency.end() :], _TABLE[currency[2].lower().rstrip(".")]


def split_unit(text: str, unit: str = "") -> tuple[str, str, int]:
    r"""Divide an answer into what is before its unit, the unit's one name, and the power of ten of "million".

    Args:
        text: in one notation, with its `\text{…}`.
        unit: what the answer's currency said; "" for nothing.

    Returns:
        The unit is "" where there is none, and one of `BARE_UNITS` where it says nothing beside the question. A rate
        or a word with an opposite follows it, apart by a space.
    """
    degrees = _DEGREES.search(text)
    if degrees and _OPERAND_END.search(text, 0, degrees.start()) and not _ANGLE_FUNCTION.search(text):
        scale = degrees[1] or degrees[2]
        return text[: degrees.start()], f"deg{scale.lower()}" if scale else unit or "degrees", 0
    words = _WORDS.search(text)
    if words is None or not _OPERAND_END.search(text, 0, words.start()):
        return text, unit, 0
    found = _named(words, "\\" in text)
    if found is None:
        return text, unit, 0
    named, exponent = found
    kept = " ".join(sorted(_opposites(words["command"] or words["plain"])))
    unit = unit or named
    if named.startswith("/"):
        unit = named if unit == named else f"{unit} {named}"
    if kept:
        unit = f"{unit} {kept}"
    return text[: words.start()], unit, exponent


def _opposites(written: str) -> frozenset[str]:
    first, *rest = written.lower().split()
    return (_OPPOSITES & {first, *rest}) | (_COMPASS & set(rest))


def _named(words: re.Match[str], latex: bool) -> tuple[str, int] | None:
    """The one name of a unit and a power of ten; None if the words are no unit."""
    written = words["command"] or words["plain"]
    exponent = 0
    first, _, rest = written.partition(" ")
    if first.lower() in _MULTIPLIERS:
        exponent, written = _MULTIPLIERS[first.lower()], rest.strip()
        if not written:
            return "", exponent
    name = _rate(written.lower()) or _unit(written)
    if name is not None:
        if words["command"] is None and len(written) == 1 and (latex or not words["space"]):
            return None  # 7m is a product
        return name + ("" if name in BARE_UNITS else words["power"] or ""), exponent
    if words["power"] or not _NOUN.fullmatch(written):
        return None
    if words["command"] is None and (not words["space"] or max(map(len, written.split())) < 3):
        return None
    return None if _NO_NOUNS.intersection(written.lower().split()) else ("things", exponent)


def _rate(written: str) -> str | None:
    """A rate by time or measure of things that are counted: "an hour" and "apples per hour" are `/h`."""
    rate = _RATE.fullmatch(written)
    below = _unit(rate["below"]) if rate else None
    if rate is None or below is None or below in BARE_UNITS:
        return None
    named = _TABLE.get(f"{rate['above']} per {rate['below']}")
    if named is not None:
        return named
    above = _unit(rate["above"]) if rate["above"] else None
    return f"/{below}" if above is None or above in BARE_UNITS else _ratio(above, below)


def _ratio(above: str, below: str) -> str:
    return _TABLE.get(f"{above}/{below}", f"{above}/{below}")


@lru_cache(maxsize=4096)
def _unit(written: str) -> str | None:
    """The one name of a unit, None for any other words."""
    text = " ".join(written.lower().split())
    for prefix in ("square ", "sq ", "sq. ", "cubic ", "cu ", "cu. "):
        if text.startswith(prefix):
            inner = _unit(text.removeprefix(prefix))
            return inner if inner is None or inner in BARE_UNITS else inner + ("2" if prefix.startswith("s") else "3")
    for suffix, power in ((" squared", "2"), (" cubed", "3")):
        if text.endswith(suffix):
            inner = _unit(text.removesuffix(suffix))
            return inner if inner is None or inner in BARE_UNITS else inner + power
    for form in (text, text.removesuffix("."), text.removesuffix("s"), text.removesuffix("es")):
        if form in _TABLE:
            return _TABLE[form]
    if " per " in text or "/" in text:
        above, _, below = text.replace("/", " per ").partition(" per ")
        over, under = _unit(above.strip()), _unit(below.strip())
        if over is None or under is None:
            return None
        return f"/{under}" if over in BARE_UNITS else _ratio(over, under)
    first, _, rest = text.partition(" ")
    # 18 miles away, 5 hours later; but 2 minutes 30 seconds are two numbers.
    return _unit(first) if rest and _NOUN.fullmatch(text) and not _NO_NOUNS.intersection(rest.split()) else None
