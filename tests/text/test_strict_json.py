"""Strict JSON: what is taken, and that each refusal says why."""

from __future__ import annotations

import pytest

from look_again.text.strict_json import parse_json


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": [1, -2.5e3, true, null, "x"]}', {"a": [1, -2500.0, True, None, "x"]}),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (b"1e-999", 0.0),
        (b"-" + b"9" * 4299, -(10**4299 - 1)),
    ],
)
def test_json_is_read(raw, value):
    assert parse_json(raw) == value


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xff\xfe", "is not UTF-8: byte 0 is wrong"),
        (b"{'a': 1}", "is not JSON: Expecting property name"),
        (b"[NaN]", "is not JSON: NaN is no JSON number"),
        (b"[-Infinity]", "is not JSON: -Infinity is no JSON number"),
        (b"[1e999]", "is not JSON: a number is too large"),
        (b"9" * 4301, "is not JSON: a number has more than 4300 digits"),
        (b"[" * 100_000, "is nested too deeply"),
        (rb'["\ud83d"]', "holds half a surrogate pair"),
        (rb'{"\ude00": 1}', "holds half a surrogate pair"),
        (rb'"\uDe00\ud83d"', "holds half a surrogate pair"),
    ],
)
def test_what_is_not_strict_is_refused_with_a_reason(raw, reason):
    with pytest.raises(ValueError, match="^" + reason.replace(".", r"\.")):
        parse_json(raw)


def test_digits_are_bounded_as_asked():
    assert parse_json(b"[12345]", digits=5) == [12345]
    with pytest.raises(ValueError, match="more than 5 digits"):
        parse_json(b"[123456]", digits=5)
