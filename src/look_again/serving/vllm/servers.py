"""vLLM servers behind one backend: which one gets a request, what it streams back, and which ones are alive.

A conversation stays with one server while that is up, by rendezvous hashing: when a server goes, only its own
conversations move. Requests are server-sent events over one pool of connections, past any proxy that the environment
names. A server that dies is noticed by its connections or, where those stay silent, by health checks, for every server
in a task of its own: whatever one of them does, the others are looked after. The paper serves nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from look_again.clients.vllm import VllmClient, explain
from look_again.clients.vllm_answers import LostServerError
from look_again.clients.vllm_requests import read_base_url
from look_again.serving.backend import BackendError

log = logging.getLogger(__name__)

DEAD_AFTER = 3  # health checks in a row without an answer
CHECK_TIMEOUT_S = 3.0  # for the whole of one
KNOWN_UUIDS = 50_000  # remembered per server; a forgotten image is sent again


@dataclass
class UpstreamServer:
    """One vLLM server. up: it may get requests. why: the reason that it does not. known: uuids of images it has.

    name: for clients, who are not told the URL. model: the name of the model there. max_context: its tokens. chat: it
    takes no token ids, so requests go to its chat endpoint.
    """

    url: str
    name: str = "vllm-0"
    up: bool = False
    why: str = "not reached yet"
    model: str = ""
    max_context: int = 0
    chat: bool = False
    checks_failed: int = 0
    known: OrderedDict[str, None] = field(default_factory=OrderedDict)
    streams: set[asyncio.Task[None]] = field(default_factory=set)

    def learn(self, uuids: Collection[str]) -> None:
        """It has the bytes of these images."""
        for uuid in uuids:
            self.known[uuid] = None
            self.known.move_to_end(uuid)
        while len(self.known) > KNOWN_UUIDS:
            self.known.popitem(last=False)

    def forget(self, uuids: Collection[str]) -> None:
        for uuid in uuids:
            self.known.pop(uuid, None)

    def mark_down(self, why: str, level: int = logging.WARNING) -> None:
        """Nothing goes there until it is admitted again, and what waits for its answers stops waiting."""
        if self.up:
            log.log(level, "vLLM server %s (%s) is out: %s", self.name, self.url, why)
        self.up, self.why = False, why
        self.known.clear()
        for stream in list(self.streams):
            stream.cancel()


class Servers:
    """The servers and the connections to them.

    admit: makes sure that a server is one of ours, before it gets requests; raises BackendError otherwise. api_key: of
    the servers. timeout_s: longest silence of an answer under way. check_every_s: between health checks. ValueError for
    a URL that holds a password.
    """

    def __init__(
        self,
        urls: Sequence[str],
        admit: Callable[[UpstreamServer], Awaitable[None]],
        *,
        api_key: str | None = None,
        timeout_s: float = 300.0,
        check_every_s: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.all = [UpstreamServer(read_base_url(url), f"vllm-{number}") for number, url in enumerate(urls)]
        self._admit, self._check_every_s = admit, check_every_s
        self._client = VllmClient(api_key=api_key, timeout_s=timeout_s, transport=transport)
        self._watches: list[asyncio.Task[None]] = []
        self.closed = False

    async def start(self) -> None:
        """Admit what is there and watch it. Raises BackendError, which names every server's reason, if none is."""
        await asyncio.gather(*(self._try(server) for server in self.all))
        if not any(server.up for server in self.all):
            raise BackendError("; ".join(f"{server.url}: {server.why}" for server in self.all))
        self._watches = [asyncio.create_task(self._keep_watch(server)) for server in self.all]

    async def close(self) -> None:
        self.closed = True
        for watch in self._watches:
            watch.cancel()
        for server in self.all:
            server.mark_down("shutting down", logging.DEBUG)
        await self._client.close()

    def choose(self, conversation: str, avoid: Collection[str] = ()) -> UpstreamServer:
        """The server of a conversation; one without a name goes where the fewest answers are under way.

        Raises BackendError where no server is left.
        """
        able = [server for server in self.all if server.up and server.url not in avoid]
        if self.closed or not able:
            raise BackendError("shutting down" if self.closed else "no vLLM server answers")
        if not conversation:
            return min(able, key=lambda server: len(server.streams))
        return max(able, key=lambda server: hashlib.sha256(f"{server.url} {conversation}".encode()).digest())

    async def ask(self, server: UpstreamServer, path: str) -> Any:
        """The parsed answer to a GET. Raises ServerRefusalError and LostServerError."""
        return await self._client.get(server.url + path, timeout_s=CHECK_TIMEOUT_S)

    async def stream(
        self, server: UpstreamServer, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What a server answers to a request, chunk by chunk; closing this ends the request on the server.

        Raises LostServerError, ServerRefusalError and ServerBusyError at any time.
        """
        chunks: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        pump = asyncio.create_task(self._pump(server, path, body, chunks))
        pump.add_done_callback(
            lambda task: chunks.put_nowait(LostServerError(server.why)) if task.cancelled() else None
        )
        server.streams.add(pump)
        try:
            while (chunk := await chunks.get()) is not None:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            server.streams.discard(pump)
            pump.cancel()
            with suppress(asyncio.CancelledError):
                await pump

    async def _pump(
        self,
        server: UpstreamServer,
        path: str,
        body: Mapping[str, Any],
        chunks: asyncio.Queue[dict[str, Any] | Exception | None],
    ) -> None:
        """In a task of its own, so that a server that is marked down ends its streams although they stay silent."""
        try:
            async with aclosing(self._client.stream(server.url + path, body)) as answer:
                async for chunk in answer:
                    chunks.put_nowait(chunk)
            chunks.put_nowait(None)
        except Exception as error:  # whatever it is, the reader must not wait for ever
            chunks.put_nowait(error)

    async def check(self, server: UpstreamServer) -> bool:
        """Whether a server answers its health check now."""
        try:
            await self.ask(server, "/health")
        except Exception as error:  # whatever an odd server says, it is looked after
            server.checks_failed += 1
            server.why = explain(error)
            return False
        server.checks_failed = 0
        return True

    async def _keep_watch(self, server: UpstreamServer) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            await self._look_after(server)

    async def _look_after(self, server: UpstreamServer) -> None:
        if not server.up:
            await self._try(server)
        elif not await self.check(server) and server.checks_failed >= DEAD_AFTER:
            server.mark_down(server.why)

    async def _try(self, server: UpstreamServer) -> None:
        """Admit a server, or say why not: in the log once, however often the reason is the same."""
        try:
            await self._admit(server)
        except Exception as error:  # whatever an odd server says, it is tried again
            if server.why != explain(error):
                log.warning("vLLM server %s (%s) is not taken: %s", server.name, server.url, explain(error))
            server.why = explain(error)
        else:
            server.up, server.checks_failed = not self.closed, 0
