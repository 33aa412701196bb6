"""Who may reach the page: this machine alone, or whoever has the password; and never another web page."""

from __future__ import annotations

import asyncio

import pytest

from look_again.pipeline.review.review_access import Access, Guard, access_of, is_local, refusal

PASSWORD = {"SECRET": "correct horse"}


def test_only_this_machine_without_a_password():
    assert access_of(["ann"], "127.0.0.1", None, {}) == Access(("ann",), None, "127.0.0.1")
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        assert not is_local(host)
        with pytest.raises(ValueError, match="--password-env"):
            access_of(["ann"], host, None, {})
        assert access_of(["ann"], host, "SECRET", PASSWORD).password == "correct horse"
    assert is_local("localhost")
    assert is_local("::1")


@pytest.mark.parametrize("environment", [{}, {"SECRET": ""}, {"SECRET": "short"}])
def test_a_password_has_to_be_there(environment):
    with pytest.raises(ValueError, match=r"\$SECRET holds no password of at least 8"):
        access_of(["ann"], "127.0.0.1", "SECRET", environment)


@pytest.mark.parametrize("names", [[], ["ann", "ann"], [""], [" ann"]])
def test_reviewers_can_be_told_apart(names):
    with pytest.raises(ValueError, match="reviewers are"):
        access_of(names, "127.0.0.1", None, {})


def test_login_needs_a_known_name_and_the_password():
    access = access_of(["ann", "zoë"], "0.0.0.0", "SECRET", PASSWORD)
    assert access.login("ann", "correct horse")
    assert access.login("zoë", "correct horse")
    assert not access.login("eve", "correct horse")
    assert not access.login("ann", "wrong")
    assert not access.login("ann", "pässword")
    assert not Access(("ann",)).login("ann", "")


def test_who_sits_at_the_page():
    """With a password nobody can pass for another by asking; without one they say who they are."""
    locked, one, two = Access(("ann", "bob"), "correct horse"), Access(("ann",)), Access(("ann", "bob"))
    assert locked.reviewer("ann", "bob") == "ann"
    assert locked.reviewer(None, "bob") is None
    assert one.reviewer(None, None) == "ann"
    assert one.reviewer(None, "bob") == "ann"
    assert two.reviewer(None, "bob") == "bob"
    assert two.reviewer(None, None) is None
    assert two.reviewer(None, "eve") is None


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        ({"host": "127.0.0.1:7860"}, True),
        ({"host": "localhost:7860", "origin": "http://localhost:7860"}, True),
        ({"host": "[::1]:7860"}, True),
        ({"host": "evil.example:7860"}, False),  # a foreign name that was pointed at this machine
        ({"host": "127.0.0.1:7860", "origin": "http://evil.example"}, False),
        ({"host": "127.0.0.1:7860", "origin": "null"}, False),
        ({}, False),
    ],
)
def test_other_web_pages_get_no_answer(headers, answered):
    assert (refusal(Access(("ann",)), headers) is None) == answered


def test_behind_a_password_any_name_will_do():
    access = Access(("ann",), "correct horse", "0.0.0.0")
    assert refusal(access, {"host": "review.example", "origin": "https://review.example"}) is None
    assert refusal(access, {"host": "review.example", "origin": "https://evil.example"})


def ask(headers: dict[str, str], kind: str = "http") -> tuple[list[dict], list[str]]:
    """What a guarded application sends, and the kinds of requests that reached it."""
    sent: list[dict] = []
    reached: list[str] = []

    async def inner(scope, receive, send):
        reached.append(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(Guard(inner, Access(("ann",)))(scope, None, send))
    return sent, reached


def test_the_guard_refuses_and_forbids_fetching_from_elsewhere():
    sent, reached = ask({"Host": "127.0.0.1"})
    headers = dict(sent[0]["headers"])
    assert headers[b"content-security-policy"].startswith(b"default-src 'self'")
    assert (headers[b"x"], reached) == (b"y", ["http"])
    sent, reached = ask({"Host": "evil.example"})
    assert (sent[0]["status"], reached) == (403, [])
    sent, reached = ask({"Host": "127.0.0.1"}, "websocket")
    assert (sent[0]["type"], reached) == ("websocket.close", [])
