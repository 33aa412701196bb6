"""Answers of a vLLM server, read: the chunks of a stream, the fields of a whole answer, and its errors.

Lines of a stream end at \\n here, with or without \\r before it. httpx ends them wherever `str.splitlines` does, so
also at U+2028, which JSON may hold as it is. The paper serves nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx


class VllmError(ValueError):
    """vLLM cannot be reached, or answers what cannot be used; the message says what to do."""


class LostServerError(Exception):
    """The connection to a server broke, or it cannot go on: the rest is to be asked of another one."""


class ServerRefusalError(Exception):
    """A server answered a request with an error. status: of HTTP; of an error inside a stream its own code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServerBusyError(Exception):
    """A server has no room for another request now. retry_after_s: when to try again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


async def read_chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a streamed answer, whole: LostServerError where it breaks off.

    Raises ServerRefusalError and ServerBusyError for a server that says so, at any time.
    """
    if response.is_error:
        raise _build_refusal(response, (await response.aread()).decode(errors="replace"))
    async for line in read_lines(response.aiter_bytes()):
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield _parse_chunk(line[6:])
    raise LostServerError("the answer broke off")


async def read_lines(parts: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """The lines of a stream, without their ends."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def _parse_chunk(data: str) -> dict[str, Any]:
    """One event of a stream. Raises ServerRefusalError for an error, VllmError for an event without the form."""
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise _malformed(data) from None
    if not isinstance(chunk, dict):
        raise _malformed(data)
    if error := chunk.get("error"):
        details = error if isinstance(error, dict) else {"message": error}
        code = details.get("code")
        raise ServerRefusalError(code if type(code) is int else 500, str(details.get("message"))[:500])
    if not _has_form(chunk):
        raise _malformed(data)
    return chunk


def _malformed(data: str) -> VllmError:
    return VllmError(f"malformed answer of vLLM: {data[:200]}; this speaks to vLLM 0.32")


def _has_form(chunk: Mapping[str, Any]) -> bool:
    """Whether the readers below can read it."""
    try:
        tokens = read_tokens(chunk)
        list(zip(tokens, read_log_probs(chunk), strict=False))
        cached = read_cached_tokens(chunk, None)
        is_unfinished(chunk)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return all(type(number) is int for number in (*tokens, cached or 0))


def _build_refusal(response: httpx.Response, text: str) -> Exception:
    if response.status_code == 429:
        wait = response.headers.get("Retry-After", "")
        return ServerBusyError("the vLLM server is busy", float(wait) if wait.isdigit() else 1.0)
    if response.status_code in (502, 503, 504):
        return LostServerError(read_error_message(text) or f"status {response.status_code}")
    return ServerRefusalError(response.status_code, read_error_message(text))


def read_error_message(text: str) -> str:
    """The message in an error's body, up to 500 characters."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(text)["error"]["message"])[:500]
    return text[:500]


def read_tokens(chunk: Mapping[str, Any]) -> list[int]:
    """The tokens that one chunk of a stream brings."""
    return [token for choice in chunk.get("choices") or [] for token in choice.get("token_ids") or []]


@dataclass(frozen=True)
class LogProbs:
    """Of one sampled token, in nats. likeliest: (token, log-probability), descending."""

    log_prob: float
    likeliest: tuple[tuple[int, float], ...]


def read_log_probs(chunk: Mapping[str, Any]) -> Iterator[LogProbs | None]:
    """Log-probabilities of the tokens that a chunk of the token endpoint brings, None once there are no more.

    Raises VllmError for an entry that names no token.
    """
    for choice in chunk.get("choices") or []:
        for entry in (choice.get("logprobs") or {}).get("content") or []:
            top = [(_parse_token_id(one), float(one["logprob"])) for one in entry.get("top_logprobs") or []]
            yield LogProbs(float(entry["logprob"]), tuple(sorted(top, key=lambda pair: -pair[1])))
    while True:
        yield None


def _parse_token_id(entry: Mapping[str, Any]) -> int:
    number = entry.get("token_id")
    if not isinstance(number, int):
        raise VllmError(f"malformed answer of vLLM: {str(entry)[:200]} names no token; this speaks to vLLM 0.32")
    return number


def read_cached_tokens(chunk: Mapping[str, Any], known: int | None) -> int | None:
    """How many tokens of the prompt were computed before, as the last chunk says; `known` where this one does not."""
    details = (chunk.get("usage") or {}).get("prompt_tokens_details") or {}
    return details.get("cached_tokens", known)


def is_unfinished(chunk: Mapping[str, Any]) -> bool:
    """Whether the server means to sample more."""
    return any(choice.get("finish_reason") is None for choice in chunk.get("choices") or [])


def read_field(answer: Any, name: str, kind: type) -> Any:
    """`answer[name]`. Raises VllmError where it is missing or of another type."""
    value = answer.get(name) if isinstance(answer, Mapping) else None
    if not isinstance(value, kind):
        raise VllmError(f"malformed answer of vLLM: no {name!r} in {str(answer)[:200]}; this speaks to vLLM 0.32")
    return value
