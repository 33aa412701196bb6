"""What a vLLM server says, read: the server-sent events of an answer, and its errors.

Lines end at \\n here, with or without \\r before it. httpx ends them wherever `str.splitlines` does, so also at U+2028,
which JSON may hold as it is. The paper serves nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import Any

import httpx

from look_again.serving.backend import BusyError
from look_again.serving.vllm.server import LostServerError, ServerRefusalError


async def chunks_of(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a streamed answer, whole: LostServerError where it breaks off. Otherwise as `Servers.stream`."""
    if response.is_error:
        raise _refusal(response, (await response.aread()).decode(errors="replace"))
    async for line in lines_of(response.aiter_bytes()):
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield _chunk(line[6:])
    raise LostServerError("the answer broke off")


async def lines_of(parts: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The lines of a stream, without their ends."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


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
        return LostServerError(message_of(text) or f"status {response.status_code}")
    return ServerRefusalError(response.status_code, message_of(text))


def message_of(text: str) -> str:
    """What an error's body says, up to 500 characters."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(text)["error"]["message"])[:500]
    return text[:500]
