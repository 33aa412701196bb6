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
from look_again.pipeline.contents import as_text, compute_digest
from look_again.pipeline.endpoint_pool import EndpointDownError
from look_again.pipeline.engine import PipelineStage, RowProblem, Work
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem
from look_again.pipeline.stages.chat_stage import UnusableReplyError, ask_until, faults, read_object
from look_again.pipeline.stages.prompt_files import PromptTemplate
from look_again.text.grammar import parse

NAME = "verify"
VERDICTS = ("correct", "incorrect")
ON_DOWN = ("wait", "go-on")
NO_REFERENCE = "(none is known)"


@dataclass(frozen=True, kw_only=True)
class JudgePanel:
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


def stage(panel: JudgePanel, prompt: PromptTemplate, after: str, *, later: tuple[str, ...] = ()) -> PipelineStage:
    """The stage after the one called `after`."""
    version = compute_digest(as_text([vars(panel), prompt.version]))[:12]
    return PipelineStage(StageKey(NAME, version, after), work=_work(panel, prompt), later=later)


def _work(panel: JudgePanel, prompt: PromptTemplate) -> Work:
    async def work(item: WorkItem, chat: Chat) -> Outcome:
        if problems := faults(parse(item.response or "")):
            return Outcome(output=_output(item, [], panel, problems))
        requests = [_verdict(judge, panel, prompt, item, chat) for judge in panel.judges]
        results = await asyncio.gather(
            *requests, return_exceptions=True
        )  # one that fails must not lose the others' replies
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, EndpointDownError):
                raise result
        down = [str(result) for result in results if isinstance(result, EndpointDownError)]
        verdicts = [result for result in results if isinstance(result, dict)]
        given = sum("answer" in verdict for verdict in verdicts)
        if down and (panel.on_down == "wait" or given < (panel.quorum or panel.threshold)):
            return Outcome.waiting("; ".join(down), verdicts=verdicts)
        if given < (panel.quorum or panel.threshold):
            return Outcome.bad(f"only {given} judges gave a verdict", verdicts=verdicts)
        missing = [{"judge": judge, "abstains": reason} for judge, reason in _missing(panel, results)]
        return Outcome(output=_output(item, [*verdicts, *missing], panel, ""))

    return work


def _missing(panel: JudgePanel, results: Sequence[Any]) -> list[tuple[str, str]]:
    pairs = zip(panel.judges, results, strict=True)
    return [(judge, f"down: {result}") for judge, result in pairs if isinstance(result, EndpointDownError)]


async def _verdict(judge: str, panel: JudgePanel, prompt: PromptTemplate, item: WorkItem, chat: Chat) -> dict[str, Any]:
    fields = {
        "question": item.row.prompt,
        "reference": item.row.reference or NO_REFERENCE,
        "response": item.response or "",
    }
    try:
        verdict = await ask_until(chat, judge, prompt, fields, read_verdict, asks=panel.asks)
    except (RowProblem, RequestRefusedError) as error:
        return {"judge": judge, "abstains": str(error)}
    return {"judge": judge, **verdict}


def read_verdict(text: str) -> dict[str, str]:
    """A judge's reply as {answer, reasoning, reason}. UnusableReplyError unless both are "correct" or "incorrect"."""
    value = read_object(text)
    verdict = {name: str(value.get(name, "")).strip().lower() for name in ("answer", "reasoning")}
    for name, word in verdict.items():
        if word not in VERDICTS:
            raise UnusableReplyError(f"{name} is {word[:40]!r}, not correct or incorrect")
    return {**verdict, "reason": " ".join(str(value.get("reason") or "").split())}


def objects(verdict: dict[str, Any]) -> bool | None:
    """Whether a judge objects; None where it abstains."""
    if "answer" not in verdict:
        return None
    return "incorrect" in (verdict["answer"], verdict["reasoning"])


def _output(item: WorkItem, verdicts: list[dict[str, Any]], panel: JudgePanel, problems: str) -> dict[str, Any]:
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
