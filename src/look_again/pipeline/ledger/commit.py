"""Writes of many coroutines, made durable together.

A commit costs a few milliseconds however much is in it, so whatever is waiting when the disk is free goes in one
transaction. A coroutine goes on when its own statements are on disk.
"""

from __future__ import annotations

import asyncio

from look_again.pipeline.ledger.ledger import Ledger, Op


class Committer:
    """Group commit on a ledger, for one event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._waiting: list[tuple[tuple[Op, ...], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def write(self, *ops: Op) -> None:
        """Returns when all of `ops` are on disk. LedgerError when they are not: then none of them is."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((ops, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        await done

    async def close(self) -> None:
        """Waits for what is being written."""
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        while self._waiting:
            part, self._waiting = self._waiting, []
            failure: BaseException | None = None
            try:
                await asyncio.to_thread(self.ledger.apply, [op for ops, _ in part for op in ops])
            except BaseException as error:  # whatever it is, those who wait must hear of it
                failure = error
            for _, done in part:
                if done.done():
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)
