"""One chat completion over HTTP, from its first byte to its last, whatever happens in between.

Written as one ASGI response because everything has the same span: a place among the requests, the time limit, the watch
for a client that leaves, the answers under way (a task per choice, all of them stopped together), and the duty to end
with an answer or an error in the right shape. An error before the first byte is an HTTP status, one after it an event
of the stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from look_again.core.generate import Reflection
from look_again.serving.backend import Backend, BackendError, BusyError, Job, Started
from look_again.serving.choice import Choice, Piece, TextPiece, ToolCallsPiece
from look_again.serving.http import payloads
from look_again.serving.http.body import ClientLeftError, connected, read_json
from look_again.serving.http.errors import (
    ApiError,
    internal,
    shutting_down,
    timed_out,
    too_busy,
    translate_backend_error,
)
from look_again.serving.http.metrics import CLIENT_LEFT
from look_again.serving.http.service import ChatJobs, Service

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0  # for an error to reach a client that may not be reading
SEND_TIMEOUT_S = 30.0  # for a client to read what fills the connection


class ResponseWriter:
    """Writes the response. status: of HTTP, 0 so far. begun: headers went out. complete: the last byte went out."""

    def __init__(self, send: Send, id: str) -> None:
        self._send, self.id = send, id
        self.status, self.begun, self.complete = 0, False, False

    async def json(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        data = _dumps(body)
        await self._begin(status, {"content-type": "application/json", "content-length": str(len(data)), **headers})
        await self._body(data, more=False)

    async def event(self, payload: Any, name: str = "") -> None:
        """A server-sent event, with a name or without; the first opens the stream."""
        if not self.begun:
            # the last header keeps nginx from collecting the stream
            headers = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
            await self._begin(200, headers)
        data = payload.encode() if isinstance(payload, str) else _dumps(payload)
        named = f"event: {name}\n".encode() if name else b""
        await self._body(named + b"data: " + data + b"\n\n", more=True)

    async def end(self) -> None:
        await self._body(b"", more=False)

    async def fail(self, error: ApiError) -> None:
        """Say what went wrong, if anything can still be said."""
        if self.complete:
            return
        with suppress(TimeoutError, ClientLeftError):
            async with asyncio.timeout(LAST_WORDS_S):
                if not self.begun:
                    await self.json(error.status, error.body, error.headers)
                    return
                self.status = error.status
                await self.event(error.body)
                await self.end()

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.begun = status, True
        raw = [(name.encode(), value.encode()) for name, value in {**headers, "x-request-id": self.id}.items()]
        await self._transmit({"type": "http.response.start", "status": status, "headers": raw})

    async def _body(self, data: bytes, *, more: bool) -> None:
        await self._transmit({"type": "http.response.body", "body": data, "more_body": more})
        self.complete = not more

    async def _transmit(self, message: Message) -> None:
        """Raises ClientLeftError for a client that does not read."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S) as scope:
                await self._send(message)
        except TimeoutError:
            if scope.expired():
                raise ClientLeftError from None
            raise


class ChatCompletionResponse(Response):
    """The answer to one request, computed while it is sent."""

    id_prefix = "chatcmpl-"

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self._silent = True  # no text came yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        writer = ResponseWriter(send, f"{self.id_prefix}{secrets.token_hex(12)}")
        limits = self.service.limits
        seconds = limits.timeout_s
        try:
            with self.service.bodies.hold() as take:
                async with asyncio.timeout(seconds):
                    self.service.admission.check()  # before the body is read
                    body = await read_json(Request(scope, receive), limits, take, self.service.parse_long)
                    async with connected(receive), self.service.admission.place():
                        await self.converse(body, writer, started)
        except ApiError as error:
            await writer.fail(error)
        except BusyError as error:
            await writer.fail(too_busy(str(error), error.retry_after_s))
        except TimeoutError:
            await writer.fail(timed_out(seconds))
        except (ClientLeftError, ClientDisconnect):
            writer.status = CLIENT_LEFT
        except asyncio.CancelledError:  # the grace period is over: nothing waits for this task but its client
            await writer.fail(shutting_down())
        except Exception:
            log.exception("%s failed", writer.id)
            await writer.fail(internal())
        finally:
            self.note(writer, time.monotonic() - started)

    async def converse(self, body: Any, writer: ResponseWriter, started: float) -> None:
        """Answer a body. Raises ApiError and what a backend raises."""
        chat = await self.prepare(body)
        choices = self.service.choices(chat)
        try:
            await self.answer(chat, choices, writer, started)
        finally:
            self.service.metrics.answered(choices)
            self._log(chat, choices, writer)

    async def prepare(self, body: Any) -> ChatJobs:
        """The jobs of a body. Raises ApiError."""
        return await self.service.prepare(body)

    async def report(self, chat: ChatJobs, choices: Sequence[Choice]) -> dict[str, Any]:
        """What re-attention did, at the end of the answer, and where it looked if that was asked for."""
        report = payloads.report(chat.policy, choices, chat.notes, rows=chat.rows)
        if chat.attention:
            try:
                report["attention"] = await self.service.measure_attention(chat.jobs[0], choices[0])
            except ValueError as error:
                report |= {"attention": None, "notes": [*report["notes"], str(error)]}
        return report

    def note_first_text(self, piece: Piece | None, started: float) -> None:
        """Observe the time to the first text."""
        if self._silent and isinstance(piece, TextPiece):
            self._silent = False
            self.service.metrics.first_token.observe(time.monotonic() - started)

    async def answer(self, chat: ChatJobs, choices: Sequence[Choice], writer: ResponseWriter, started: float) -> None:
        """Generate, and send the answer as it comes or whole."""
        head = payloads.CompletionHeader(writer.id, int(time.time()), chat.request.model)
        left = len(choices)
        async with aclosing(fan_out(self.service.backend, chat.jobs, choices)) as pieces:
            async for index, piece in pieces:
                left -= piece is None
                self.note_first_text(piece, started)
                if chat.stream:
                    report = None if left else await self.report(chat, choices)
                    await writer.event(_chunk(head, chat, choices, index, piece, report))
        if not chat.stream:
            report = await self.report(chat, choices)
            await writer.json(200, payloads.completion(head, choices, report, chat.token_report), {})
            return
        if chat.include_usage:
            await writer.event(payloads.usage_chunk(head, choices))
        await writer.event("[DONE]")
        await writer.end()

    def note(self, writer: ResponseWriter, seconds: float) -> None:
        """Count the request."""
        self.service.metrics.requests.labels(str(writer.status)).inc()
        self.service.metrics.seconds.observe(seconds)

    def _log(self, chat: ChatJobs, choices: Sequence[Choice], writer: ResponseWriter) -> None:
        """One line in numbers: texts are the caller's alone."""
        sampled, put_back = sum(c.sampled for c in choices), sum(c.reinserted for c in choices)
        text = "%s %s: %d images, %d choices, %d tokens sampled, %d put back"
        log.info(text, writer.id, chat.policy.mode, len(chat.jobs[0].images), len(choices), sampled, put_back)


class TokenizeResponse(ChatCompletionResponse):
    """The tokens of one text or conversation, within the same bounds."""

    id_prefix = "tokenize-"

    async def converse(self, body: Any, writer: ResponseWriter, started: float) -> None:
        await writer.json(200, await self.service.tokenize(body), {})

    def note(self, writer: ResponseWriter, seconds: float) -> None:
        """It is no answer, so none is counted."""


def _chunk(
    head: payloads.CompletionHeader,
    chat: ChatJobs,
    choices: Sequence[Choice],
    index: int,
    piece: Piece | None,
    report: dict[str, Any] | None,
) -> dict[str, Any]:
    """A piece as a chunk of the stream. report: with the end of the last choice."""
    if isinstance(piece, Started):
        return payloads.opening(head, index) | chat.token_report.prompt(choices[index])
    if isinstance(piece, TextPiece):
        return payloads.text_chunk(head, index, piece, chat.token_report.tokens(choices[index], piece.field))
    if isinstance(piece, ToolCallsPiece):
        return payloads.chunk(head, index, {"tool_calls": payloads.tool_calls(piece.calls, stream=True)})
    if isinstance(piece, Reflection):
        return payloads.chunk(
            head, index, {}, {"reflections": [payloads.describe_reflection(index, piece, rows=chat.rows)]}
        )
    return payloads.closing(head, index, choices[index], report, chat.token_report.tokens(choices[index]))


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


async def fan_out(
    backend: Backend, jobs: Sequence[Job], choices: Sequence[Choice]
) -> AsyncGenerator[tuple[int, Piece | None], None]:
    """(choice, piece) as they come, (choice, None) where one is complete. Closing it stops every generation.

    Raises ApiError for what a caller should know, and whatever else a backend raises.
    """
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_pump(backend, job, index, choice, queue))
        for index, (job, choice) in enumerate(zip(jobs, choices, strict=True))
    ]
    try:
        left = len(tasks)
        while left:
            index, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            left -= piece is None
            yield index, piece
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    backend: Backend, job: Job, index: int, choice: Choice, queue: asyncio.Queue[tuple[int, Piece | Exception | None]]
) -> None:
    """One choice's pieces into the queue, then None or what went wrong. A stop string closes the generation."""
    try:
        async with aclosing(backend.generate(job)) as events:
            async for event in events:
                for piece in choice.take(event):
                    queue.put_nowait((index, piece))
                if choice.ended:
                    break
        if not choice.ended:
            raise BackendError("it stopped in the middle of an answer")
        queue.put_nowait((index, None))
    except Exception as error:
        known = translate_backend_error(error, started=choice.started is not None, upstream=backend.name == "vllm")
        queue.put_nowait((index, known or error))
