"""Rewriting (paper, "The pipeline", 4): what the panel flagged is corrected by a writer; the rest passes.

The paper trusts its writer until people look. Here a rewrite must be in the grammar and, where the row has a reference,
must agree with it; a row for which no such rewrite comes goes no further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from look_again.data.sample import Sample
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.contents import as_text, compute_digest
from look_again.pipeline.engine import PipelineStage, Work
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem
from look_again.pipeline.stages.chat_stage import UnusableReplyError, agrees, ask_until, read_response
from look_again.pipeline.stages.prompt_files import PromptTemplate
from look_again.pipeline.stages.verify import NO_REFERENCE, objects
from look_again.text.grammar import parse

NAME = "rewrite"


def stage(
    writer: str, prompt: PromptTemplate, after: str, *, asks: int = 3, later: tuple[str, ...] = ()
) -> PipelineStage:
    """The stage with this writer, the name of an endpoint."""
    version = compute_digest(as_text([writer, prompt.version, asks]))[:12]
    return PipelineStage(StageKey(NAME, version, after), work=_work(writer, prompt, asks), later=later)


def _work(writer: str, prompt: PromptTemplate, asks: int) -> Work:
    async def work(item: WorkItem, chat: Chat) -> Outcome:
        if not item.output.get("flagged"):
            return Outcome(output={**_facts(item, item.response), "rewritten": False})
        fields = {
            "question": item.row.prompt,
            "reference": item.row.reference or NO_REFERENCE,
            "response": item.response or "",
            "objections": objections(item.output),
        }
        response = await ask_until(chat, writer, prompt, fields, checked(item.row), asks=asks)
        return Outcome(output={**_facts(item, response), "rewritten": True, "before": item.response})

    return work


def _facts(item: WorkItem, response: str | None) -> dict[str, Any]:
    return {"response": response, "right": agrees(parse(response or "").conclusion, item.row)}


def objections(output: Mapping[str, Any]) -> str:
    """What was said against an answer, a line per objection."""
    lines = [f"- {verdict['reason'] or 'incorrect'}" for verdict in output["verdicts"] if objects(verdict)]
    if output["format"]:
        lines.append(f"- The tagged sections are not as they must be: {output['format']}.")
    return "\n".join(lines)


def checked(sample: Sample) -> Callable[[str], str]:
    """Reads a rewrite: in the grammar and, where it is known, with the reference's answer. Else UnusableReplyError."""

    def read(text: str) -> str:
        response = read_response(text)
        answer = parse(response).conclusion
        if agrees(answer, sample) is False:
            raise UnusableReplyError(f"the rewrite concludes {answer!r}, the reference is {sample.reference!r}")
        return response

    return read
