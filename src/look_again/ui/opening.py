"""The answers that stand on the page when somebody arrives: its first example, asked once after the start.

Asked unbidden only of a checkpoint that says which small world is all it knows (`Checkpoint.scope`): such a model
answers within seconds. A model of anything may take minutes on a processor or be others' to pay for, so nothing is
asked of it before somebody presses Ask; its page has the example in its fields. Nothing waits for these answers: they
are put on a page that is there already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from look_again.model import Sampling
from look_again.ui.examples import load_example
from look_again.ui.question import UserQuestion
from look_again.ui.runs import Runs

FIRST = "0/4"  # the example, by its name in the page
MOST_TOKENS = 1024  # as the page's own field says at first
log = logging.getLogger(__name__)


def first_question() -> UserQuestion:
    """The page's first example as a question."""
    image, text = load_example(FIRST)
    return UserQuestion(image, text, Sampling(max_new_tokens=MOST_TOKENS))


class Opening:
    """The first answers of a page, once they are there; `answer` asks and measures them."""

    def __init__(self, answer: Callable[[UserQuestion], Awaitable[Runs]]) -> None:
        self._answer = answer
        self._task: asyncio.Task[Runs | None] | None = None

    def start(self) -> None:
        """Begin to answer in the background. In the running event loop."""
        self._task = asyncio.create_task(self._finish())

    async def wait(self) -> Runs | None:
        """The answers, as soon as they are there. None where they failed or were never begun."""
        return None if self._task is None else await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop answering."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _finish(self) -> Runs | None:
        """The answers, None where one of them failed: a page without them is whole, and says what to press."""
        try:
            runs = await self._answer(await asyncio.to_thread(first_question))
        except Exception as error:
            log.warning("the page opens without an answer: %s", error)
            return None
        return runs if all(transcript.status == "done" for transcript in runs.transcripts.values()) else None
