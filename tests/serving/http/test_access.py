"""Who may talk to the server."""

from __future__ import annotations

import hmac

import httpx
import pytest

from look_again.serving.http import access as access_module
from look_again.serving.http.access import access_of
from tests.serving.http.served import FakeBackend, body, running

KEY, OTHER = "k" * 16, "another-key-0123456789"


def write(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text)
    return path


def test_keys_from_the_file_and_the_environment(tmp_path):
    access = access_of("0.0.0.0", write(tmp_path, f"# ours\n{KEY}\n\n"), {"LOOK_AGAIN_API_KEY": OTHER})
    assert access.knows(KEY)
    assert access.knows(OTHER)
    assert not any(map(access.knows, ("", "k" * 15, "k" * 17, f"# ours\n{KEY}", "\ud800")))


def test_every_key_is_compared(monkeypatch):
    """Stopping at the first match tells by its time which key was right."""
    compared, real = [], hmac.compare_digest

    def compare(a, b):
        compared.append(b)
        return real(a, b)

    access = access_of("127.0.0.1", None, {"LOOK_AGAIN_API_KEY": KEY})
    access = access_module.Access(access.keys * 3)
    monkeypatch.setattr(access_module.hmac, "compare_digest", compare)
    assert access.knows(KEY)
    assert len(compared) == 3


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "with a blank in the key\n", "ключключключключ\n"])
def test_bad_key_files(tmp_path, text):
    with pytest.raises(ValueError, match="key"):
        access_of("127.0.0.1", write(tmp_path, text), {})


def test_requests_with_and_without_a_key():
    access = access_of("127.0.0.1", None, {"LOOK_AGAIN_API_KEY": KEY})
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
    local = access_of("127.0.0.1", None, {}, ["mine.example"])
    for host in ("localhost:8300", "127.0.0.1", "[::1]:8300", "mine.example", "LOCALHOST"):
        assert local.refusal("/v1/models", {"host": host}) is None, host
    for host in ("evil.example", "", "127.0.0.1.evil.example", "[::1"):
        assert local.refusal("/v1/models", {"host": host}).status == 403, host
    assert access_of("0.0.0.0", None, {}).refusal("/v1/models", {"host": "any.example"}) is None
    assert access_of("127.0.0.1", None, {"LOOK_AGAIN_API_KEY": KEY}).hosts is None


def test_a_form_of_another_site_is_not_a_request():
    """Browsers send text/plain across sites without asking first."""
    with running(FakeBackend()) as server:
        sent = httpx.post(f"{server.base}/v1/chat/completions", content="{}", headers={"content-type": "text/plain"})
        assert sent.status_code == 415
