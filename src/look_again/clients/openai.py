"""The client of OpenAI-compatible chat endpoints: request bodies, attempts and their errors, replies.

Any OpenAI-compatible server will do. The library's own retries are off: the data engine writes every attempt to its
ledger before it goes out, so attempts have to be ours (`try_attempts`). A key comes from the environment and is in no
file, ledger or message. The core is asynchronous; `BlockingClient` is for threads. The paper used four services and
says nothing of how.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit, urlunsplit

from look_again.extras import require
from look_again.images import encoded_data_url
from look_again.registry import resolve
from look_again.text.unicode import storable

TRY_AGAIN = (408, 409, 425, 429)  # and all from 500
SETUP_FAULTS = (401, 402, 403, 404)  # not the sample's fault: no other sample would fare better
SHOWN = 300  # characters of a server's message
MOST_TOKENS = 2**40  # of one reply; larger numbers are none
TEXT_PARTS = ("text", "output_text")
SECRET_CHARACTERS = 8  # shorter keys are not looked for in what a server writes
NO_KEY = "none"  # what servers without keys are sent


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A model behind a URL.

    key_env: the name of the environment variable that holds the key; None for servers without one.
    price_in, price_out: money per million tokens. concurrency: requests under way at once. rate: requests per second,
    None for no limit. timeout_s: of one attempt. attempts: of one request; waits between them double from backoff_s to
    max_wait_s, half of it chance, and are at least what Retry-After says. max_tokens: of a reply, None leaves it to the
    server. max_pixels: larger images are scaled down. seed: send the number of the sample as `seed`. body: further
    fields of every request, such as response_format; None takes one of ours out.

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
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"max_pixels of endpoint {self.name!r} is {self.max_pixels}: use 1 or more, or null")
        if min(self.price_in, self.price_out) < 0 or (self.rate is not None and not self.rate > 0):
            raise ValueError(f"endpoint {self.name!r}: prices are at least 0 and a rate is above 0")

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def key(self) -> str:
        """The key from the environment. ValueError when the variable is not set."""
        if self.key_env is None:
            return NO_KEY
        if not (key := os.environ.get(self.key_env)):
            raise ValueError(f"endpoint {self.name!r} takes its key from {self.key_env}, which is not set: export it")
        return key

    @property
    def address(self) -> str:
        """The base URL without a user name and password, for messages and records."""
        url = urlsplit(self.base_url)
        return urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2]))

    def fields(self, **options: Any) -> dict[str, Any]:
        """The fields of a request beside model and messages; None takes a field out."""
        fixed = {"max_tokens": self.max_tokens, "temperature": self.temperature, **self.body, **options}
        return {name: value for name, value in fixed.items() if value is not None}

    def request(self, messages: Any, **options: Any) -> dict[str, Any]:
        """The body of a chat request."""
        return {"model": self.model, "messages": messages, **self.fields(**options)}

    def wait_s(self, attempt: int, requested: float | None) -> float:
        """Seconds after the failed attempt number `attempt` (from 0): doubling, half of it chance; at least what the
        server requested."""
        wait = min(self.max_wait_s, self.backoff_s * 2**attempt) * (0.5 + random.random() / 2)
        return max(wait, min(requested or 0.0, self.max_wait_s))


def chat_messages(system: str, user: str, images: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """A system message if there is one, and a user's: images (media type and file) as data URLs, then the text."""
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": encoded_data_url(media_type, data)}} for media_type, data in images
    ]
    content.append({"type": "text", "text": user})
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": content}]


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

    def __init__(self, reason: str, wait_s: float | None = None, *, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.wait_s, self.timed_out = wait_s, timed_out


class UnreadableReplyError(AttemptError):
    """A reply of status 200 that is no chat completion. foreign: neither is it an error of such an endpoint."""

    def __init__(self, reason: str, *, foreign: bool) -> None:
        super().__init__(reason)
        self.foreign = foreign


class RequestRefusedError(ValueError):
    """The server will not answer this request, whenever it comes."""


class SetupError(ValueError):
    """The server answers nobody who asks like this: a wrong key, model or address, or no money left there."""


class Transport(Protocol):
    """Sends one request. Raises AttemptError, RequestRefusedError or SetupError."""

    async def __call__(self, body: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float) -> Reply: ...

    async def close(self) -> None: ...


class OpenAITransport:
    """A transport through the `openai` library. MissingExtraError without it, ValueError without the endpoint's key."""

    def __init__(self, endpoint: Endpoint, *, extra: str = "data") -> None:
        require("openai", extra=extra)
        from openai import AsyncOpenAI

        self._key = endpoint.key()
        self.client = AsyncOpenAI(
            base_url=endpoint.base_url, api_key=self._key, max_retries=0, timeout=endpoint.timeout_s
        )

    async def __call__(self, body: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float) -> Reply:
        import openai

        try:
            # The time-out of the library is that of each read: a server that trickles would hold it for ever.
            async with asyncio.timeout(timeout_s):
                answer = await self.client.post(
                    "/chat/completions", body=dict(body), cast_to=object, options={"headers": dict(headers)}
                )
        except openai.APIStatusError as error:
            raise_status_error(error.status_code, self._without_key(_server_message(error)), error.response.headers)
        except (openai.APITimeoutError, TimeoutError) as error:
            raise _time_out(timeout_s) from error
        except (ValueError, RecursionError) as error:
            reason = f"no reply: {type(error).__name__}: {_shown(error)}"  # the body is not JSON
            raise UnreadableReplyError(reason, foreign=True) from error
        except openai.APIError as error:
            reason = f"no reply: {type(error).__name__}: {self._without_key(_shown(error.__cause__ or error))}"
            raise (
                UnreadableReplyError(reason, foreign=False) if _broke_off(error) else AttemptError(reason)
            ) from error
        return parse_reply(answer)

    async def close(self) -> None:
        await self.client.close()

    def _without_key(self, text: str) -> str:
        """What a server wrote, should it repeat the key."""
        return text.replace(self._key, "***") if len(self._key) >= SECRET_CHARACTERS else text


ChatServer = Callable[[Mapping[str, Any], Mapping[str, str]], Awaitable[tuple[int, Mapping[str, str], Any]]]
"""A server as a function: body and headers to status, headers and body."""


class InProcessTransport:
    """A server inside this process, for tests, benchmarks and the offline demonstration."""

    def __init__(self, server: ChatServer) -> None:
        self.server = server

    async def __call__(self, body: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float) -> Reply:
        try:
            async with asyncio.timeout(timeout_s):
                status, reply_headers, answer = await self.server(body, headers)
        except TimeoutError as error:
            raise _time_out(timeout_s) from error
        if status >= 300:
            raise_status_error(status, str(answer), reply_headers)
        return parse_reply(answer)

    async def close(self) -> None:
        return None


IN_PROCESS_SERVERS = {"tabletop": "look_again.tabletop.endpoint:open_server"}
"""Functions from a base URL of that scheme to a server inside this process."""


def open_transport(endpoint: Endpoint) -> Transport:
    """The transport over HTTP, or in this process for a scheme in `IN_PROCESS_SERVERS`. ValueError for a bad URL."""
    scheme = endpoint.base_url.partition(":")[0]
    if scheme in IN_PROCESS_SERVERS:
        return InProcessTransport(resolve(IN_PROCESS_SERVERS[scheme])(endpoint.base_url))
    return OpenAITransport(endpoint)


async def try_attempts(endpoint: Endpoint, send: Callable[[int], Awaitable[Reply]]) -> Reply:
    """The reply of the first attempt that gets one, with waits between them; `send` is given the attempt's number.

    Raises the last AttemptError after `endpoint.attempts` of them, and at once whatever else `send` raises.
    """
    for attempt in range(endpoint.attempts - 1):
        try:
            return await send(attempt)
        except AttemptError as error:
            await asyncio.sleep(endpoint.wait_s(attempt, error.wait_s))
    return await send(endpoint.attempts - 1)


class BlockingClient:
    """An endpoint for callers in threads. Requests run in an event loop in a thread of their own."""

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self.endpoint, self.transport = endpoint, transport
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def complete(self, messages: Any) -> Reply:
        """The reply to these messages, after `endpoint.attempts` attempts at most.

        Raises AttemptError after the last of them, RequestRefusedError or SetupError.
        """
        body = self.endpoint.request(messages)
        reply = try_attempts(self.endpoint, lambda attempt: self.transport(body, {}, self.endpoint.timeout_s))
        return asyncio.run_coroutine_threadsafe(reply, self._loop).result()

    def close(self) -> None:
        """Close the connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self.transport.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)


def parse_reply(answer: Any) -> Reply:
    """A chat completion's first choice. UnreadableReplyError for any other JSON, such as an error of status 200.

    Content may be a text or a list of parts, of which the texts count. Numbers of tokens that are none read as 0.
    """
    try:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = _content(message.get("content")), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        foreign = not isinstance(answer, Mapping) or not {"choices", "error"} & set(answer)
        raise UnreadableReplyError(f"the reply is no chat completion: {_shown(answer)!r}", foreign=foreign) from error
    if isinstance(refusal, str) and refusal and not text:
        text, finish = refusal, "content_filter"
    tokens_in, tokens_out = (_count(answer.get("usage"), name) for name in ("prompt_tokens", "completion_tokens"))
    finish = finish if isinstance(finish, str) and finish else "stop"
    return Reply(storable(text), _shown(finish), tokens_in, tokens_out, _shown(answer.get("model") or ""))


def _content(content: Any) -> str:
    """The text of a message's content. ValueError where it has none."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) and "type" in part for part in content):
        raise ValueError("content is no text")
    texts = [part.get("text") for part in content if part["type"] in TEXT_PARTS]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a part of the content is no text")
    return "".join(texts)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0


def _shown(value: Any) -> str:
    """A value from a server, as a text that is short enough to be shown and kept."""
    try:
        return storable(str(value)[:SHOWN])
    except (ValueError, RecursionError):  # numbers of thousands of digits, lists nested as deep
        return f"a {type(value).__name__} that cannot be written"


def raise_status_error(status: int, message: str, headers: Mapping[str, str]) -> NoReturn:
    """The error that a status stands for."""
    reason = f"status {status}: {' '.join(message.split())[:SHOWN]}"
    if status in TRY_AGAIN or status >= 500:
        raise AttemptError(reason, retry_after_s(headers))
    raise SetupError(reason) if status in SETUP_FAULTS else RequestRefusedError(reason)


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
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return max(0.0, until - (time.time() if now is None else now))


def _broke_off(error: BaseException) -> bool:
    """Whether a reply had begun: its body is cut off, or not encoded as its headers say.

    By the names of the cause's class: which HTTP library `openai` is made with depends on its version.
    """
    cause = error.__cause__
    name = type(cause).__name__
    return name == "DecodingError" or (name == "RemoteProtocolError" and "body" in str(cause))


def _server_message(error: Any) -> str:
    """What the server wrote: the message of its error, else all of its body."""
    message = error.body.get("message") if isinstance(error.body, Mapping) else None
    return message if isinstance(message, str) and message else str(error.message)


def _time_out(timeout_s: float) -> AttemptError:
    return AttemptError(f"no reply within {timeout_s:g} s", timed_out=True)
