"""One chat completion over HTTP, from its first byte to its last, whatever happens in between.

Written as one ASGI response because everything has the same span: a place among the requests, the time limit, the watch
for a client that leaves, and the duty to end with an answer or an error in the right shape. An error before the first
byte is an HTTP status, one after it an event of the stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from look_again.core.generate import Reflection
from look_again.serving.backend import Started
from look_again.serving.choice import Choice, Piece, TextPiece
from look_again.serving.http import payloads
from look_again.serving.http.body import read_json
from look_again.serving.http.disconnect import ClientLeftError, Inbox, connected
from look_again.serving.http.errors import ApiError, internal, shutting_down, timed_out
from look_again.serving.http.fan_out import answers
from look_again.serving.http.metrics import CLIENT_LEFT
from look_again.serving.http.service import Ask, Service

log = logging.getLogger(__name__)

LAST_WORDS_S = 1.0  # for an error to reach a client that may not be reading


class Reply:
    """What is sent. status: of HTTP, 0 so far. begun: headers went out."""

    def __init__(self, send: Send, id: str) -> None:
        self._send, self.id = send, id
        self.status, self.begun, self.complete = 0, False, False

    async def json(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        data = _dumps(body)
        await self._begin(status, {"content-type": "application/json", "content-length": str(len(data)), **headers})
        await self._body(data, more=False)

    async def event(self, payload: Any) -> None:
        """A server-sent event; the first opens the stream."""
        if not self.begun:
            # the last header keeps nginx from collecting the stream
            headers = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
            await self._begin(200, headers)
        data = payload.encode() if isinstance(payload, str) else _dumps(payload)
        await self._body(b"data: " + data + b"\n\n", more=True)

    async def end(self) -> None:
        await self._body(b"", more=False)

    async def fail(self, error: ApiError) -> None:
        """Say what went wrong, if anything can still be said."""
        if self.complete:
            return
        with suppress(TimeoutError):
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
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def _body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self.complete = not more


class Exchange(Response):
    """The answer to one request, made while it is sent."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        reply = Reply(send, f"chatcmpl-{secrets.token_hex(12)}")
        seconds = self.service.limits.timeout_s
        inbox = Inbox(receive)
        try:
            async with asyncio.timeout(seconds), self.service.admission.place(lambda: connected(inbox)):
                body = await read_json(Request(scope, inbox.receive), self.service.limits)
                async with connected(inbox):
                    await self._converse(body, reply, started)
        except ApiError as error:
            await reply.fail(error)
        except TimeoutError:
            await reply.fail(timed_out(seconds))
        except (ClientLeftError, ClientDisconnect):
            reply.status = CLIENT_LEFT
        except asyncio.CancelledError:  # the grace period is over: nothing waits for this task but its client
            await reply.fail(shutting_down())
        except Exception:
            log.exception("%s failed", reply.id)
            await reply.fail(internal())
        finally:
            self._note(reply, time.monotonic() - started)

    async def _converse(self, body: Any, reply: Reply, started: float) -> None:
        ask = await self.service.ask(body)
        choices = self.service.choices(ask)
        try:
            await self._answer(ask, choices, reply, started)
        finally:
            self.service.metrics.answered(choices)
            self._log(ask, choices, reply)

    async def _answer(self, ask: Ask, choices: Sequence[Choice], reply: Reply, started: float) -> None:
        head = payloads.Head(reply.id, int(time.time()), ask.request.model)
        left, silent = len(choices), True
        async with aclosing(answers(self.service.backend, ask.jobs, choices)) as pieces:
            async for index, piece in pieces:
                left -= piece is None
                if silent and isinstance(piece, TextPiece):
                    silent = False
                    self.service.metrics.first_token.observe(time.monotonic() - started)
                if ask.stream:
                    await reply.event(_chunk(head, ask, choices, index, piece, last=not left))
        if not ask.stream:
            report = payloads.report(ask.policy, choices, ask.notes, rows=ask.rows)
            await reply.json(200, payloads.completion(head, choices, report), {})
            return
        if ask.include_usage:
            await reply.event(payloads.usage_chunk(head, choices))
        await reply.event("[DONE]")
        await reply.end()

    def _note(self, reply: Reply, seconds: float) -> None:
        self.service.metrics.requests.labels(str(reply.status)).inc()
        self.service.metrics.seconds.observe(seconds)

    def _log(self, ask: Ask, choices: Sequence[Choice], reply: Reply) -> None:
        """One line in numbers: what was asked and said is nobody's business but the caller's."""
        sampled, put_back = sum(c.sampled for c in choices), sum(c.reinserted for c in choices)
        text = "%s %s: %d images, %d choices, %d tokens sampled, %d put back"
        log.info(text, reply.id, ask.policy.mode, len(ask.jobs[0].images), len(choices), sampled, put_back)


def _chunk(
    head: payloads.Head, ask: Ask, choices: Sequence[Choice], index: int, piece: Piece | None, *, last: bool
) -> dict[str, Any]:
    """A piece as a chunk of the stream. last: it ends the last choice, so the report goes with it."""
    if isinstance(piece, Started):
        return payloads.opening(head, index)
    if isinstance(piece, TextPiece):
        return payloads.chunk(head, index, {piece.field: piece.text})
    if isinstance(piece, Reflection):
        return payloads.chunk(head, index, {}, {"reflections": [payloads.reflection(index, piece, rows=ask.rows)]})
    report = payloads.report(ask.policy, choices, ask.notes, rows=ask.rows) if last else None
    return payloads.closing(head, index, choices[index], report)


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
