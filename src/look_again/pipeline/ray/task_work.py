"""What a worker does with a task: the engine's own loop, on a journal instead of the ledger, and a shard at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from look_again.clients.openai import Endpoint
from look_again.pipeline.budget import BudgetLike
from look_again.pipeline.chat_client import ChatClient
from look_again.pipeline.endpoint_pool import EndpointState
from look_again.pipeline.engine import PipelineStage, work_through
from look_again.pipeline.ledger.journal import Journal
from look_again.pipeline.ledger.shards import find_shard, finish
from look_again.pipeline.ledger.tasks import read_task


@dataclass(frozen=True)
class Done:
    """shard: the file's path, "" where nothing was done. stopped: why items are left, "" if none is."""

    shard: str
    stopped: str = ""

    def as_dict(self) -> dict[str, Any]:
        return vars(self)


async def work_on(
    path: Path, stage: PipelineStage, states: Mapping[str, EndpointState], budget: BudgetLike | None = None
) -> Done:
    """Do a task, or what an earlier worker has left of it; a shard that is there is not made again.

    Raises TaskError, LedgerError, MissingExtraError, and what is an error of ours in a stage.
    """
    task = read_task(path)
    if (shard := find_shard(path)) is not None:
        return Done(str(shard))
    with Journal(path, task) as journal:
        client = ChatClient(journal, states, journal.begin(path.stem), budget)
        left = (item for item in task.read_items() if not journal.is_done(item))
        try:
            await work_through(client, stage, left, workers=width(states), bar=tqdm(disable=True))
        finally:
            await client.committer.close()
        return Done(str(finish(path, journal) or ""), client.stopped or "")


def width(states: Mapping[str, EndpointState]) -> int:
    """Rows in work at once: twice what the widest endpoint takes."""
    return 2 * max((state.endpoint.concurrency for state in states.values()), default=1)


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
