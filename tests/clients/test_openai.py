"""The `openai` client against Tabletop's endpoint over real HTTP: replies, faults, time-outs and refusals."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from look_again.clients.openai import (
    AttemptError,
    BlockingClient,
    Endpoint,
    InProcessTransport,
    OpenAITransport,
    RequestRefusedError,
)
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.endpoint_pool import EndpointState
from look_again.pipeline.engine import open_chat_client
from look_again.pipeline.ledger.items import WorkItem
from look_again.pipeline.ledger.ledger import Ledger
from look_again.tabletop.answering import COMMON_FAULTS, Conduct
from look_again.tabletop.endpoint import app
from look_again.tabletop.loader import tabletop_samples
from look_again.text.grammar import parse

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def url():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conduct = Conduct(faults=dict.fromkeys(COMMON_FAULTS[:4], 0.2), stall_s=30.0, retry_after_s=0.01)
    server = uvicorn.Server(uvicorn.Config(app(conduct), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = server.force_exit = True  # stalled replies are not waited for
    thread.join(10)


def ask(url: str, folder, model: str, rows: int, text: str | None = None):
    endpoint = Endpoint(name="e", base_url=url, model=model, backoff_s=0.01, timeout_s=1.5, attempts=12)

    async def go(ledger):
        async with open_chat_client(ledger, [EndpointState(endpoint, OpenAITransport(endpoint))], "test") as client:
            items = [WorkItem(n, 0, row, {}, "i") for n, row in enumerate(tabletop_samples("test", 1, range(rows)))]
            asks = [Chat(client, "s", item).ask("e", "", text or item.row.prompt, item.row.images) for item in items]
            return await asyncio.gather(*asks, return_exceptions=True)

    with Ledger(folder) as ledger:
        return asyncio.run(go(ledger)), [outcome for (outcome,) in ledger.read("SELECT outcome FROM attempts")]


def test_replies_come_through_faults_of_every_kind(url, tmp_path):
    replies, outcomes = ask(url, tmp_path, "tabletop-model", 20)
    for row, reply in zip(tabletop_samples("test", 1, range(20)), replies, strict=True):
        assert parse(reply.text).conclusion == row.reference
        assert reply.tokens_in > 36
    assert {outcome[:10] for outcome in outcomes} == {"ok", "status 429", "status 500", "no reply w", "no reply: "}


def test_a_model_or_question_that_is_not_there(url, tmp_path):
    (reply,), _ = ask(url, tmp_path, "gpt-7", 1)
    assert isinstance(reply, RequestRefusedError)
    (reply,), _ = ask(url, tmp_path, "tabletop-model", 1, "Who painted this?")
    assert "no question of Tabletop" in str(reply)


def test_models_and_health(url):
    import httpx

    names = [model["id"] for model in httpx.get(f"{url}/models").json()["data"]]
    assert names == ["tabletop-model", "tabletop-teacher", "tabletop-judge", "tabletop-writer"]
    assert httpx.get(url.replace("/v1", "/health")).json() == {"status": "ok"}
    assert httpx.post(f"{url}/chat/completions", content=b"{").status_code == 400


def test_a_blocking_client_counts_its_attempts_and_keeps_its_threads_apart():
    """Would catch replies mixed up between threads, one attempt too few, and time-outs that are not told apart."""
    calls = []

    async def server(body, headers):
        text = body["messages"][0]["content"]
        calls.append(text)
        if text == "never":
            await asyncio.sleep(30)
        if text == "twice" and calls.count("twice") < 3:
            return 503, {}, "busy"
        return 200, {}, {"choices": [{"message": {"content": text[::-1]}}]}

    endpoint = Endpoint(name="e", base_url="test:", model="m", attempts=3, backoff_s=0.001, timeout_s=0.2)
    client = BlockingClient(endpoint, InProcessTransport(server))
    with ThreadPoolExecutor(8) as pool:
        texts = [f"text {i}" for i in range(40)]
        replies = pool.map(lambda text: client.complete([{"role": "user", "content": text}]).text, texts)
        assert list(replies) == [text[::-1] for text in texts]
    assert client.complete([{"role": "user", "content": "twice"}]).text == "eciwt"
    with pytest.raises(AttemptError, match=r"no reply within 0\.2 s") as error:
        client.complete([{"role": "user", "content": "never"}])
    assert error.value.timed_out
    assert (calls.count("twice"), calls.count("never")) == (3, 3)
    client.close()
