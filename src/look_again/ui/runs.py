"""The answers of one window: several modes of one question at once, followed, stopped, and asked again.

Only this file talks to the backend. What went wrong becomes a sentence in the answer; texts are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from look_again.core.families import Grid
from look_again.core.reattention import Reattention
from look_again.serving.admission import Admission
from look_again.serving.backend import Backend, BackendError, BusyError, RefusedError
from look_again.ui.question import UserQuestion
from look_again.ui.transcript import TokenTexts, Transcript

FRAME_S = 0.08  # between two images of an answer that is being written
log = logging.getLogger(__name__)


class Runs:
    """One window's question and its answers by mode; `conversation` is the same for all its jobs."""

    def __init__(self, backend: Backend, admission: Admission) -> None:
        self.backend, self.admission = backend, admission
        self.conversation = secrets.token_urlsafe(12)
        self.question: UserQuestion | None = None
        self.grid: Grid | None = None
        self.image = ""  # its key among the page's images
        self.notes: Sequence[str] = ()  # what is said of it beside every answer
        self.modes: Sequence[str] = ()  # that are compared now
        self.transcripts: dict[str, Transcript] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, policies: Mapping[str, Reattention]) -> AsyncIterator[Sequence[str]]:
        """Answer the question under the policies, by mode; yields the modes that have news, first all of them.

        An answer that is still being written in one of these modes is stopped. Closing this stops its answers.
        """
        assert self.question is not None
        self.stop(policies)
        wake, news = asyncio.Event(), set(policies)
        mine = {mode: self._start(mode, policy, news, wake) for mode, policy in policies.items()}
        try:
            while news or any(not task.done() for task in mine.values()):
                changed = [mode for mode in policies if mode in news and self._tasks.get(mode) is mine[mode]]
                news.clear()
                wake.clear()
                if changed:
                    yield changed
                await self._wait(mine, wake)
            for mode in (last := [mode for mode in mine if self._tasks.get(mode) is mine[mode]]):
                self.transcripts[mode].stop()  # if its last news is still on the way
            yield last
        finally:
            for mode, task in mine.items():
                task.cancel()
                if self._tasks.get(mode) is task:
                    self.transcripts[mode].stop()
            await asyncio.gather(*mine.values(), return_exceptions=True)

    def begin(self, question: UserQuestion, grid: Grid | None, image: str, modes: Sequence[str]) -> None:
        """Another question: its answers take the place of the earlier one's."""
        self.stop()
        self.question, self.grid, self.image, self.modes, self.notes = question, grid, image, modes, ()
        self.transcripts, self._tasks = {}, {}

    def adopt(self, other: Runs) -> None:
        """Take over the finished answers to another window's question, as if they had been asked here."""
        assert other.question is not None
        own = replace(other.question, conversation=self.conversation)
        self.begin(own, other.grid, other.image, list(other.modes))
        self.notes, self.transcripts = other.notes, dict(other.transcripts)

    def stop(self, modes: Mapping[str, object] | Sequence[str] | None = None) -> None:
        """Stop the answers of some modes, None for all; what came so far stays."""
        for mode in list(self._tasks) if modes is None else modes:
            if mode in self._tasks:
                self._tasks[mode].cancel()

    @property
    def size_bytes(self) -> int:
        """What its question's image takes."""
        return 0 if self.question is None else self.question.size_bytes

    @property
    def running(self) -> bool:
        return any(not task.done() for task in self._tasks.values())

    def _start(self, mode: str, policy: Reattention, news: set[str], wake: asyncio.Event) -> asyncio.Task[None]:
        transcript = Transcript(policy, TokenTexts(self.backend.checkpoint.tokenizer), self.grid)
        self.transcripts[mode] = transcript

        def heard() -> None:
            news.add(mode)
            wake.set()

        def ended(_: asyncio.Task[None]) -> None:  # also of a task that was cancelled before it began
            transcript.stop()
            heard()

        self._tasks[mode] = asyncio.create_task(self._follow(policy, transcript, heard))
        self._tasks[mode].add_done_callback(ended)
        return self._tasks[mode]

    async def _follow(self, policy: Reattention, transcript: Transcript, heard: Callable[[], None]) -> None:
        assert self.question is not None
        job = self.question.job(policy)
        try:
            self.backend.check(job)
            async with self.admission.place(), aclosing(self.backend.generate(job)) as events:
                async for event in events:
                    transcript.take(event)
                    heard()
            transcript.fail("the answer broke off")
        except BusyError as error:
            transcript.fail(f"{error}. Ask again in {error.retry_after_s:.0f} s.")
        except (RefusedError, ValueError, BackendError) as error:
            transcript.fail(str(error))
        except Exception as error:  # whatever it is, the window must not hang; its text may hold the question
            log.error("an answer failed with %s", type(error).__name__)
            transcript.fail(f"something went wrong on this side ({type(error).__name__})")

    @staticmethod
    async def _wait(mine: Mapping[str, asyncio.Task[None]], wake: asyncio.Event) -> None:
        """Until something new came, but not for less than a frame while more is to come."""
        if any(not task.done() for task in mine.values()):
            await wake.wait()
            if any(not task.done() for task in mine.values()):
                await asyncio.wait(mine.values(), timeout=FRAME_S)
