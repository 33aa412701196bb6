"""The one number that a conclusion gives, exactly, or none.

The paper does not say how numbers are read. Here a token is read whole or not at all, and two numbers that stand as
alternatives, as a list or as a range are no answer. Time is linear in the text: no repeat can be cut in two ways.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

from look_again.scoring.conclusion import Conclusion
from look_again.scoring.units import Unit, read_unit

MAX_NUMERAL = 64  # characters; longer ones are not read, as converting them is not linear

_SPELLED = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    "seventeen|eighteen|nineteen|twenty"
)
_LENGTH = r"(?:milli|centi|deci|kilo)?(?:met(?:er|re)s?)|[cdkm]?m|in|inch(?:es)?|ft|foot|feet|yd|yards?|mi|miles?"
_UNIT = (
    rf"%|percent|degrees?(?: (?:celsius|fahrenheit))?|[cf]|(?:(?:square|cubic|sq\.?|cu\.?) )?(?:{_LENGTH})"
    r"(?: ?\^ ?\{? ?[23] ?\}?|[23](?![0-9])| squared| cubed)?|[mk]?g|(?:kilo|milli)?grams?|lbs?|pounds?|oz|ounces?|"
    r"tons?|(?:milli)?s(?:ec(?:ond)?s?)?|ms|min(?:ute)?s?|h(?:ou)?rs?|h|days?|weeks?|months?|years?|[mc]?l|"
    r"(?:milli)?lit(?:er|re)s?|km/h|m/s(?: ?\^ ?\{?2\}?)?|mph|(?:(?:square|cubic) )?units?|dollars?|cents?|euros?|"
    r"[km]?[vwj]|[km]?hz|[km]?pa|ohms?|volts?|watts?|joules?|newtons?|amp(?:ere)?s?|mol"
)
UNIT = re.compile(rf"(?i)(?:{_UNIT})?")
"""What a reference may carry behind its number; nothing is a unit too."""

NUMBER = re.compile(
    r"(?ai)(?<![a-z0-9_.^'])(?<![_^]\{)(?P<sign>[-+]?)"
    r"(?:(?:(?P<whole>[0-9]++) (?=[0-9]++ ?/ ?[0-9]))?"
    r"(?P<value>(?:(?>[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))++|[1-9][0-9]{0,2}(?: [0-9]{3}(?![0-9]| ?/))++|[0-9]++)"
    r"(?:\.[0-9]++)?|\.[0-9]++)(?:e[-+]?[0-9]{1,3}(?![0-9]))?)"
    r"(?: ?/ ?(?P<divisor>[0-9]++(?:\.[0-9]++)?)|\^(?:\{ ?)?(?P<power>-?[0-9]{1,3}(?![0-9.]))(?: ?\})?)?"
    rf"|(?P<word>{_SPELLED})(?![a-z0-9]))"
)
_NEGATION = re.compile(r"(?i)\b(?:not|never|neither|nor|none|cannot|except|wrong|incorrect)\b|n['’]t\b|不|没|非|错")
_ALTERNATIVE = re.compile(
    r"(?i)\b(?:or|vs|versus|either|maybe|perhaps|possibly|alternatively|otherwise|wait|actually|instead|rather|sorry|"
    r"correction|no)\b|[;|]|或"
)
_JOINED = re.compile(
    r"(?i)(?:\b(?:and|to|through|till|until|by|times|plus|minus|over)\b|[-+/&*:×·÷~,])[\W_]*\Z|[和到至与]"
)
_CONTENT = re.compile(r"[^\W\d_]+")
_UNIT_WORDS = re.compile(rf"(?i)(?:{_UNIT})")
_ATTACHED = re.compile(r"(?:\^[23])?[a-zA-Z]++(?:\^?[23](?![0-9])|\^ ?\{ ?[23] ?\}|/[a-zA-Z]++)?")
_BEFORE = re.compile(
    r"(?:[-+*/^_√×·÷<≤≥±]|(?<![-=])>|[0-9][,']|\\(?:[A-Za-z]+ ?\{|(?:sqrt|times|cdot|div|pm|[lg]eq?))|\}\{"
    r"|(?i:\b(?:at least|at most|(?:more|less|fewer|greater|larger|smaller) than|up to|almost|nearly|over|under))) ?\Z"
)
_AFTER = re.compile(
    r"(?i)(?:st|nd|rd|th|[dknixyz])\b|e[-+]?[0-9]|[({_\\]|\.[0-9]|,[0-9]|['’][0-9]|-[a-z]| ?(?:[\^√π+*/×·÷]|- ?[b-z]\b|"
    r"\\(?!(?:text|mathrm))[a-z]|-?(?:hundred|thousand|[mbtr]+illion|dozen|half|halves|thirds?|quarters?|fourths?|"
    r"fifths?|tenths?|percentage points)\b)|(?-i:[GTB])s?\b| or (?:more|less|fewer|so|higher|lower)\b|[十百千万亿兆]"
)


def read_number(conclusion: Conclusion) -> str | None:
    """The number as "3", "-2" or "1/2"; None where there is none, more than one, or a part of an expression.

    Where the text says "The answer is" or "=", the first number behind it counts, else the last one. Units are ignored.
    """
    quantity = read_quantity(conclusion)
    return None if quantity is None else quantity[0]


def read_quantity(conclusion: Conclusion) -> tuple[str, Unit | None] | None:
    """The number of `read_number` and the unit that stands behind it."""
    text = conclusion.clause
    found = list(NUMBER.finditer(text))
    if not found or _NEGATION.search(text):
        return None
    equals = text.rfind("=")
    usable = [i for i, match in enumerate(found) if match.start() > equals]
    usable = [i for i in usable if not found[i]["word"]] or usable  # "5 is the larger one" says 5
    if not usable:
        return None
    at = usable[0 if conclusion.cued or equals >= 0 else -1]
    near = pairwise(found[max(0, at - 1) : at + 2])
    if any(_are_rivals(text[a.end() : b.start()]) for a, b in near) or not _stands_whole(text, found[at]):
        return None
    value = number_value(found[at])
    if value is None or len(str(value)) > MAX_NUMERAL:  # "1e60" has 61 digits
        return None
    return str(value), read_unit(text, found[at].end())


def _are_rivals(between: str) -> bool:
    """Whether the numbers on both sides of `between` stand as alternatives, a list, a range or an expression."""
    if "=" in between:
        between = re.sub(r"(?:\b[A-Za-z])? ?\Z", "", between.rpartition("=")[0][-40:])
        return bool(between.strip()) and _are_rivals(between)
    words = _CONTENT.findall(between)
    if not words:
        return True
    return bool(_ALTERNATIVE.search(between) or _JOINED.search(between)) or (
        len(words) <= 2 and _UNIT_WORDS.fullmatch(between.strip(" ,.()[]{}\n")) is not None
    )


def _stands_whole(text: str, number: re.Match[str]) -> bool:
    """Whether nothing is attached to the number that makes another token or an expression of it."""
    before = text[max(0, number.start() - 16) : number.start()]
    if _BEFORE.search(before) or _AFTER.match(text, number.end()):
        return False
    attached = _ATTACHED.match(text, number.end())
    return attached is None or UNIT.fullmatch(attached[0]) is not None


def number_value(number: re.Match[str]) -> Fraction | None:
    """The value of a match of `NUMBER`, exactly; None for one that is too long or divided by zero."""
    if len(number[0]) > MAX_NUMERAL:
        return None
    if number[0].isdecimal():
        return Fraction(int(number[0]))
    if number["word"]:
        value = Fraction(_SPELLED.split("|").index(number["word"].lower()))
    else:
        divisor, power = Fraction(number["divisor"] or 1), int(number["power"] or 1)
        base = Fraction(number["value"].replace(",", "").replace(" ", ""))
        if not divisor or (number["power"] and not _can_be_raised(base, power)):
            return None
        value = base**power / divisor + int(number["whole"] or 0)
    return -value if number["sign"] == "-" else value


def _can_be_raised(base: Fraction, power: int) -> bool:
    return bool(base or power >= 0) and abs(power) * len(f"{base}") <= 4 * MAX_NUMERAL
