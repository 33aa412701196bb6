"""Rewriting (paper, "The pipeline", 4): what the panel flagged is corrected by a writer; the rest passes.

The paper trusts its writer until people look. Here a rewrite must be in the grammar and, where the row has a reference,
must agree with it; a row for which no such rewrite comes goes no further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from look_again.data.sample import Sample
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.contents import as_text, digest_of
from look_again.pipeline.engine import Stage, Work
from look_again.pipeline.ledger.items import Item, Outcome, Place
from look_again.pipeline.stages.chat_stage import UnusableReplyError, agrees, ask_until, read_response
from look_again.pipeline.stages.prompt_files import Prompt
from look_again.pipeline.stages.verify import NO_REFERENCE, objects
from look_again.text.grammar import parse

NAME = "rewrite"


def stage(writer: str, prompt: Prompt, after: str, *, asks: int = 3, later: tuple[str, ...] = ()) -> Stage:
    """The stage with this writer, the name of an endpoint."""
    version = digest_of(as_text([writer, prompt.version, asks]))[:12]
    return Stage(Place(NAME, version, after), work=_work(writer, prompt, asks), later=later)


def _work(writer: str, prompt: Prompt, asks: int) -> Work:
    async def work(item: Item, chat: Chat) -> Outcome:
        if not item.output.get("flagged"):
            return Outcome(output={**_facts(item, item.response), "rewritten": False})
        fields = {
            "question": item.row.prompt,
            "reference": item.row.reference or NO_REFERENCE,
            "response": item.response or "",
            "objections": objections(item.output),
        }
        made = await ask_until(chat, writer, prompt, fields, checked(item.row), asks=asks)
        return Outcome(output={**_facts(item, made), "rewritten": True, "before": item.response})

    return work


def _facts(item: Item, response: str | None) -> dict[str, Any]:
    return {"response": response, "right": agrees(parse(response or "").conclusion, item.row)}


def objections(output: Mapping[str, Any]) -> str:
    """What was said against an answer, a line per objection."""
    lines = [f"- {verdict['reason'] or 'incorrect'}" for verdict in output["verdicts"] if objects(verdict)]
    if output["format"]:
        lines.append(f"- The tagged sections are not as they must be: {output['format']}.")
    return "\n".join(lines)


def checked(row: Sample) -> Callable[[str], str]:
    """Reads a rewrite: in the grammar and, where it is known, with the reference's answer. Else UnusableReplyError."""

    def read(text: str) -> str:
        response = read_response(text)
        answer = parse(response).conclusion
        if agrees(answer, row) is False:
            raise UnusableReplyError(f"the rewrite concludes {answer!r}, the reference is {row.reference!r}")
        return response

    return read
