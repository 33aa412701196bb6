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
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import httpx

from look_again.serving.backend import BackendError
from look_again.serving.vllm.events import chunks_of, message_of
from look_again.serving.vllm.server import LostServerError, Server, ServerRefusalError, check_url

log = logging.getLogger(__name__)

DEAD_AFTER = 3  # health checks in a row without an answer
CHECK_TIMEOUT_S = 3.0  # for the whole of one
CONNECT_TIMEOUT_S = 10.0


class Servers:
    """The servers and the connections to them.

    admit: makes sure that a server is one of ours, before it gets requests; raises BackendError otherwise. api_key: of
    the servers. timeout_s: longest silence of an answer under way. check_every_s: between health checks. ValueError for
    a URL that holds a password.
    """

    def __init__(
        self,
        urls: Sequence[str],
        admit: Callable[[Server], Awaitable[None]],
        *,
        api_key: str | None = None,
        timeout_s: float = 300.0,
        check_every_s: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.all = [Server(check_url(url).rstrip("/"), f"vllm-{number}") for number, url in enumerate(urls)]
        self._admit, self._check_every_s = admit, check_every_s
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
            transport=transport,
            trust_env=False,
        )
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
        await self._client.aclose()

    def choose(self, conversation: str, avoid: Collection[str] = ()) -> Server:
        """The server of a conversation; one without a name goes where the fewest answers are under way.

        Raises BackendError where no server is left.
        """
        able = [server for server in self.all if server.up and server.url not in avoid]
        if self.closed or not able:
            raise BackendError("shutting down" if self.closed else "no vLLM server answers")
        if not conversation:
            return min(able, key=lambda server: len(server.streams))
        return max(able, key=lambda server: hashlib.sha256(f"{server.url} {conversation}".encode()).digest())

    async def ask(self, server: Server, path: str) -> Any:
        """The parsed answer to a GET. Raises ServerRefusalError and LostServerError."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                response = await self._client.get(server.url + path)
            if response.is_error:
                raise ServerRefusalError(response.status_code, message_of(response.text))
            return response.json() if response.content else None
        except TimeoutError as error:
            raise LostServerError(f"no answer in {CHECK_TIMEOUT_S:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise LostServerError(_reason(error)) from error

    async def stream(self, server: Server, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """What a server answers to a request, chunk by chunk; closing this ends the request on the server.

        Raises LostServerError, ServerRefusalError, BusyError for a server that says so, at any time.
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
        server: Server,
        path: str,
        body: Mapping[str, Any],
        chunks: asyncio.Queue[dict[str, Any] | Exception | None],
    ) -> None:
        """In a task of its own, so that a server that is marked down ends its streams although they stay silent."""
        try:
            async with self._client.stream("POST", server.url + path, json=body) as response:
                async for chunk in chunks_of(response):
                    chunks.put_nowait(chunk)
                chunks.put_nowait(None)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            chunks.put_nowait(LostServerError(_reason(error)))
        except Exception as error:  # whatever it is, the reader must not wait for ever
            chunks.put_nowait(error)

    async def check(self, server: Server) -> bool:
        """Whether a server answers its health check now."""
        try:
            await self.ask(server, "/health")
        except Exception as error:  # whatever an odd server says, it is looked after
            server.checks_failed += 1
            server.why = _reason(error)
            return False
        server.checks_failed = 0
        return True

    async def _keep_watch(self, server: Server) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            await self._look_after(server)

    async def _look_after(self, server: Server) -> None:
        if not server.up:
            await self._try(server)
        elif not await self.check(server) and server.checks_failed >= DEAD_AFTER:
            server.mark_down(server.why)

    async def _try(self, server: Server) -> None:
        """Admit a server, or say why not: in the log once, however often the reason is the same."""
        try:
            await self._admit(server)
        except Exception as error:  # whatever an odd server says, it is tried again
            if server.why != _reason(error):
                log.warning("vLLM server %s (%s) is not taken: %s", server.name, server.url, _reason(error))
            server.why = _reason(error)
        else:
            server.up, server.checks_failed = not self.closed, 0


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
