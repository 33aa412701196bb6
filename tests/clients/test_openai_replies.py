"""What the client makes of statuses, waits and replies of any shape, without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from look_again.clients.openai import (
    AttemptError,
    Endpoint,
    Reply,
    RequestRefusedError,
    SetupError,
    parse_reply,
    raise_status_error,
    retry_after_s,
)

ENDPOINT = Endpoint(name="e", base_url="test:", model="m")


def test_retry_after_in_all_its_forms():
    assert retry_after_s({"Retry-After": "2"}) == 2.0
    assert retry_after_s({"retry-after-ms": "250", "Retry-After": "1"}) == 0.25
    assert retry_after_s({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, now=1445412470) == 10.0
    assert retry_after_s({"Retry-After": "soon"}) is None
    assert retry_after_s({}) is None


def test_statuses():
    for status, error in (
        (429, AttemptError),
        (502, AttemptError),
        (400, RequestRefusedError),
        (422, RequestRefusedError),
    ):
        with pytest.raises(error):
            raise_status_error(status, "no", {})
    for status in (401, 402, 403, 404):
        with pytest.raises(SetupError):
            raise_status_error(status, "no", {})


def test_replies_of_odd_shape():
    refused = {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}
    assert parse_reply(refused) == Reply("No.", "content_filter")
    for odd in (None, "x", [], {"choices": [{"message": {"content": ["x"]}}]}, {"error": "quota"}):
        with pytest.raises(AttemptError):
            parse_reply(odd)


@pytest.mark.parametrize(
    "fields", [{"concurrency": 0}, {"attempts": 0}, {"timeout_s": 0}, {"rate": 0}, {"price_in": -1}, {"max_pixels": 0}]
)
def test_endpoints_that_cannot_be(fields):
    with pytest.raises(ValueError, match="e"):
        replace(ENDPOINT, **fields)
