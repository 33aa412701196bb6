"""What the pages refuse before anything reads it: hosts that are none, and bodies that name files elsewhere."""

from __future__ import annotations

import asyncio
import json

import pytest

from look_again.web import request_bodies as bodies
from look_again.web.access import Access, build_access
from look_again.web.guard import PageGuard, explain_refusal

FETCHED = {"path": "http://example.org/a.png", "meta": {"_type": "gradio.FileData"}}
JSON = (b"content-type", b"application/json")
JOIN = {"type": "http", "method": "POST", "path": "/gradio_api/queue/join", "query_string": b""}


def ask(
    body: bytes = b"",
    *headers: tuple[bytes, bytes],
    access: Access | None = None,
    pieces: int = 1,
    path: str = JOIN["path"],
):
    """Status, refusal, and the body as the application behind the guard read it; None where it was not reached."""
    sent, reached = [], []
    size = -(-len(body) // pieces) or 1
    parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    messages = [{"type": "http.request", "body": part, "more_body": i + 1 < len(parts)} for i, part in enumerate(parts)]

    async def inner(scope, receive, send):
        read, more = b"", True
        while more:
            message = await receive()
            read, more = read + message["body"], message["more_body"]
        reached.append(read)
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200})

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    given = [] if any(name == b"host" for name, _ in headers) else [(b"host", b"127.0.0.1")]
    given += [*headers, *([(b"content-length", str(len(body)).encode())] if body else [])]
    guard = PageGuard(inner, access or Access())
    asyncio.run(guard({**JOIN, "path": path, "headers": given}, receive, send))
    return sent[0]["status"], sent[-1].get("body", b"").decode(), reached[0] if reached else None


@pytest.mark.parametrize("host", [b"[", b"[::1", b"[x]"])
@pytest.mark.parametrize("access", [Access(), build_access("0.0.0.0", ["correct horse"])])
def test_a_host_that_is_none_is_refused(host, access):
    """Taking it apart raises: an answer of 500 and a traceback for each."""
    assert ask(b"", (b"host", host), access=access) == (403, "the host's name cannot be read\n", None)
    assert ask(b"", (b"origin", b"http://" + host), access=access)[0] == 403


@pytest.mark.parametrize("pieces", [1, 3])
def test_what_names_no_file_elsewhere_arrives_whole(pieces):
    body = json.dumps({"data": [{"url": "http://127.0.0.1:7861/a.png"}, "http://a.b", {"path": None}]}).encode()
    assert ask(body, JSON, pieces=pieces) == (200, "", body)
    assert ask() == (200, "", b"")


@pytest.mark.parametrize(
    "body",
    [
        {"data": [FETCHED]},
        {"data": [None, [{"deep": {"er": [FETCHED]}}]]},
        FETCHED,
        {"data": [{"path": {"path": "HTTPS://example.org"}}]},
    ],
)
def test_a_file_elsewhere_is_refused_wherever_it_is_named(body):
    for kind in ([JSON], [], [(b"content-type", b"text/plain")], [(b"content-type", b"multipart/form-data"), JSON]):
        status, said, read = ask(json.dumps(body).encode(), *kind)
        assert (status, said, read) == (400, "files are uploaded; this page fetches none\n", None)


@pytest.mark.parametrize("escaped", [b'{"path": "\\u0068ttp:\\u002f/a"}', '{"path": "http://a"}'.encode("utf-16")])
def test_no_way_of_writing_hides_an_address(escaped):
    assert ask(escaped, JSON)[0] == 400


def test_other_bodies_than_json_and_forms_are_refused(monkeypatch):
    assert ask(b"{", JSON)[0] == ask(b"[" * 100_000, JSON)[0] == 400
    form = b"--x\r\n http://example.org"
    kind = (b"content-type", b"Multipart/Form-Data; boundary=x")
    assert ask(form, kind, pieces=2, path="/login") == (200, "", form)
    assert ask(form, kind, pieces=2)[0] == 400  # nothing else takes a form
    monkeypatch.setattr(bodies, "MAX_BYTES", 10)
    assert ask(b'"12345678"', JSON)[0] == 200
    assert ask(b'"123456789"', JSON, pieces=3)[:2] == (400, "a request's body has at most 10 bytes\n")


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
    assert (explain_refusal(build_access("127.0.0.1"), headers) is None) == answered


def test_behind_a_password_any_name_will_do():
    access = build_access("0.0.0.0", ["correct horse"])
    assert explain_refusal(access, {"host": "review.example", "origin": "https://review.example"}) is None
    assert explain_refusal(access, {"host": "review.example", "origin": "https://evil.example"})


def ask_guarded(headers: dict[str, str], kind: str = "http") -> tuple[list[dict], list[str]]:
    """What a guarded application sends, and the kinds of requests that reached it."""
    sent: list[dict] = []
    reached: list[str] = []

    async def inner(scope, receive, send):
        reached.append(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})

    async def send(message):
        sent.append(message)

    scope = {
        **JOIN,
        "method": "GET",
        "path": "/",
        "type": kind,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(PageGuard(inner, Access())(scope, None, send))
    return sent, reached


def test_the_guard_refuses_and_forbids_fetching_from_elsewhere():
    sent, reached = ask_guarded({"Host": "127.0.0.1"})
    headers = dict(sent[0]["headers"])
    assert headers[b"content-security-policy"].startswith(b"default-src 'self'")
    assert (headers[b"x"], reached) == (b"y", ["http"])
    sent, reached = ask_guarded({"Host": "evil.example"})
    assert (sent[0]["status"], reached) == (403, [])
    sent, reached = ask_guarded({"Host": "127.0.0.1"}, "websocket")
    assert (sent[0]["type"], reached) == ("websocket.close", [])
