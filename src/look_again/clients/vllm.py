"""The client of vLLM servers: streams for an event loop, whole answers for threads; past any proxy of the environment.

Needs httpx, of the extras `serve` and `train`. The paper serves nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any

import httpx

from look_again.clients.vllm_answers import (
    LostServerError,
    ServerRefusalError,
    VllmError,
    read_chunks,
    read_error_message,
)

CONNECT_TIMEOUT_S = 10.0
FAILURES = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError)  # of a connection, or of what came over it


class VllmClient:
    """A pool of connections to any number of servers, for one event loop.

    api_key: of the servers. timeout_s: longest silence of an answer under way. transport: of httpx, for tests.
    """

    def __init__(
        self, *, api_key: str | None = None, timeout_s: float = 300.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
            transport=transport,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, url: str, *, timeout_s: float) -> Any:
        """The parsed answer to a GET, None where it is empty. Raises ServerRefusalError and LostServerError.

        timeout_s: for the whole of it.
        """
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.get(url)
            if response.is_error:
                raise ServerRefusalError(response.status_code, read_error_message(response.text))
            return response.json() if response.content else None
        except TimeoutError as error:
            raise LostServerError(f"no answer in {timeout_s:g} s") from error
        except FAILURES as error:
            raise LostServerError(explain(error)) from error

    async def stream(self, url: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a streamed answer; closing this ends the request on the server.

        Raises LostServerError, ServerRefusalError and ServerBusyError at any time.
        """
        try:
            async with self._client.stream("POST", url, json=body) as response:
                async for chunk in read_chunks(response):
                    yield chunk
        except FAILURES as error:
            raise LostServerError(explain(error)) from error


class VllmConnection:
    """One server, asked by any number of threads: `with VllmConnection(url) as vllm: vllm.post(path, body)`.

    timeout_s: longest silence of the server. remedy: what to do about a server that is missing or refuses, for errors.
    """

    def __init__(self, base_url: str, *, timeout_s: float, remedy: str) -> None:
        self.base_url, self.timeout_s, self.remedy = base_url.rstrip("/"), timeout_s, remedy
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.Client(timeout=timeout_s, limits=limits, trust_env=False)

    def __enter__(self) -> VllmConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str) -> Any:
        """The parsed answer to a GET, None where it is empty. Raises VllmError."""
        return self._ask("GET", path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The parsed answer to a POST, None where it is empty. Raises VllmError."""
        return self._ask("POST", path, json=dict(body or {}))

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        url = self.base_url + path
        try:
            response = self._client.request(method, url, **content)
            if response.is_error:
                raise VllmError(self._explain_refusal(url, response))
            return response.json() if response.content else None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise VllmError(f"{url} answered what is not JSON, so it is no vLLM server: {self.remedy}") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            waited = f" within {self.timeout_s:g} s" if isinstance(error, httpx.TimeoutException) else ""
            raise VllmError(f"no answer from {url}{waited} ({explain(error)}): {self.remedy}") from error

    def _explain_refusal(self, url: str, response: httpx.Response) -> str:
        message = read_error_message(response.text.strip())
        remedy = f": {self.remedy}" if response.status_code in (403, 404, 405) else ""
        return f"{url} answered {response.status_code} {response.reason_phrase}, {message!r}{remedy}"


def explain(error: Exception) -> str:
    """An exception in words; its type where it has none."""
    return str(error) or type(error).__name__
