"""The answers of one request under way: a task per choice, their pieces in one stream, all of them stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from look_again.serving.backend import Backend, BackendError, Job
from look_again.serving.choice import Choice, Piece
from look_again.serving.http.errors import of_backend


async def answers(
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
        known = of_backend(error, started=choice.started is not None, upstream=backend.name == "vllm")
        queue.put_nowait((index, known or error))
