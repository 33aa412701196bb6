"""Cold start (paper, "The pipeline", 1): a teacher puts one reflection into an answer that has none.

What the teacher wrote besides the reflection is compared with what it was given and then thrown away: the row keeps its
own text, character by character, with the reflection in its place.
"""

from __future__ import annotations

import re

from look_again.pipeline.chat_client import Chat
from look_again.pipeline.contents import as_text, compute_digest
from look_again.pipeline.engine import PipelineStage, RowProblem, Work
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem
from look_again.pipeline.stages.chat_stage import UnusableReplyError, ask_until, faults
from look_again.pipeline.stages.prompt_files import PromptTemplate
from look_again.text.grammar import close_tag, open_tag, parse

NAME = "cold-start"
_MARKDOWN = re.compile(r"\*\*|__|`|^\s*(?:#{1,6} |[-*+] |\d+[.)] )", re.MULTILINE)
_KEPT = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")


def stage(teacher: str, prompt: PromptTemplate, *, asks: int = 3, later: tuple[str, ...] = ()) -> PipelineStage:
    """The stage with this teacher, the name of an endpoint."""
    version = compute_digest(as_text([teacher, prompt.version, asks]))[:12]
    return PipelineStage(StageKey(NAME, version), work=_work(teacher, prompt, asks), later=later)


def _work(teacher: str, prompt: PromptTemplate, asks: int) -> Work:
    async def work(item: WorkItem, chat: Chat) -> Outcome:
        original = given(item.row.response)
        fields = {"question": item.row.prompt, "response": original}
        response = await ask_until(
            chat, teacher, prompt, fields, lambda text: with_reflection(original, text), asks=asks
        )
        return Outcome(output={"response": response})

    return work


def given(response: str | None) -> str:
    """An answer that a reflection can be put into. RowProblem unless it is in the grammar and has none."""
    if not (response or "").strip():
        raise RowProblem("the row has no response to put a reflection into")
    assert response is not None
    parsed = parse(response, min_reflections=0)
    if problems := faults(parsed):
        raise RowProblem(f"the row's response: {problems}")
    if parsed.reflections:
        raise RowProblem("the row's response has a reflection already")
    return response


def with_reflection(original: str, reply: str) -> str:
    """`original` with the reflection of `reply` before its CONCLUSION.

    UnusableReplyError unless the reply is in the grammar, has one reflection, between REASONING and CONCLUSION, that is
    plain prose and not empty, and gives every other section back as it was.
    """
    parsed = parse(reply)
    if problems := faults(parsed):
        raise UnusableReplyError(f"the teacher's answer: {problems}")
    tags = [section.tag for section in parsed.sections]
    if tags != ["SUMMARY", "CAPTION", "REASONING", "REFLECTION", "CONCLUSION"]:
        raise UnusableReplyError(f"the teacher's answer has the sections {', '.join(tags)}")
    before = parse(original, min_reflections=0)
    for tag in _KEPT:
        if _text(parsed, tag) != _text(before, tag):
            raise UnusableReplyError(f"the teacher changed {tag}")
    reflection = parsed.reflections[0].text
    if not reflection:
        raise UnusableReplyError("the teacher's reflection is empty")
    if marks := _MARKDOWN.search(reflection):
        raise UnusableReplyError(f"the teacher's reflection is no plain prose: it has {marks[0].strip()!r}")
    at = original.rindex(open_tag("CONCLUSION"))
    written = parsed.text[parsed.reflections[0].start : parsed.reflections[0].end]
    gap = original[original.rindex(close_tag("REASONING")) + len(close_tag("REASONING")) : at]
    return f"{original[:at]}{open_tag('REFLECTION')}{written}{close_tag('REFLECTION')}{gap}{original[at:]}"


def _text(parsed, tag: str) -> str:
    section = parsed.get(tag)
    return section.text if section else ""
