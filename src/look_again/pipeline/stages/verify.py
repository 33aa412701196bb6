"""The panel (paper, "The pipeline", 4): judges see image, question, reference and answer, and say what is wrong.

Each judges answer and reasoning apart and gives a reason; a judge objects when either is incorrect, and `threshold`
objections flag the row (paper: four judges, two objections). Ours beyond the paper: an answer that breaks the grammar
is flagged without asking anybody, and a judge without a usable verdict abstains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from look_again.clients.openai import RequestRefusedError
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.contents import as_text, digest_of
from look_again.pipeline.endpoint_pool import EndpointDownError
from look_again.pipeline.engine import RowProblem, Stage, Work
from look_again.pipeline.ledger.items import Item, Outcome, Place
from look_again.pipeline.stages.chat_stage import UnusableReplyError, ask_until, faults, read_object
from look_again.pipeline.stages.prompt_files import Prompt
from look_again.text.grammar import parse

NAME = "verify"
SAID = ("correct", "incorrect")
ON_DOWN = ("wait", "go-on")
NO_REFERENCE = "(none is known)"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """judges: names of endpoints. threshold: objections that flag. on_down: "wait" for a judge that is down, or "go-on"
    with the rest as long as `quorum` verdicts are there (None: as many as the threshold). asks: per judge.

    Raises ValueError for values out of range.
    """

    judges: tuple[str, ...]
    threshold: int = 2
    on_down: str = "wait"
    quorum: int | None = None
    asks: int = 3

    def __post_init__(self) -> None:
        if len(set(self.judges)) != len(self.judges) or not self.judges:
            raise ValueError(f"judges are {self.judges}: name at least one, each once")
        if not 1 <= self.threshold <= len(self.judges):
            raise ValueError(f"threshold is {self.threshold}: use 1 to {len(self.judges)}, the number of judges")
        if self.on_down not in ON_DOWN:
            raise ValueError(f"on_down is {self.on_down!r}: use one of {', '.join(ON_DOWN)}")
        if self.quorum is not None and not self.threshold <= self.quorum <= len(self.judges):
            raise ValueError(f"quorum is {self.quorum}: use {self.threshold} to {len(self.judges)}")


def stage(panel: Panel, prompt: Prompt, after: str, *, later: tuple[str, ...] = ()) -> Stage:
    """The stage after the one called `after`."""
    version = digest_of(as_text([vars(panel), prompt.version]))[:12]
    return Stage(Place(NAME, version, after), work=_work(panel, prompt), later=later)


def _work(panel: Panel, prompt: Prompt) -> Work:
    async def work(item: Item, chat: Chat) -> Outcome:
        if problems := faults(parse(item.response or "")):
            return Outcome(output=_output(item, [], panel, problems))
        asked = [_verdict(judge, panel, prompt, item, chat) for judge in panel.judges]
        found = await asyncio.gather(*asked, return_exceptions=True)  # one that fails must not lose the others' replies
        for end in found:
            if isinstance(end, BaseException) and not isinstance(end, EndpointDownError):
                raise end
        down = [str(end) for end in found if isinstance(end, EndpointDownError)]
        verdicts = [end for end in found if isinstance(end, dict)]
        given = sum("answer" in verdict for verdict in verdicts)
        if down and (panel.on_down == "wait" or given < (panel.quorum or panel.threshold)):
            return Outcome.waiting("; ".join(down), verdicts=verdicts)
        if given < (panel.quorum or panel.threshold):
            return Outcome.bad(f"only {given} judges gave a verdict", verdicts=verdicts)
        missing = [{"judge": judge, "abstains": reason} for judge, reason in _missing(panel, found)]
        return Outcome(output=_output(item, [*verdicts, *missing], panel, ""))

    return work


def _missing(panel: Panel, found: Sequence[Any]) -> list[tuple[str, str]]:
    pairs = zip(panel.judges, found, strict=True)
    return [(judge, f"down: {end}") for judge, end in pairs if isinstance(end, EndpointDownError)]


async def _verdict(judge: str, panel: Panel, prompt: Prompt, item: Item, chat: Chat) -> dict[str, Any]:
    fields = {
        "question": item.row.prompt,
        "reference": item.row.reference or NO_REFERENCE,
        "response": item.response or "",
    }
    try:
        said = await ask_until(chat, judge, prompt, fields, read_verdict, asks=panel.asks)
    except (RowProblem, RequestRefusedError) as error:
        return {"judge": judge, "abstains": str(error)}
    return {"judge": judge, **said}


def read_verdict(text: str) -> dict[str, str]:
    """A judge's reply as {answer, reasoning, reason}. UnusableReplyError unless both are "correct" or "incorrect"."""
    value = read_object(text)
    said = {name: str(value.get(name, "")).strip().lower() for name in ("answer", "reasoning")}
    for name, word in said.items():
        if word not in SAID:
            raise UnusableReplyError(f"{name} is {word[:40]!r}, not correct or incorrect")
    return {**said, "reason": " ".join(str(value.get("reason") or "").split())}


def objects(verdict: dict[str, Any]) -> bool | None:
    """Whether a judge objects; None where it abstains."""
    if "answer" not in verdict:
        return None
    return "incorrect" in (verdict["answer"], verdict["reasoning"])


def _output(item: Item, verdicts: list[dict[str, Any]], panel: Panel, problems: str) -> dict[str, Any]:
    objections = sum(objects(verdict) is True for verdict in verdicts)
    flagged = bool(problems) or objections >= panel.threshold
    kept: dict[str, Any] = {"right": item.output["right"]} if "right" in item.output else {}
    return {
        "response": item.response,
        **kept,
        "verdicts": verdicts,
        "format": problems,
        "objections": objections,
        "flagged": flagged,
    }
