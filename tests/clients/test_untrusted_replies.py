"""Replies are never trusted: whatever a server sends is a reply or an attempt that failed, and no run ends of it."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from look_again.clients.openai import (
    MOST_TOKENS,
    SHOWN,
    AttemptError,
    Endpoint,
    OpenAITransport,
    Reply,
    UnreadableReplyError,
    parse_reply,
    retry_after_s,
)
from look_again.data.sample import Sample
from look_again.evaluation.benchmark import BenchmarkItem
from look_again.evaluation.endpoint_subject import EndpointJudge, EndpointSubject, greedy_endpoint
from look_again.evaluation.run_folder import RunFolder
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.endpoint_pool import EndpointDownError, EndpointState
from look_again.pipeline.engine import open_chat_client
from look_again.pipeline.ledger.items import WorkItem
from look_again.pipeline.ledger.ledger import Ledger

GOOD = {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
NAMES = ("choices", "message", "content", "refusal", "finish_reason", "usage", "prompt_tokens", "completion_tokens",
         "model", "error", "type", "text")  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "\ud800", "text", 10**30])
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
)
NEARLY = st.builds(
    lambda message, finish, usage, model: {
        "choices": [{"message": message, "finish_reason": finish}], "usage": usage, "model": model,
    },
    st.dictionaries(st.sampled_from(NAMES), ANY, max_size=3), ANY, ANY, ANY,
)  # fmt: skip


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(ANY | NEARLY)
def test_any_json_is_a_reply_or_a_failed_attempt(answer: Any) -> None:
    """Would catch a shape that raises anything else, and a number that no ledger can hold."""
    try:
        reply = parse_reply(answer)
    except UnreadableReplyError:
        return
    for text in (reply.text, reply.finish, reply.model):
        assert text.encode().decode() == text
    assert len(reply.finish) <= SHOWN
    assert 0 <= min(reply.tokens_in, reply.tokens_out) <= max(reply.tokens_in, reply.tokens_out) <= MOST_TOKENS


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}], "fine"),
        ([{"type": "thinking", "thinking": []}, {"type": "output_text", "text": "fine"}], "fine"),
        ([], ""),
    ],
)
def test_content_may_be_a_list_of_parts(content: list, text: str) -> None:
    assert parse_reply({"choices": [{"message": {"content": content}}]}).text == text


@pytest.mark.parametrize(
    "usage",
    [None, [], "x", *({"prompt_tokens": count} for count in (float("nan"), -4, 1e9, 10**30, True, "4", [], {}))],
)
def test_usage_that_is_none_costs_no_reply(usage: Any) -> None:
    """The text was paid for; NaN in its usage ended the run where it was added up."""
    assert parse_reply(GOOD | {"usage": usage}) == Reply("fine")


def test_waits_that_are_none() -> None:
    assert [retry_after_s({"retry-after": text}) for text in ("nan", "-4", "soon", "Wed, 99 Foo 99999", "\u0660")] == [
        0.0, 0.0, None, None, 0.0,
    ]  # fmt: skip
    assert Endpoint(name="e", base_url="", model="m").wait_s(0, retry_after_s({"retry-after": "inf"})) == 60.0


# Over HTTP


def http(
    body: bytes, kind: str = "application/json", status: str = "200 OK", *headers: str, length: int | None = None
) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length is None else length}",
        f"Content-Type: {kind}",
    ]
    return "\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode() + body


FINE = http(json.dumps(GOOD).encode())
GZIP = "Content-Encoding: gzip"
DEEP = b"[" * 200_000 + b"]" * 200_000
BROKEN = {
    "an empty body": http(b""),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "HTML": http(b"<html><body>Bad gateway</body></html>", "text/html"),
    "HTML called JSON": http(b"<html>"),
    "an error": http(b'{"error": {"message": "quota"}}'),
    "an error alone": http(b'{"error": "quota"}'),
    "no choices": http(b'{"choices": []}'),
    "choices that are none": http(b'{"choices": null}'),
    "half a body": http(json.dumps(GOOD).encode()[:40], length=400),
    "half of JSON": http(json.dumps(GOOD).encode()[:40]),
    "half of a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "a stream": http(b'data: {"choices": [{"delta": {"content": "fi"}}]}\n\n', "text/event-stream"),
    "half a stream": http(b'data: {"choices": [{"del', "text/event-stream"),
    "another encoding": http(json.dumps(GOOD).replace("fine", "é").encode("latin-1", "replace") + b"\xff\xfe"),
    "an encoding that is none": http(b"{}", "application/json", "200 OK", GZIP),
    "half of a gzip": http(gzip.compress(json.dumps(GOOD).encode())[:30], "application/json", "200 OK", GZIP),
    "nested lists": http(DEEP),
    "nested choices": http(b'{"choices": ' + DEEP + b"}"),
    "long numbers": http(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "nested objects": http(b'{"error":' * 900 + b"1" + b"}" * 900),
    "a number": http(b"7"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "a redirect to itself": http(b"", "text/plain", "307 Temporary Redirect", "Location: /v1/chat/completions"),
    "nested error": http(DEEP, "application/json", "500 Oops"),
    "an error of bytes": http(b"\xff\xfe\x00", "text/plain", "503 Unavailable", "Retry-After: nan"),
}  # fmt: skip


@contextmanager
def server(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """The base URL of a server that sends these bytes to each request, and hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (part := connection.recv(2**16)):
                    request += part
                head, _, body = request.partition(b"\r\n\r\n")
                sizes = [
                    line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
                ]
                while len(body) < int(sizes[0] if sizes else 0) and (part := connection.recv(2**16)):
                    body += part
                connection.sendall(answer(body))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


@pytest.mark.parametrize("name", [name for name in BROKEN if "redirect" not in name])
def test_a_run_of_the_data_engine_waits_for_a_better_reply(name: str, tmp_path) -> None:
    """The first reply is broken and the second is not; then none is good: the item waits, and the ledger is sound."""
    replies = [BROKEN[name], FINE]
    with server(lambda body: replies.pop(0) if replies else BROKEN[name]) as url, Ledger(tmp_path) as ledger:
        endpoint = Endpoint(name="e", base_url=url, model="m", attempts=2, backoff_s=0.001, timeout_s=20.0)
        item = WorkItem(1, 0, Sample(id="r", question="Q?", source="t"), {}, "i")

        async def ask(number: int) -> Any:
            async with open_chat_client(ledger, [EndpointState(endpoint, OpenAITransport(endpoint))], "test") as client:
                chat = Chat(client, "s", item)
                return (await asyncio.gather(chat.ask("e", "", "Q?", ask=number), return_exceptions=True))[0]

        assert asyncio.run(ask(0)) == Reply("fine", tokens_in=3)
        assert isinstance(asyncio.run(ask(1)), EndpointDownError)
        outcomes = [outcome for (outcome,) in ledger.read("SELECT outcome FROM attempts ORDER BY id")]
        assert [outcome == "ok" for outcome in outcomes] == [False, True, False, False]
        assert ledger.spent().tokens_in == 3


ENDS_THE_RUN = ("no HTTP", "nothing", "nested error", "an error of bytes", "a redirect to itself")


@pytest.mark.parametrize("name", [name for name in BROKEN if name not in ENDS_THE_RUN])
def test_an_evaluation_counts_a_reply_of_another_shape_as_its_items_error(name: str, tmp_path) -> None:
    """One such reply in the middle ended the run with "does the URL lack /v1?" or an AttributeError."""
    answers = {b"odd": BROKEN[name]}
    with server(lambda body: next((made for word, made in answers.items() if word in body), FINE)) as url:
        subject = EndpointSubject(greedy_endpoint(url, "m", max_new_tokens=9, retries=1), concurrency=1)
        items = [BenchmarkItem(id=text, prompt=text) for text in ("even", "odd", "again")]
        with RunFolder(tmp_path, {}) as folder:
            outputs = {}
            for index, output in subject.answers(items, ()):
                outputs[items[index].id] = output
                folder.add(items[index].id, output)
        assert (outputs["even"].text, outputs["again"].text) == ("fine", "fine")
        assert outputs["odd"].error
        with pytest.raises(OSError, match="127"):
            EndpointJudge(greedy_endpoint(url, "m", max_new_tokens=9, retries=0))("odd")


@pytest.mark.parametrize("name", ENDS_THE_RUN)
def test_a_server_that_sends_no_reply_at_all_ends_the_run_after_its_retries(name: str) -> None:
    """Not its item's error: nothing says that the question has anything to do with it. The run goes on from there."""
    with server(lambda body: BROKEN[name] if b"odd" in body else FINE) as url:
        subject = EndpointSubject(greedy_endpoint(url, "m", max_new_tokens=9, retries=1), concurrency=1)
        with pytest.raises(OSError, match=url):
            dict(subject.answers([BenchmarkItem(id="odd", prompt="odd")], ()))


def test_a_key_that_the_server_repeats_is_in_no_message(monkeypatch) -> None:
    monkeypatch.setenv("LOOK_AGAIN_TEST_KEY", "sk-very-secret")
    refusal = http(b'{"error": {"message": "wrong key sk-very-secret"}}', "application/json", "500 Oops")
    with server(lambda body: refusal) as url:
        endpoint = Endpoint(name="e", base_url=url, model="m", key_env="LOOK_AGAIN_TEST_KEY")
        with pytest.raises(AttemptError, match=r"wrong key \*\*\*"):
            asyncio.run(OpenAITransport(endpoint)({}, {}, 10.0))
