"""Endpoints that answer chat requests, and the two ways of reaching one: over HTTP, or inside this process.

Any OpenAI-compatible server will do. The client's own retries are off: every attempt is written to the ledger before it
goes out, so attempts have to be ours. A key comes from the environment and is in no file, ledger or message. The paper
used four services and says nothing of how.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from look_again.extras import require
from look_again.pipeline.contents import storable

TRY_AGAIN = (408, 409, 425, 429)  # and all from 500
SETUP_FAULTS = (401, 402, 403, 404)  # not the row's fault: no other row would fare better
SHOWN = 300  # characters of a server's message


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model behind a URL.

    key_env: the name of the environment variable that holds the key; None for servers without one.
    price_in, price_out: money per million tokens. concurrency: requests under way at once. rate: requests per second,
    None for no limit. timeout_s: of one attempt. attempts: of one request; waits between them double from backoff_s to
    max_wait_s, half of it chance, and are at least what Retry-After says. max_tokens: of a reply, None leaves it to the
    server. max_pixels: larger images are scaled down. seed: send the number of the sample as `seed`. body: further
    fields of every request, such as response_format.

    Raises ValueError for values out of range.
    """

    name: str
    base_url: str
    model: str
    key_env: str | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    concurrency: int = 8
    rate: float | None = None
    timeout_s: float = 120.0
    attempts: int = 6
    backoff_s: float = 1.0
    max_wait_s: float = 60.0
    max_tokens: int | None = 2048
    temperature: float | None = None
    max_pixels: int | None = None
    seed: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of endpoint {self.name!r} is {getattr(self, name)}: use 1 or more")
        for name in ("timeout_s", "backoff_s", "max_wait_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of endpoint {self.name!r} is {getattr(self, name)}: use more than 0")
        if min(self.price_in, self.price_out) < 0 or (self.rate is not None and not self.rate > 0):
            raise ValueError(f"endpoint {self.name!r}: prices are at least 0 and a rate is above 0")

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def key(self) -> str:
        """The key from the environment. ValueError when the variable is not set."""
        if self.key_env is None:
            return "none"
        if not (key := os.environ.get(self.key_env)):
            raise ValueError(f"endpoint {self.name!r} takes its key from {self.key_env}, which is not set: export it")
        return key


@dataclass(frozen=True)
class Reply:
    """What came back. finish: "stop", "length", "content_filter", … as the server says."""

    text: str
    finish: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    model: str = ""


class AttemptError(ValueError):
    """An attempt without a reply that may go better the next time. wait_s: what the server asks for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class RequestRefusedError(ValueError):
    """The server will not answer this request, whenever it comes."""


class SetupError(ValueError):
    """The server answers nobody who asks like this: a wrong key, model or address, or no money left there."""


class Transport(Protocol):
    """Sends one request. Raises AttemptError, RequestRefusedError or SetupError."""

    async def __call__(self, body: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float) -> Reply: ...

    async def close(self) -> None: ...


class OpenAITransport:
    """Through the `openai` client. MissingExtraError without it, ValueError without the endpoint's key."""

    def __init__(self, endpoint: Endpoint) -> None:
        require("openai", extra="data")
        from openai import AsyncOpenAI

        self.client = AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.key(), max_retries=0)

    async def __call__(self, body: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float) -> Reply:
        import openai

        try:
            # The time-out of the client is that of each read: a server that trickles would hold it for ever.
            async with asyncio.timeout(timeout_s):
                answer = await self.client.post(
                    "/chat/completions", body=dict(body), cast_to=object, options={"headers": dict(headers)}
                )
        except openai.APIStatusError as error:
            raise_for(error.status_code, error.message, error.response.headers)
        except (openai.APIError, TimeoutError, ValueError) as error:  # ValueError: a body that is not JSON
            raise AttemptError(_reason(error, timeout_s)) from error
        return reply_of(answer)

    async def close(self) -> None:
        await self.client.close()


Answering = Callable[[Mapping[str, Any], Mapping[str, str]], Awaitable[tuple[int, Mapping[str, str], Any]]]
"""A server as a function: body and headers to status, headers and body."""


class InProcessTransport:
    """A server inside this process, for tests, benchmarks and the offline demonstration."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering

    async def __call__(self, body: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float) -> Reply:
        try:
            async with asyncio.timeout(timeout_s):
                status, said, answer = await self.answering(body, headers)
        except TimeoutError as error:
            raise AttemptError(_reason(error, timeout_s)) from error
        if status >= 300:
            raise_for(status, str(answer), said)
        return reply_of(answer)

    async def close(self) -> None:
        return None


def reply_of(answer: Any) -> Reply:
    """A chat completion's first choice. AttemptError for what is none, or an error in a body of status 200."""
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text = choice["message"].get("content") or ""
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        if not isinstance(text, str):
            raise TypeError("content is no text")
        refusal = choice["message"].get("refusal")
        finish = "content_filter" if refusal and not text else str(choice.get("finish_reason") or "stop")
        said, model = storable(text or str(refusal or "")), storable(str(answer.get("model") or ""))
        return Reply(said, storable(finish), counts[0], counts[1], model)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise AttemptError(f"the reply is no chat completion: {str(answer)[:SHOWN]!r}") from error


def raise_for(status: int, message: str, headers: Mapping[str, str]) -> NoReturn:
    """The error that a status stands for."""
    said = f"status {status}: {' '.join(message.split())[:SHOWN]}"
    if status in TRY_AGAIN or status >= 500:
        raise AttemptError(said, retry_after_s(headers))
    raise SetupError(said) if status in SETUP_FAULTS else RequestRefusedError(said)


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a server asks to wait, from `retry-after-ms` or `Retry-After` (seconds or a date); None without."""
    lower = {name.lower(): value for name, value in headers.items()}
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(lower[name]) / scale)
        except (KeyError, ValueError):
            continue
    try:
        until = email.utils.parsedate_to_datetime(lower["retry-after"]).timestamp()
    except (KeyError, ValueError):
        return None
    return max(0.0, until - (time.time() if now is None else now))


def _reason(error: BaseException, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no reply within {timeout_s:g} s"
    return f"no reply: {type(error).__name__}: {str(error)[:SHOWN]}"
