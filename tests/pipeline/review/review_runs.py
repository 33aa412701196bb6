"""Runs with rows under review, for the tests of the review page and of Label Studio's files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from look_again.data.sample import Sample
from look_again.pipeline.engine import PipelineStage, open_chat_client, run_stages
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.items import Outcome, StageKey
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review import decisions

PEOPLE = ("ann", "bob")
VERDICTS = [
    {"judge": "j1", "answer": "incorrect", "reasoning": "correct", "reason": "it says <4> & not 5"},
    {"judge": "j2", "abstains": "no usable reply"},
]


def rows_of(count: int, **fields: Any) -> list[Sample]:
    return [Sample(**{"id": f"r{i}", "question": f"Q{i}?", "source": "test", **fields}) for i in range(count)]


def prepare(
    ledger: Ledger, text: str, rows: Sequence[Sample] = (), *, before: str | None = None, version: str = "v"
) -> PipelineStage:
    """Rows that wait for people with `text` as their response; `before`: what a writer replaced by it."""

    async def judged(item, chat):
        said = {"response": before or text, "verdicts": VERDICTS, "format": "", "objections": 1, "flagged": True}
        return Outcome(output=said)

    async def written(item, chat):
        return Outcome(output={"response": text, "rewritten": before is not None, "before": before})

    stages = [
        PipelineStage(StageKey("verify", version), work=judged, later=("rewrite", decisions.NAME)),
        PipelineStage(StageKey("rewrite", version, "verify"), work=written, later=(decisions.NAME,)),
        decisions.stage(ledger, "rewrite"),
    ]
    add_rows(ledger, rows or rows_of(5), "here")

    async def go():
        async with open_chat_client(ledger, [], "test") as client:
            return await run_stages(client, stages, workers=2)

    asyncio.run(go())
    return stages[-1]
