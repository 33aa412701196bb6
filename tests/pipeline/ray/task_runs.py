"""Stages over tasks as workers do them, in this process: no Ray is needed to see what tasks, journals and shards do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from look_again.clients.openai import Endpoint, InProcessTransport
from look_again.data.sample import Sample
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.endpoint_pool import EndpointState
from look_again.pipeline.engine import PipelineStage, open_chat_client, run_stage
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.ledger.merge import Merged, merge
from look_again.pipeline.ledger.tasks import write_tasks
from look_again.pipeline.ray.task_work import Done, work_on

ENDPOINT = Endpoint(
    name="e",
    base_url="test:",
    model="m",
    backoff_s=0.0001,
    max_wait_s=0.001,
    concurrency=3,
    price_in=1e6,
    price_out=2e6,
)


def rows(n: int) -> list[Sample]:
    return [Sample(id=f"r{i}", question=f"{i}?", reference=str(i), source="test") for i in range(n)]


async def answer(body, headers):
    """A function of the request: some fail the first two times they go out, one kind for ever."""
    await asyncio.sleep(0)
    text = body["messages"][-1]["content"][-1]["text"]
    if len(text) % 3 == 0 and int(headers["X-Attempt"]) < 2:
        return 500, {}, "oops"
    usage = {"prompt_tokens": len(text), "completion_tokens": 1}
    return 200, {}, {"choices": [{"message": {"content": f"{text[::-1]}!"}}], "usage": usage}


class Counting:
    """The same, and how often each request was answered."""

    def __init__(self) -> None:
        self.answered: list[str] = []

    async def __call__(self, body, headers):
        said = await answer(body, headers)
        if said[0] == 200:
            self.answered.append(headers["Idempotency-Key"])
        return said


async def first(item: WorkItem, chat: Chat) -> Outcome:
    one, two = await asyncio.gather(
        chat.ask("e", "", f"{item.row.question}{'x' * item.sample}"), chat.ask("e", "", "two")
    )
    if item.n % 5 == 0:
        return Outcome.bad("every fifth")
    return Outcome(output={"response": one.text + two.text})


async def second(item: WorkItem, chat: Chat) -> Outcome:
    reply = await chat.ask("e", "", f"again {item.response}")
    return Outcome(output={"response": reply.text})


def sizes(items: Sequence[WorkItem]) -> list[Outcome]:
    """What batches were made."""
    return [Outcome(output={"of": len(items)}) for _ in items]


STAGES = [
    PipelineStage(StageKey("one", "v", samples=2), work=first, later=("two", "three")),
    PipelineStage(StageKey("two", "v", "one"), work=second, later=("three",)),
    PipelineStage(StageKey("three", "v", "two"), batch_work=sizes, batch=4),
]


def states(server=answer, endpoint: Endpoint = ENDPOINT) -> list[EndpointState]:
    return [EndpointState(endpoint, InProcessTransport(server))]


def do(path: Path, stage: PipelineStage, server=answer, budget=None) -> Done:
    """One worker at one task."""
    return asyncio.run(work_on(path, stage, {state.endpoint.name: state for state in states(server)}, budget))


def cut(ledger: Ledger, stage: PipelineStage, folder: Path, size: int = 5) -> list[Path]:
    session = ledger.begin("cut")
    ledger.end(session, "done")
    return write_tasks(ledger, stage.head, folder, session, size, batch=stage.batch_size)


def by_tasks(ledger: Ledger, folder: Path, stages=STAGES, server=answer, size: int = 5) -> Merged:
    """All stages over tasks, each merged before the next; what the last merge did."""
    folder.mkdir(exist_ok=True)
    for stage in stages:
        for path in cut(ledger, stage, folder, size):
            do(path, stage, server)
        merged = merge(ledger, [folder])
    return merged


def here(ledger: Ledger, stages=STAGES, server=answer) -> None:
    """All stages by the local engine."""

    async def go() -> None:
        async with open_chat_client(ledger, states(server), "test") as client:
            for stage in stages:
                await run_stage(client, stage, workers=4)

    asyncio.run(go())


def state(ledger: Ledger) -> dict[str, list[tuple]]:
    """Results, requests and the outcomes of attempts, without times and numbers."""
    return {
        "results": ledger.read(
            "SELECT stage, n, sample, status, input, digest, output, reason FROM results ORDER BY stage, n, sample"
        ),
        "requests": ledger.read(
            "SELECT key, stage, n, sample, ask, endpoint, model, prompt, reply, tokens_in, tokens_out, cost "
            "FROM requests ORDER BY key"
        ),
        "answers": ledger.read(
            "SELECT key, a.outcome FROM requests r JOIN attempts a USING (key) WHERE a.id = answered_by ORDER BY key"
        ),
    }


def everything(ledger: Ledger) -> list[list[tuple]]:
    """All that a merge may touch, times included."""
    return [ledger.read(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in ("results", "requests", "attempts")]
