"""The bytes of a body as strict JSON of few values, checked before and after parsing.

The paper serves nothing.
"""

from __future__ import annotations

import re
from typing import Any

from look_again.text.strict_json import inner_values, parse_json

MAX_VALUES = 20_000  # of a body, keys aside: a large one of small parts would cost many times its bytes

_STRING_END = re.compile(rb'(?:[^"\\]|\\.)*+"', re.DOTALL)


class BodyError(ValueError):
    """A body that is not taken. code: a word for programs."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def parse_body(raw: bytes, text_characters: int) -> Any:
    """The value of a body whose texts have at most `text_characters`, or what is over, told before it is parsed.

    BodyError as `parse_values`.
    """
    opened = raw.count(b"[") + raw.count(b"{")
    if max(raw.count(b","), opened) > text_characters + MAX_VALUES:  # those that texts do not account for
        raise too_many_values()
    if opened > MAX_VALUES and count_nested(raw) > MAX_VALUES:
        raise too_many_values()
    return parse_values(raw)


def count_nested(raw: bytes) -> int:
    """Objects and arrays that a body opens, brackets in its texts aside; in a parsed body each costs memory."""
    count = place = 0
    while (opening := raw.find(b'"', place)) >= 0:
        count += raw.count(b"[", place, opening) + raw.count(b"{", place, opening)
        closing = _STRING_END.search(raw, opening + 1)
        if closing is None or count > MAX_VALUES:
            return count
        place = closing.end()
    return count + raw.count(b"[", place) + raw.count(b"{", place)


def parse_values(raw: bytes) -> Any:
    """Strict JSON of at most `MAX_VALUES` values. BodyError otherwise."""
    try:
        value = parse_json(raw)
    except ValueError as error:
        raise BodyError(f"the body {error}", "invalid_json") from None
    if not _fits(value):
        raise too_many_values()
    return value


def too_many_values() -> BodyError:
    return BodyError(f"the body holds more than {MAX_VALUES} values", "request_too_large")


def too_deep() -> BodyError:
    return BodyError("the body is nested too deeply", "invalid_json")


def _fits(value: Any) -> bool:
    """Whether it holds at most `MAX_VALUES` values."""
    pending, left = [value], MAX_VALUES
    while pending and left >= 0:
        inner = inner_values(pending.pop())
        left -= len(inner)
        if left >= 0:
            pending.extend(inner)
    return left >= 0
