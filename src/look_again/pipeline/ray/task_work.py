"""What a worker does with a task: the engine's own loop, on a journal instead of the ledger, and a shard at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from look_again.clients.openai import Endpoint
from look_again.pipeline.budget import Spending
from look_again.pipeline.chat_client import Desk
from look_again.pipeline.endpoint_pool import Line
from look_again.pipeline.engine import Stage, work_through
from look_again.pipeline.ledger.journal import Journal
from look_again.pipeline.ledger.shards import finish, shard_of
from look_again.pipeline.ledger.tasks import read_task


@dataclass(frozen=True)
class Done:
    """shard: the file's path, "" where nothing was done. stopped: why items are left, "" if none is."""

    shard: str
    stopped: str = ""

    def as_dict(self) -> dict[str, Any]:
        return vars(self)


async def work_on(path: Path, stage: Stage, lines: Mapping[str, Line], purse: Spending | None = None) -> Done:
    """Do a task, or what an earlier worker has left of it; a shard that is there is not made again.

    Raises TaskError, LedgerError, MissingExtraError, and what is an error of ours in a stage.
    """
    task = read_task(path)
    if (shard := shard_of(path)) is not None:
        return Done(str(shard))
    with Journal(path, task) as journal:
        desk = Desk(journal, lines, journal.begin(path.stem), purse)
        left = (item for item in task.read_items() if not journal.is_done(item))
        try:
            await work_through(desk, stage, left, workers=width(lines), bar=tqdm(disable=True))
        finally:
            await desk.committer.close()
        return Done(str(finish(path, journal) or ""), desk.stopped or "")


def width(lines: Mapping[str, Line]) -> int:
    """Rows in work at once: twice what the widest endpoint takes."""
    return 2 * max((line.endpoint.concurrency for line in lines.values()), default=1)


def divided(endpoints: Sequence[Endpoint], workers: int) -> tuple[Endpoint, ...]:
    """The endpoints as each of some workers may use them, so that all together keep to concurrency and rate.

    ValueError for more workers than an endpoint takes requests at once.
    """
    for endpoint in endpoints:
        if workers > endpoint.concurrency:
            raise ValueError(
                f"{workers} workers cannot share endpoint {endpoint.name!r}, which takes {endpoint.concurrency} "
                "requests at once"
            )
    return tuple(
        replace(end, concurrency=end.concurrency // workers, rate=None if end.rate is None else end.rate / workers)
        for end in endpoints
    )
