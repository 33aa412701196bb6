"""`tabletop serve` under hostile requests: bounded work, 400 for what is odd, local names only."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from look_again.clients.openai import chat_messages
from look_again.data.encoded_images import sendable
from look_again.tabletop.answering import Conduct, respond
from look_again.tabletop.endpoint import MAX_BODY_BYTES, app, read_attempt
from look_again.tabletop.loader import tabletop_samples

pytest.importorskip("fastapi")
(SAMPLE,) = tabletop_samples("test", 3, [0])


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tabletop-judge", "messages": chat_messages("", text, [sendable(SAMPLE.images[0])]), **fields}


def post(data: bytes, host: str = "127.0.0.1:8399", bound_to: str = "127.0.0.1") -> tuple[int, dict[str, Any]]:
    """Status and body of the answer to one POST, through ASGI."""
    sent: list[dict[str, Any]] = []
    parts = [data[at : at + 2**16] for at in range(0, len(data), 2**16)] or [b""]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts] + [
        {"type": "http.request", "body": b"", "more_body": False}
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
        "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 8399),
        "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
        "headers": [(b"host", host.encode()), (b"content-type", b"application/json")],
    }  # fmt: skip
    asyncio.run(app(Conduct(), bound_to)(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


N = 5_000
BLOCKS = {
    "open tags": lambda n: "<question>\n" * n,
    "open tags of both kinds": lambda n: "<question>\n<answer>\n" * (n // 2),
    "tags that close nothing": lambda n: "<answer>\n" + "\n</question>" * n,
    "blanks": lambda n: " " * 20 * n,
    "lines": lambda n: (
        "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>" + "so " * 3 * n + "\nx</REASONING>"
        "<CONCLUSION>1</CONCLUSION>"
    ),
    "sections": lambda n: "<answer>\n" + "<REASONING>so " * n + "\n</answer>",
    "so": lambda n: "<question>\nx\n</question><answer>\n<REASONING>" + "so " * 5 * n + "\n</REASONING>\n</answer>",
    "letters and digits": lambda n: "a1 red ball " * (3 * n // 2),
    "commas": lambda n: ", " * (15 * n // 2),
}


def seconds_to_answer(text: str, role: str) -> float:
    """Processor time, the lesser of two."""
    times = []
    for _ in range(2):
        started = time.process_time()
        assert respond(body(text) | {"model": f"tabletop-{role}"}, 0, Conduct()).status in (200, 400)
        times.append(time.process_time() - started)
    return min(times)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("role", ["judge", "teacher", "writer", "model"])
def test_a_long_text_takes_linear_time(name: str, role: str) -> None:
    """176 KB of opened blocks took 24 seconds: quadratic time, sixteen times as much for four times the text."""
    question = f"<question>\n{SAMPLE.question}\n</question>\n<answer>\n"
    for form in ("{}", question + "{}\n</answer>"):
        short, long = (seconds_to_answer(form.replace("{}", BLOCKS[name](n)), role) for n in (N, 4 * N))
        assert long < 8 * short + 0.05


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"\xff\xfe",
        b"9" * 10_000,
        b"null",
        b'"x"',
        b'{"model": NaN, "messages": [NaN]}',
        b'{"messages": 3}',
        b'{"messages": [3]}',
        b'{"messages": [{"role": "user"}]}',
        b'{"model": "tabletop-judge", "messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}',
        b'{"model": ["tabletop-judge"], "messages": [{"role": ["user"], "content": {"a": 1}}]}',
        json.dumps(body("\ud800")).encode(),
        json.dumps(body("x", model="tabletop-\udc00")).encode(),
        json.dumps(body("<question>\nx\n</question>", messages=[{"role": "user", "content": "x"}, 3])).encode(),
    ],
)
def test_what_is_no_request_is_a_400(data: bytes) -> None:
    """Deep nesting and half surrogates were a 500."""
    status, answer = post(data)
    assert status == 400, answer
    assert answer["error"]["message"]


def test_a_system_message_of_any_shape_is_no_500() -> None:
    request = body(SAMPLE.question, model="tabletop-model")
    for message in (3, None, {}, {"role": "system"}, {"role": "system", "content": {"a": 1}}, {"content": [3]}):
        status, _ = post(json.dumps(request | {"messages": [message, *request["messages"]]}).encode())
        assert status in (200, 400)


def test_a_body_is_bounded() -> None:
    assert MAX_BODY_BYTES >= 2**20
    status, answer = post(b" " * (MAX_BODY_BYTES + 1))
    assert status == 413
    assert str(MAX_BODY_BYTES) in answer["error"]["message"]


@pytest.mark.parametrize(("host", "status"), [("localhost:8399", 200), ("evil.example", 403), ("127.0.0.1.evil", 403)])
def test_it_answers_to_local_names_only(host: str, status: int) -> None:
    """A web page whose own name points here could ask it through a visitor's browser."""
    data = json.dumps(body(SAMPLE.question, model="tabletop-model")).encode()
    assert post(data, host)[0] == status
    assert post(data, host, "0.0.0.0")[0] == 200


@pytest.mark.parametrize(
    ("sent", "attempt"),
    [("3", 3), ("0", 0), ("9" * 9, 999_999_999), ("9" * 5000, 0), ("-1", 0), ("", 0), ("\u0663", 3), ("\u00b2", 0)],
)
def test_a_number_of_attempts_that_is_none_counts_as_the_first(sent, attempt):
    """Python converts no number of 5,000 digits: that was a 500."""
    assert read_attempt({"X-Attempt": sent}) == attempt
