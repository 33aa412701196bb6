"""vLLM servers behind one backend: which one gets a request, what it streams back, and which ones are alive.

A conversation stays with one server while that is up, by rendezvous hashing: when a server goes, only its own
conversations move. Requests are server-sent events over one pool of connections, past any proxy that the environment
names. A server that dies is noticed by its connections or, where those stay silent, by health checks. The paper serves
nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import httpx

from lookagain.serving.backend import BackendError, BusyError
from lookagain.serving.vllm_server import LostServerError, Server, ServerRefusalError

DEAD_AFTER = 3  # health checks in a row without an answer
CHECK_TIMEOUT_S = 10.0


class Servers:
    """The servers and the connections to them.

    admit: makes sure that a server is one of ours, before it gets requests; raises BackendError otherwise. api_key: of
    the servers. timeout_s: longest silence of an answer under way. check_every_s: between health checks.
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
        self.all = [Server(url.rstrip("/")) for url in urls]
        self._admit, self._check_every_s = admit, check_every_s
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=CHECK_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
            transport=transport,
            trust_env=False,
        )
        self._watch: asyncio.Task[None] | None = None
        self.closed = False

    async def start(self) -> None:
        """Admit what is there and watch it. Raises BackendError, which names every server's reason, if none is."""
        await asyncio.gather(*(self._try(server) for server in self.all))
        if not any(server.up for server in self.all):
            raise BackendError("; ".join(f"{server.url}: {server.why}" for server in self.all))
        self._watch = asyncio.create_task(self._keep_watch())

    async def close(self) -> None:
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
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
            response = await self._client.get(server.url + path, timeout=CHECK_TIMEOUT_S)
            if response.is_error:
                raise ServerRefusalError(response.status_code, _message(response.text))
            return response.json() if response.content else None
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
                if response.is_error:
                    raise _refusal(response, (await response.aread()).decode(errors="replace"))
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        return chunks.put_nowait(None)
                    if line.startswith("data: "):
                        chunks.put_nowait(_chunk(line[6:]))
                raise LostServerError("the answer broke off")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            chunks.put_nowait(LostServerError(_reason(error)))
        except Exception as error:  # whatever it is, the reader must not wait for ever
            chunks.put_nowait(error)

    async def check(self, server: Server) -> bool:
        """Whether a server answers its health check now."""
        try:
            await self.ask(server, "/health")
        except (ServerRefusalError, LostServerError) as error:
            server.checks_failed += 1
            server.why = _reason(error)
            return False
        server.checks_failed = 0
        return True

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            await asyncio.gather(*(self._look_after(server) for server in self.all))

    async def _look_after(self, server: Server) -> None:
        if not server.up:
            await self._try(server)
        elif not await self.check(server) and server.checks_failed >= DEAD_AFTER:
            server.mark_down(server.why)

    async def _try(self, server: Server) -> None:
        """Admit a server, or say why not."""
        try:
            await self._admit(server)
        except (BackendError, BusyError, LostServerError, ServerRefusalError) as error:
            server.why = _reason(error)
        else:
            server.up, server.checks_failed = not self.closed, 0


def _chunk(data: str) -> dict[str, Any]:
    """One event of a stream. Raises ServerRefusalError for one that holds an error."""
    chunk = json.loads(data)
    if not isinstance(chunk, dict):
        raise LostServerError(f"malformed answer: {data[:200]}")
    if error := chunk.get("error"):
        said = error if isinstance(error, dict) else {"message": error}
        raise ServerRefusalError(int(said.get("code") or 500), str(said.get("message"))[:500])
    return chunk


def _refusal(response: httpx.Response, text: str) -> Exception:
    if response.status_code == 429:
        wait = response.headers.get("Retry-After", "")
        return BusyError("the vLLM server is busy", float(wait) if wait.isdigit() else 1.0)
    if response.status_code in (502, 503, 504):
        return LostServerError(_message(text) or f"status {response.status_code}")
    return ServerRefusalError(response.status_code, _message(text))


def _message(text: str) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(text)["error"]["message"])[:500]
    return text[:500]


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
