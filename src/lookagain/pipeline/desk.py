"""The desk that requests go through: once each, within rate and budget, written down before they leave.

`Chat.ask` is all that a stage sees of it. A request is known by its key: a hash of the stage, the row, the endpoint and
model, everything that is sent, and the number of the ask. A reply that is in the ledger is never asked for again.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lookagain.data.pictures import ImageSource
from lookagain.pipeline.commit import Committer
from lookagain.pipeline.contents import as_text, digest_of, sendable
from lookagain.pipeline.endpoints import (
    AttemptError,
    Endpoint,
    Reply,
    RequestRefusedError,
    SetupError,
)
from lookagain.pipeline.items import Item
from lookagain.pipeline.ledger import Ledger, Op
from lookagain.pipeline.lines import EndpointDownError, Line

KEY_HEADER, ATTEMPT_HEADER = "Idempotency-Key", "X-Attempt"


class Halt(Exception):  # noqa: N818 - no error: the run stops and can go on later
    """Nothing more is sent: the budget is spent, the run was interrupted, or an endpoint is set up wrongly."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may cost in all its sessions, in the endpoints' money and in tokens; None for no limit.

    A request goes out only if it fits, with those under way, by the mean cost of a reply so far; what a run spends over
    its budget is at most what its last replies cost above that mean.
    """

    money: float | None = None
    tokens: int | None = None


class Desk:
    """All endpoints of a run, its ledger and its budget."""

    def __init__(self, ledger: Ledger, lines: Mapping[str, Line], session: int, budget: Budget | None = None) -> None:
        self.ledger, self.lines, self.session = ledger, dict(lines), session
        self.budget = budget or Budget()
        self.committer = Committer(ledger)
        self.stopped: str | None = None
        self._spent = ledger.spent()
        self._under_way = 0
        self._returned = asyncio.Event()
        self._attempt = ledger.last_attempt()

    def line(self, name: str) -> Line:
        if name not in self.lines:
            raise ValueError(f"there is no endpoint {name!r}; known: {', '.join(self.lines) or 'none'}")
        return self.lines[name]

    def halt(self, reason: str) -> None:
        """Send nothing more; what is under way may finish."""
        self.stopped = self.stopped or reason

    async def close(self) -> None:
        await self.committer.close()
        for line in self.lines.values():
            await line.transport.close()

    async def ask(self, line: Line, body: Mapping[str, Any], key: str, about: Sequence[Any]) -> Reply:
        """The reply to a request, from the ledger or the endpoint."""
        if (known := self.ledger.reply(key)) is not None:
            return Reply(**known)
        earlier = self.ledger.attempts(key)
        wait: float | None = None
        for attempt in range(line.endpoint.attempts):
            if attempt:
                await asyncio.sleep(line.wait_s(attempt - 1, wait))
            async with line.open:
                line.check_up()
                await line.pace()
                await self._afford()
                try:
                    return await self._send(line, body, key, about, earlier + attempt)
                except AttemptError as error:
                    wait, last = error.wait_s, error
                    if wait:
                        line.pause(wait)
        line.note(answered=False)
        raise EndpointDownError(f"{line.endpoint.name} gave no reply in {line.endpoint.attempts} attempts: {last}")

    async def _send(self, line: Line, body: Mapping[str, Any], key: str, about: Sequence[Any], number: int) -> Reply:
        """One attempt, written down before and after. Raises AttemptError, RequestRefusedError or Halt."""
        self._attempt += 1
        attempt, now = self._attempt, time.time()
        self._under_way += 1
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
                reply = await line.transport(body, headers, line.endpoint.timeout_s)
            except (AttemptError, RequestRefusedError, SetupError) as error:
                await self.committer.write(_ended(attempt, str(error)))
                if isinstance(error, SetupError):
                    self.halt(f"{line.endpoint.name}: {error}")
                    raise Halt(self.stopped) from error
                raise
            await self.committer.write(_ended(attempt, "ok"), self._answered(line.endpoint, key, attempt, reply))
        finally:
            self._under_way -= 1
            self._returned.set()
        line.note(answered=True)
        return reply

    def _answered(self, endpoint: Endpoint, key: str, attempt: int, reply: Reply) -> Op:
        cost = endpoint.cost(reply.tokens_in, reply.tokens_out)
        spent = self._spent
        self._spent = type(spent)(
            spent.replies + 1,
            spent.tokens_in + reply.tokens_in,
            spent.tokens_out + reply.tokens_out,
            spent.money + cost,
        )
        return (
            "UPDATE requests SET reply = ?, answered_by = ?, tokens_in = ?, tokens_out = ?, cost = ? WHERE key = ?",
            (as_text(vars(reply)), attempt, reply.tokens_in, reply.tokens_out, cost, key),
        )

    async def _afford(self) -> None:
        """Waits until another request fits the budget beside those under way. Raises Halt when none will."""
        while self.stopped is None and (short := self._short_of(self._under_way + 1)):
            if not self._under_way:
                self.halt(short)
                break
            self._returned.clear()
            await self._returned.wait()
        if self.stopped is not None:
            raise Halt(self.stopped)

    def _short_of(self, more: int) -> str:
        """What budget `more` replies of the mean cost would break, "" if none; without any reply so far, one may go."""
        spent = self._spent
        for limit, so_far, name in (
            (self.budget.money, spent.money, "money"),
            (self.budget.tokens, spent.tokens_in + spent.tokens_out, "tokens"),
        ):
            mean = so_far / spent.replies if spent.replies else 0.0
            if limit is not None and (so_far + more * mean > limit or (not spent.replies and more > 1)):
                return f"the budget of {limit:g} ({name}) is spent: {so_far:g}, and the next reply costs some {mean:g}"
        return ""


def _ended(attempt: int, outcome: str) -> Op:
    return "UPDATE attempts SET ended_at = ?, outcome = ? WHERE id = ?", (time.time(), outcome, attempt)


class Chat:
    """What a stage may ask endpoints, about one item."""

    def __init__(self, desk: Desk, stage: str, item: Item) -> None:
        self.desk, self.stage, self.item = desk, stage, item

    async def ask(
        self,
        endpoint: str,
        system: str,
        user: str,
        pictures: Sequence[ImageSource] = (),
        *,
        ask: int = 0,
        prompt: str = "",
        **options: Any,
    ) -> Reply:
        """The reply to pictures and a text.

        ask: 0, or how often the same was asked before and its reply was of no use. prompt: the version of the text's
        template. options: further fields. Raises EndpointDownError, RequestRefusedError, Halt, ImageError.
        """
        line = self.desk.line(endpoint)
        end = line.endpoint
        shown = [sendable(picture, end.max_pixels) for picture in pictures]
        number = self.item.sample * 1000 + ask
        fixed = {"max_tokens": end.max_tokens, "temperature": end.temperature, **end.body, **options}
        fixed |= {"seed": number} if end.seed else {}
        fields = {name: value for name, value in fixed.items() if value is not None}
        sent = {"model": end.model, "system": system, "user": user, "pictures": [digest_of(data) for _, data in shown]}
        key = digest_of(as_text([self.stage, self.item.row.id, end.name, end.base_url, number, sent, fields]))
        about = (self.stage, self.item.n, self.item.sample, ask, end.name, end.model, prompt)
        body = {"model": end.model, "messages": messages(system, user, shown), **fields}
        return await self.desk.ask(line, body, key, about)


def messages(system: str, user: str, pictures: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """A system message if there is one, and a user's: pictures as data URLs, then the text."""
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}
        for kind, data in pictures
    ]
    content.append({"type": "text", "text": user})
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": content}]
