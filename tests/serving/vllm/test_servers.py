"""vLLM servers that say odd things, or nothing: who is watched, and how long is waited."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from look_again.clients.vllm_answers import LostServerError
from look_again.serving.vllm import servers as vllm_servers
from look_again.serving.vllm.servers import Servers, UpstreamServer

CHECK_S = 0.01
DOCUMENTED = Path(__file__).parents[3] / "docs" / "serve-vllm.md"


@dataclass
class Pair:
    """Two servers. dead: refuse connections. bodies: of their health checks. trials: run before they are admitted."""

    dead: set[str] = field(default_factory=set)
    bodies: dict[str, bytes] = field(default_factory=dict)
    trials: dict[str, Callable] = field(default_factory=dict)

    async def handle(self, request: httpx.Request) -> httpx.Response:
        if request.url.host in self.dead:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, content=self.bodies.get(request.url.host, b""))

    async def admit(self, server: UpstreamServer) -> None:
        host = server.url.removeprefix("http://")
        if host in self.dead:
            raise LostServerError("refused")
        if host in self.trials:
            await self.trials[host]()

    @asynccontextmanager
    async def watched(self):
        servers = Servers(
            ["http://a", "http://b"], self.admit, transport=httpx.MockTransport(self.handle), check_every_s=CHECK_S
        )
        await servers.start()
        try:
            yield servers.all
        finally:
            await servers.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(CHECK_S)


@pytest.mark.parametrize("error", [TypeError("'NoneType' object is not subscriptable"), KeyError("choices"), OSError()])
def test_an_odd_answer_to_a_trial_does_not_end_the_watch(error):
    """Would catch a server that is never admitted again, and another's death that nobody notices."""
    pair = Pair()

    async def odd():
        tried.append(error)
        raise error

    async def go():
        async with pair.watched() as (a, b):
            pair.dead = {"a"}
            await until(lambda: not a.up)
            pair.dead, pair.trials = set(), {"a": odd}
            await until(lambda: len(tried) > 2)
            assert (a.up, b.up) == (False, True)
            assert a.why == (str(error) or "OSError")
            pair.trials = {}
            await until(lambda: a.up)
            pair.dead = {"b"}
            await until(lambda: not b.up)

    tried = []
    asyncio.run(go())


def test_a_health_check_that_cannot_be_read_counts_as_none():
    """Would catch a watch that ends at an answer nested deeper than it can be parsed."""
    pair = Pair()

    async def go():
        async with pair.watched() as (a, b):
            pair.bodies = {"a": b"[" * 200_000}
            await until(lambda: not a.up)
            assert b.up

    asyncio.run(go())


def test_a_trial_that_hangs_holds_up_no_other_server():
    """Would catch a dead server that keeps getting requests while another one is tried."""
    pair = Pair()

    async def hang():
        hanging.set()
        await asyncio.sleep(3600)

    async def go():
        async with pair.watched() as (a, b):
            pair.dead, pair.trials = {"a"}, {"a": hang}
            await until(lambda: not a.up)
            pair.dead = set()
            await hanging.wait()
            pair.dead = {"b"}
            await until(lambda: not b.up)

    hanging = asyncio.Event()
    asyncio.run(go())


def test_a_check_that_is_not_answered_ends_in_time(monkeypatch):
    """Would catch checks that wait as long as answers may, and a server that feeds them a byte at a time."""

    class Drip(httpx.AsyncByteStream):
        async def __aiter__(self):
            while True:
                await asyncio.sleep(CHECK_S)
                yield b" "

    async def go():
        servers = Servers(
            ["http://a"],
            Pair().admit,
            transport=httpx.MockTransport(lambda request: httpx.Response(200, stream=Drip())),
        )
        async with asyncio.timeout(3):
            assert not await servers.check(servers.all[0])
        assert servers.all[0].why == "no answer in 0.05 s"
        await servers.close()

    monkeypatch.setattr(vllm_servers, "CHECK_TIMEOUT_S", 0.05)
    asyncio.run(go())


def test_silence_is_noticed_as_soon_as_documented():
    """Would catch a time in the documentation that forgets what a check itself takes: 3 x (5 + 3) seconds at most."""
    assert vllm_servers.DEAD_AFTER * (5 + vllm_servers.CHECK_TIMEOUT_S) == 24
    assert "within\n25 seconds" in DOCUMENTED.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_end_at_line_feeds_alone(size, end):
    """Would catch an answer that breaks at a separator inside its text: httpx ends lines at all of these."""
    text = "a\u2028b\u2029c\u0085d\x0be\u00e9"
    data = (f"data: {json.dumps({'text': text}, ensure_ascii=False)}{end}{end}data: [DONE]{end}{end}").encode()

    class Parts(httpx.AsyncByteStream):
        async def __aiter__(self):
            for place in range(0, len(data), size):
                yield data[place : place + size]

    async def go():
        servers = Servers(
            ["http://a"],
            Pair().admit,
            transport=httpx.MockTransport(lambda request: httpx.Response(200, stream=Parts())),
        )
        chunks = [chunk async for chunk in servers.stream(servers.all[0], "/x", {})]
        await servers.close()
        return chunks

    assert asyncio.run(go()) == [{"text": text}]


def test_the_log_says_once_why_a_server_is_not_taken_and_where_it_is(caplog):
    """Would catch a line per check, and a log that cannot tell which server is meant."""
    pair = Pair(dead={"b"})

    async def go():
        async with pair.watched() as (_, b):
            await asyncio.sleep(CHECK_S * 10)
            assert not b.up

    asyncio.run(go())
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["vLLM server vllm-1 (http://b) is not taken: refused"]
