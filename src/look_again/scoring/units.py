"""Units behind numbers: whether two quantities are the same, where both say what they are quantities of.

The paper says nothing of units. Here a number without a unit agrees with the same number in any unit; two units of one
dimension are converted; and units of different dimensions never agree, as 5 m is not 5 kg. Units that are not in the
table say nothing, nor do degrees, which stand for angles and temperatures alike.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple


class Unit(NamedTuple):
    """dimension: of a name; quantities are compared within one. factor: in the dimension's own unit."""

    dimension: str
    factor: Fraction


_METRE = {
    "mm|millimet(?:er|re)s?": "0.001",
    "cm|centimet(?:er|re)s?": "0.01",
    "dm|decimet(?:er|re)s?": "0.1",
    "m|met(?:er|re)s?": "1",
    "km|kilomet(?:er|re)s?": "1000",
    r"inch(?:es)?|in(?=[ .]*\Z)": "0.0254",
    "ft|foot|feet": "0.3048",
    "yds?|yards?": "0.9144",
    "mi|miles?": "1609.344",
}
_OTHERS = {
    "mass": {
        "mg|milligrams?": "0.001", "g|grams?": "1", "kg|kilograms?": "1000", "lbs?|pounds?": "453.59237",
        "oz|ounces?": "28.349523125",
    },
    "time": {
        "ms|milliseconds?": "0.001", "s|secs?|seconds?": "1", "mins?|minutes?": "60", "h|hrs?|hours?": "3600",
        "days?": "86400", "weeks?": "604800",
    },
    "years": {"months?": "1/12", "years?": "1"},
    "volume": {"ml|millilit(?:er|re)s?": "0.000001", "cl|centilit(?:er|re)s?": "0.00001", "l|lit(?:er|re)s?": "0.001"},
    "speed": {"m/s": "1", "km/h|kmh|kph": "5/18", "mph": "0.44704"},
    "acceleration": {r"m/s ?\^ ?\{?2\}?": "1"},
    "share": {"%|percent": "1"},
    "celsius": {"(?:degrees? )?celsius": "1"},
    "fahrenheit": {"(?:degrees? )?fahrenheit": "1"},
    "dollars": {"dollars?": "1", "cents?": "0.01"},
    "euros": {"euros?": "1"},
    "voltage": {"mv|millivolts?": "0.001", "v|volts?": "1", "kv|kilovolts?": "1000"},
    "current": {"amp(?:ere)?s?": "1"},
    "power": {"w|watts?": "1", "kw|kilowatts?": "1000"},
    "energy": {"j|joules?": "1", "kj|kilojoules?": "1000"},
    "force": {"newtons?": "1"},
    "frequency": {"hz|hertz": "1", "khz|kilohertz": "1000"},
    "pressure": {"pa|pascals?": "1", "kpa|kilopascals?": "1000"},
    "resistance": {"ohms?": "1"},
    "amount": {"mol|moles?": "1"},
}  # fmt: skip
_RAISED = {
    "area": (2, "{power}(?: ?\\^ ?\\{{? ?2 ?\\}}?|2| squared)|(?:square|sq\\.?) (?:{power})"),
    "volume": (3, "{power}(?: ?\\^ ?\\{{? ?3 ?\\}}?|3| cubed)|(?:cubic|cu\\.?) (?:{power})"),
}


def _table() -> list[tuple[re.Pattern[str], Unit]]:
    """Patterns of whole units, powers before what they are powers of."""
    rows: list[tuple[str, Unit]] = []
    for dimension, (power, form) in _RAISED.items():
        rows += [
            (form.format(power=f"(?:{name})"), Unit(dimension, Fraction(factor) ** power))
            for name, factor in _METRE.items()
        ]
    rows += [
        (name, Unit(dimension, Fraction(factor)))
        for dimension, units in {**_OTHERS, "length": _METRE}.items()
        for name, factor in units.items()
    ]
    return [(re.compile(rf"(?i)[ -]{{0,2}}(?:{name})(?![a-z0-9^/])"), unit) for name, unit in rows]


_UNITS = _table()
LONGEST = 24  # characters of a unit with the space before it


def read_unit(text: str, start: int) -> Unit | None:
    """The unit that stands at `start` of a plain text, right behind a number; None for none that is in the table."""
    return _parse_unit(text[start : start + LONGEST])


@lru_cache(maxsize=4096)
def _parse_unit(text: str) -> Unit | None:
    return next((unit for pattern, unit in _UNITS if pattern.match(text)), None)


def conversion(found: Unit | None, expected: Unit | None) -> Fraction | None:
    """What a number in `found` is multiplied by to be one in `expected`; None where they cannot be compared."""
    if found is None or expected is None:
        return Fraction(1)
    return found.factor / expected.factor if found.dimension == expected.dimension else None
