"""Who may talk to the server."""

from __future__ import annotations

import httpx

from look_again.serving.http.api_guard import build_refusal
from look_again.web.access import build_access
from tests.serving.http.served import FakeBackend, body, running

KEY = "k" * 16


def test_requests_with_and_without_a_key():
    access = build_access("127.0.0.1", [KEY])
    with running(FakeBackend(), access=access) as server:
        for headers in (
            {},
            {"authorization": KEY},
            {"authorization": f"Bearer {KEY}x"},
            {"authorization": f"Basic {KEY}"},
        ):
            refused = server.post(body("Hi"), headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{server.base}/metrics").status_code == 401
        assert httpx.get(f"{server.base}/nowhere").status_code == 401
        assert httpx.get(f"{server.base}/health").status_code == 200
        assert server.post(body("Hi"), headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_server_without_keys_answers_to_local_names_alone():
    """A web page whose name points to 127.0.0.1 could otherwise use the server from any visitor's browser."""
    local = build_access("127.0.0.1", [], ["mine.example"])
    for host in ("localhost:8300", "127.0.0.1", "[::1]:8300", "mine.example", "LOCALHOST"):
        assert build_refusal(local, "/v1/models", {"host": host}) is None, host
    for host in ("evil.example", "", "127.0.0.1.evil.example", "[::1"):
        assert build_refusal(local, "/v1/models", {"host": host}).status == 403, host
    assert build_refusal(build_access("0.0.0.0"), "/v1/models", {"host": "any.example"}) is None
    assert build_access("127.0.0.1", [KEY]).hosts is None


def test_a_form_of_another_site_is_not_a_request():
    """Browsers send text/plain across sites without asking first."""
    with running(FakeBackend()) as server:
        sent = httpx.post(f"{server.base}/v1/chat/completions", content="{}", headers={"content-type": "text/plain"})
        assert sent.status_code == 415
