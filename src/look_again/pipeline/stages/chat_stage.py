"""Replies that can be used: asked for again a few times when cut off, empty, refused or not what was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from look_again.clients.openai import Reply
from look_again.data.sample import Sample
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.engine import RowProblem
from look_again.pipeline.stages.prompt_files import PromptTemplate
from look_again.scoring.grading import UnusableReferenceError, grade
from look_again.text.grammar import Response, parse

ASKS = 3
PROBLEMS_NAMED = 3
_REFUSAL = re.compile(
    r"\W*(?:i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|unfortunately,? i)?[\s,.;—-]*(?:but )?"
    r"(?:i|we) (?:can ?not|can['’]t|am unable to|['’]?m unable to|am not able to|['’]?m not able to|won['’]t|will not) "
    r"(?:\w+ ){0,2}?(?:help|assist|answer|comply|provide|process|analy[sz]e|identify|discuss|view|see|do|fulfil)",
    re.IGNORECASE,
)
T = TypeVar("T")


class UnusableReplyError(ValueError):
    """A reply that is not what was asked for; the message says in which way."""


async def ask_until(
    chat: Chat,
    endpoint: str,
    prompt: PromptTemplate,
    fields: Mapping[str, str],
    read: Callable[[str], T],
    *,
    asks: int = ASKS,
) -> T:
    """What `read` makes of the first reply that it can use.

    Each ask has a number of its own, so a reply of no use is kept and not asked for again. Raises RowProblem after
    `asks` of them, with the last one's fault, and what `Chat.ask` raises.
    """
    system, user = prompt.fill(fields)
    fault = ""
    for ask in range(asks):
        reply = await chat.ask(endpoint, system, user, chat.item.row.images, ask=ask, prompt=prompt.version)
        try:
            return read(usable(reply))
        except UnusableReplyError as error:
            fault = str(error)
    raise RowProblem(f"{endpoint} gave no usable reply in {asks}: {fault}")


def usable(reply: Reply) -> str:
    """The reply's text. UnusableReplyError for one that is empty, cut off or a refusal."""
    text = reply.text.strip()
    if reply.finish == "content_filter" or is_refusal(text):
        raise UnusableReplyError(f"a refusal: {text[:100]!r}")
    if reply.finish == "length":
        raise UnusableReplyError(f"cut off after {reply.tokens_out} tokens")
    if not text:
        raise UnusableReplyError("an empty answer")
    return text


def is_refusal(text: str) -> bool:
    """Whether a text declines to answer: it begins so, and holds neither a section nor JSON."""
    return bool(_REFUSAL.match(text)) and "<" not in text and "{" not in text


def read_response(text: str) -> str:
    """A text in the grammar with at least one reflection, as it is. UnusableReplyError for any other."""
    if problems := faults(parse(text)):
        raise UnusableReplyError(problems)
    return text


def faults(response: Response) -> str:
    """The breaches of the grammar in a line; "" without any."""
    named = [f"{p.kind} {p.tag}" if p.tag else p.kind for p in response.problems[:PROBLEMS_NAMED]]
    more = len(response.problems) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def read_object(text: str) -> dict[str, Any]:
    """The JSON object in a reply, which may stand in a code fence or between words. UnusableReplyError without one."""
    start, stop = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : stop + 1]) if 0 <= start < stop else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UnusableReplyError(f"not a JSON object: {text[:100]!r}")
    return value


def agrees(answer: str | None, sample: Sample) -> bool | None:
    """Whether an answer agrees with the row's reference; None where the row has none that can be graded."""
    if not (sample.reference or "").strip():
        return None
    options: Sequence[str] | None = sample.options or None
    try:
        return grade([answer], [sample.reference], [options])[0]
    except UnusableReferenceError:
        return None
