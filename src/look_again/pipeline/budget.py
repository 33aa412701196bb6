"""What is left of a budget, asked before every request.

One `Budget` serves all who spend from it: the coroutines of one process, or through an actor every worker of a cluster.
The paper names no budget.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from look_again.pipeline.ledger.ledger import Spent

SLACK_S = 60.0  # beyond its time-out, in which a request's end is written down
LOOK_S = 1.0  # between looks whether somebody who reserved is gone


@dataclass(frozen=True, kw_only=True)
class BudgetLimits:
    """What a run may cost in all its sessions, in the endpoints' money and in tokens; None for no limit.

    A request goes out only if it fits, with those under way, by the mean cost of a reply so far; what a run spends over
    its budget is at most what its last replies cost above that mean.
    """

    money: float | None = None
    tokens: int | None = None

    @property
    def limited(self) -> bool:
        return self.money is not None or self.tokens is not None


class BudgetLike(Protocol):
    """What a chat client needs of a budget."""

    async def take(self, key: str, within_s: float) -> str: ...

    def settle(self, key: str, tokens: tuple[int, int] | None = None, money: float = 0.0) -> None: ...


class Budget:
    """Limits and what has been spent of them."""

    def __init__(self, limits: BudgetLimits, spent: Spent) -> None:
        self.limits, self.spent = limits, spent
        self._reserved: dict[str, float] = {}  # requests under way, and when they are given up
        self._returned = asyncio.Event()

    async def take(self, key: str, within_s: float) -> str:
        """Reserve a reply to the request `key`; "", or why there is no money for it.

        Waits as long as requests under way may leave some. One that is not settled `within_s` seconds no longer counts:
        whoever sent it is gone.
        """
        while short := self._find_shortage(self._under_way(key) + 1):
            if not self._under_way(key):
                return short
            self._returned.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._returned.wait(), LOOK_S)
        self._reserved[key] = time.monotonic() + within_s + SLACK_S
        return ""

    def settle(self, key: str, tokens: tuple[int, int] | None = None, money: float = 0.0) -> None:
        """The request is over. tokens: of its reply, in and out; None where there is none."""
        self._reserved.pop(key, None)
        if tokens is not None:
            was = self.spent
            more = (was.replies + 1, was.tokens_in + tokens[0], was.tokens_out + tokens[1], was.money + money)
            self.spent = Spent(*more)
        self._returned.set()

    def _under_way(self, but: str) -> int:
        """Requests of others."""
        now = time.monotonic()
        return sum(until > now for key, until in self._reserved.items() if key != but)

    def _find_shortage(self, more: int) -> str:
        """What budget `more` replies of the mean cost would break, "" if none; without any reply so far, one may go."""
        spent = self.spent
        for limit, so_far, name in (
            (self.limits.money, spent.money, "money"),
            (self.limits.tokens, spent.tokens_in + spent.tokens_out, "tokens"),
        ):
            mean = so_far / spent.replies if spent.replies else 0.0
            if limit is not None and (so_far + more * mean > limit or (not spent.replies and more > 1)):
                return f"the budget of {limit:g} ({name}) is spent: {so_far:g}, and the next reply costs some {mean:g}"
        return ""
