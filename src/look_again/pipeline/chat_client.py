"""The client that requests go through: once each, within rate and budget, written down before they leave.

`Chat.ask` is all that a stage sees of it. A request is known by its key: a hash of the stage, the row, the endpoint and
model, everything that is sent, and the number of the ask. A reply that is in the ledger is never asked for again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from look_again.clients.openai import (
    AttemptError,
    Endpoint,
    Reply,
    RequestRefusedError,
    SetupError,
    chat_messages,
    try_attempts,
)
from look_again.data.encoded_images import sendable
from look_again.data.image_files import ImageSource
from look_again.pipeline.budget import Budget, BudgetLike, BudgetLimits
from look_again.pipeline.contents import as_text, compute_digest
from look_again.pipeline.endpoint_pool import EndpointDownError, EndpointState
from look_again.pipeline.ledger.commit import Committer
from look_again.pipeline.ledger.items import WorkItem
from look_again.pipeline.ledger.ledger import Ledger, Op
from look_again.text.unicode import storable

KEY_HEADER, ATTEMPT_HEADER = "Idempotency-Key", "X-Attempt"


class Halt(Exception):  # noqa: N818 - no error: the run stops and can go on later
    """Nothing more is sent: the budget is spent, the run was interrupted, or an endpoint is set up wrongly."""


class ChatClient:
    """All endpoints of a run, its ledger and its budget; None for no limits."""

    def __init__(
        self, ledger: Ledger, states: Mapping[str, EndpointState], session: int, budget: BudgetLike | None = None
    ) -> None:
        self.ledger, self.states, self.session = ledger, dict(states), session
        self.budget = budget or Budget(BudgetLimits(), ledger.spent())
        self.committer = Committer(ledger)
        self.stopped: str | None = None
        self._attempt = ledger.last_attempt()

    def state(self, name: str) -> EndpointState:
        if name not in self.states:
            raise ValueError(f"there is no endpoint {name!r}; known: {', '.join(self.states) or 'none'}")
        return self.states[name]

    def halt(self, reason: str) -> None:
        """Send nothing more; what is under way may finish."""
        self.stopped = self.stopped or reason

    async def close(self) -> None:
        await self.committer.close()
        for state in self.states.values():
            await state.transport.close()

    async def ask(self, state: EndpointState, body: Mapping[str, Any], key: str, about: Sequence[Any]) -> Reply:
        """The reply to a request, from the ledger or the endpoint."""
        if (known := self.ledger.reply(key)) is not None:
            return Reply(**known)
        earlier = self.ledger.attempts(key)

        async def send(attempt: int) -> Reply:
            async with state.open:
                state.check_up()
                await state.pace()
                await self._afford(key, state.endpoint.timeout_s)
                try:
                    return await self._send(state, body, key, about, earlier + attempt)
                except AttemptError as error:
                    if error.wait_s:
                        state.pause(error.wait_s)
                    raise

        try:
            return await try_attempts(state.endpoint, send)
        except AttemptError as error:
            state.note(answered=False)
            reason = f"{state.endpoint.name} gave no reply in {state.endpoint.attempts} attempts: {error}"
            raise EndpointDownError(reason) from error

    async def _send(
        self, state: EndpointState, body: Mapping[str, Any], key: str, about: Sequence[Any], number: int
    ) -> Reply:
        """One attempt, written down before and after. Raises AttemptError, RequestRefusedError or Halt."""
        self._attempt += 1
        attempt, now = self._attempt, time.time()
        reply = None
        try:
            await self.committer.write(
                (
                    "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL, NULL)",
                    (key, *about),
                ),
                ("INSERT INTO attempts VALUES (?, ?, ?, ?, NULL, NULL)", (attempt, key, self.session, now)),
            )
            headers = {KEY_HEADER: key, ATTEMPT_HEADER: str(number)}
            try:
                reply = await state.transport(body, headers, state.endpoint.timeout_s)
            except (AttemptError, RequestRefusedError, SetupError) as error:
                await self.committer.write(_ended(attempt, str(error)))
                if isinstance(error, SetupError):
                    self.halt(f"{state.endpoint.name}: {error}")
                    raise Halt(self.stopped) from error
                raise
            await self.committer.write(_ended(attempt, "ok"), _answered(state.endpoint, key, attempt, reply))
        finally:
            tokens = (reply.tokens_in, reply.tokens_out) if reply else None
            self.budget.settle(key, tokens, state.endpoint.cost(*tokens) if tokens else 0.0)
        state.note(answered=True)
        return reply

    async def _afford(self, key: str, timeout_s: float) -> None:
        """Waits until another request fits the budget beside those under way. Raises Halt when none will."""
        if self.stopped is None and (short := await self.budget.take(key, timeout_s)):
            self.halt(short)
        if self.stopped is not None:
            self.budget.settle(key)
            raise Halt(self.stopped)


def _answered(endpoint: Endpoint, key: str, attempt: int, reply: Reply) -> Op:
    return (
        "UPDATE requests SET reply = ?, answered_by = ?, tokens_in = ?, tokens_out = ?, cost = ? WHERE key = ?",
        (
            as_text(vars(reply)), attempt, reply.tokens_in, reply.tokens_out,
            endpoint.cost(reply.tokens_in, reply.tokens_out), key,
        ),
    )  # fmt: skip


def _ended(attempt: int, outcome: str) -> Op:
    return "UPDATE attempts SET ended_at = ?, outcome = ? WHERE id = ?", (time.time(), storable(outcome), attempt)


class Chat:
    """What a stage may ask endpoints, about one item."""

    def __init__(self, client: ChatClient, stage: str, item: WorkItem) -> None:
        self.client, self.stage, self.item = client, stage, item
        self._encoded: dict[tuple[int, int | None], asyncio.Task[tuple[str, bytes]]] = {}

    async def ask(
        self,
        endpoint: str,
        system: str,
        user: str,
        images: Sequence[ImageSource] = (),
        *,
        ask: int = 0,
        prompt: str = "",
        **options: Any,
    ) -> Reply:
        """The reply to images and a text.

        ask: 0, or how often the same was asked before and its reply was of no use. prompt: the version of the text's
        template. options: further fields. Raises EndpointDownError, RequestRefusedError, Halt, ImageError.
        """
        state = self.client.state(endpoint)
        end = state.endpoint
        shown = [await self._encode(image, end.max_pixels) for image in images]
        number = self.item.sample * 1000 + ask
        fields = end.fields(**options | ({"seed": number} if end.seed else {}))
        sent = {
            "model": end.model,
            "system": system,
            "user": user,
            "pictures": [compute_digest(data) for _, data in shown],
        }
        key = compute_digest(as_text([self.stage, self.item.row.id, end.name, end.base_url, number, sent, fields]))
        about = (self.stage, self.item.n, self.item.sample, ask, end.name, end.model, prompt)
        body = {"model": end.model, "messages": chat_messages(system, user, shown), **fields}
        return await self.client.ask(state, body, key, about)

    async def _encode(self, image: ImageSource, max_pixels: int | None) -> tuple[str, bytes]:
        """What endpoints are sent of an image: decoded once for all that are asked about the item, in a thread."""
        known = (id(image), max_pixels)
        if known not in self._encoded:
            self._encoded[known] = asyncio.create_task(asyncio.to_thread(sendable, image, max_pixels))
        return await asyncio.shield(self._encoded[known])
