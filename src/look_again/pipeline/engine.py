"""The engine: a stage runs over every item that it has not dealt with, a bounded number of them at a time.

Items stream from the ledger and results go back into it, so memory does not grow with the rows, and a process killed
anywhere and started again goes on where the ledger ends. A stage is a plain function of an item and a chat; other
engines can run the same functions and bring their results to the same ledger.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice

from tqdm import tqdm

from look_again.clients.openai import RequestRefusedError
from look_again.images import ImageError
from look_again.pipeline.budget import Budget, BudgetLimits
from look_again.pipeline.chat_client import Chat, ChatClient, Halt
from look_again.pipeline.endpoint_pool import EndpointDownError, EndpointState
from look_again.pipeline.ledger.items import PAGE, Outcome, StageKey, WorkItem, counts, pending, result_ops
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.ledger.tasks import Head

Work = Callable[[WorkItem, Chat], Awaitable[Outcome]]
BatchWork = Callable[[Sequence[WorkItem]], Sequence[Outcome]]


class RowProblem(ValueError):  # noqa: N818 - a verdict
    """Raised by a stage: this row cannot go on, for the reason that is the message."""


@dataclass(frozen=True)
class PipelineStage:
    """A stage. work: what it does with one item; or batch_work: with up to `batch` items, in a thread, in order.

    later: stages after it whose results on an item go when this one stops the item.
    """

    key: StageKey
    work: Work | None = None
    batch_work: BatchWork | None = None
    batch: int = 1
    later: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.key.stage

    @property
    def head(self) -> Head:
        """What a worker without the ledger is told of the stage."""
        return Head(self.key, self.later)

    @property
    def batch_size(self) -> int | None:
        """Items that are worked on together; None for a stage that takes them one by one."""
        return None if self.batch_work is None else self.batch


@dataclass(frozen=True)
class StageReport:
    """A stage after a run of it: items = ok + bad + waiting + pending. stopped: why it ended early, None if not."""

    stage: str
    items: int
    ok: int
    bad: int
    waiting: int
    pending: int
    stopped: str | None = None


async def run_stages(
    client: ChatClient, stages: Sequence[PipelineStage], *, workers: int, progress: bool = False
) -> list[StageReport]:
    """Run stages one after the other; the first that is stopped is the last."""
    reports: list[StageReport] = []
    for stage in stages:
        reports.append(await run_stage(client, stage, workers=workers, progress=progress))
        if reports[-1].stopped:
            break
    return reports


async def run_stage(client: ChatClient, stage: PipelineStage, *, workers: int, progress: bool = False) -> StageReport:
    """Run a stage over the items that are pending, `workers` at a time.

    Raises LedgerError when a result cannot be written; what was written before stays.
    """
    page = stage.batch if stage.batch_work else PAGE
    with stage_bar(client.ledger, stage, progress) as bar:
        await work_through(client, stage, pending(client.ledger, stage.key, page), workers=workers, bar=bar)
    return StageReport(stage.name, **counts(client.ledger, stage.key), stopped=client.stopped)


async def work_through(
    client: ChatClient, stage: PipelineStage, items: Iterator[WorkItem], *, workers: int, bar: tqdm
) -> None:
    """Do these items of a stage, or as many as can be done before the client halts."""
    if stage.batch_work is not None:
        await _run_batches(client, stage, items, bar)
    else:
        await _run_items(client, stage, items, workers, bar)


async def _run_items(
    client: ChatClient, stage: PipelineStage, items: Iterator[WorkItem], workers: int, bar: tqdm
) -> None:
    """Workers take items from one stream: it is read as they get free, so no queue can grow."""
    tasks = [asyncio.create_task(_worker(client, stage, items, bar)) for _ in range(workers)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if any(task.exception() for task in done):
            client.halt("an error stopped the run")  # replies under way are still waited for and kept
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    for end in ends:
        if isinstance(end, BaseException):
            raise end


async def _worker(client: ChatClient, stage: PipelineStage, items: Iterator[WorkItem], bar: tqdm) -> None:
    for item in items:
        if client.stopped is not None:
            return
        try:
            outcome = await attempt(stage, item, Chat(client, stage.name, item))
        except Halt:
            return
        await client.committer.write(*result_ops(stage.key, item, outcome, stage.later))
        bar.update()


async def attempt(stage: PipelineStage, item: WorkItem, chat: Chat) -> Outcome:
    """What the stage says of an item; what is wrong with the row or an endpoint becomes its verdict. Raises Halt."""
    assert stage.work is not None
    try:
        return await stage.work(item, chat)
    except (RowProblem, ImageError, RequestRefusedError) as error:
        return Outcome.bad(str(error))
    except EndpointDownError as error:
        return Outcome.waiting(str(error))


async def _run_batches(client: ChatClient, stage: PipelineStage, items: Iterator[WorkItem], bar: tqdm) -> None:
    """Batches in order, each committed whole: a run that was killed forms the same batches again."""
    assert stage.batch_work is not None
    while client.stopped is None and (part := list(islice(items, stage.batch))):
        outcomes = await asyncio.to_thread(stage.batch_work, part)
        pairs = zip(part, outcomes, strict=True)
        ops = [op for item, outcome in pairs for op in result_ops(stage.key, item, outcome, stage.later)]
        await client.committer.write(*ops)
        bar.update(len(part))


def stage_bar(ledger: Ledger, stage: PipelineStage, progress: bool) -> tqdm:
    """A bar of the stage's items, at where it stands; one that shows nothing without `progress`."""
    if not progress:
        return tqdm(disable=True)
    before = counts(ledger, stage.key)
    return tqdm(total=before["items"], initial=before["ok"] + before["bad"], desc=stage.name, unit="row")


@asynccontextmanager
async def open_chat_client(
    ledger: Ledger, states: Sequence[EndpointState], command: str, limits: BudgetLimits | None = None
) -> AsyncIterator[ChatClient]:
    """A chat client in a session of its own; Ctrl-C lets what is under way finish, a second one does not."""
    session = ledger.begin(command)
    budget = Budget(limits or BudgetLimits(), ledger.spent())
    client = ChatClient(ledger, {state.endpoint.name: state for state in states}, session, budget)
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        client.halt("interrupted")
        loop.remove_signal_handler(signal.SIGINT)

    with suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread, or no such signals here
        loop.add_signal_handler(signal.SIGINT, interrupt)
    outcome = "failed"
    try:
        yield client
        outcome = client.stopped or "done"
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            loop.remove_signal_handler(signal.SIGINT)
        await client.close()
        with suppress(ValueError):  # a full disk has been reported already
            ledger.end(session, outcome)
