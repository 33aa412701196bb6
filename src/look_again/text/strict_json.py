"""Strict JSON in UTF-8, for whoever takes a body from outside."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any, NoReturn

PYTHONS_DIGITS = 4300  # of an integer: more are not converted

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the escape of one; pairs of them are characters


def parse_json(raw: bytes, *, digits: int = PYTHONS_DIGITS) -> Any:
    """The value. ValueError, whose message goes on after "the body": for what is no UTF-8 or no JSON, for NaN and
    numbers that are infinite in double precision, for integers of more than `digits` characters, for half surrogate
    pairs and for very deep nesting.
    """
    decode = json.JSONDecoder(
        parse_constant=_refuse_constant, parse_int=partial(_integer, digits), parse_float=_number
    ).decode
    try:
        value = decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: byte {error.start} is wrong") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if _SURROGATE.search(raw) and not all(map(_is_text, _strings(value))):
        raise ValueError("holds half a surrogate pair, which is no character")
    return value


def inner_values(value: Any) -> Collection[Any]:
    """The values that an object or an array holds, without keys."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value, keys included."""
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, str):
            yield current
        elif isinstance(current, dict):
            yield from current
        pending.extend(inner_values(current))


def _is_text(string: str) -> bool:
    """Whether it holds no half of a surrogate pair."""
    try:
        string.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _integer(digits: int, text: str) -> int:
    if len(text) > digits:
        raise ValueError(f"a number has more than {digits} digits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is too large")
    return value
