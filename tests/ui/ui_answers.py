"""What the page's tests share: the shipped tokenizer, answers as events, and a backend that plays them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from transformers import Qwen2VLImageProcessorPil

from look_again.core.families import FAMILIES, Grid, VisionTokens
from look_again.core.generate import Reflection, Reinsertion, Token
from look_again.core.slots import SlotBuilder
from look_again.loading import Checkpoint, default_checkpoint, load_tokenizer
from look_again.serving.backend import BackendEvent, Ended, Job, Started
from look_again.text.chat import encode_response
from look_again.text.tags import tag_ids
from look_again.ui.transcript import TokenTexts, Transcript, build_policy
from look_again.ui.workspace import Workspace

PROCESSOR = Qwen2VLImageProcessorPil.from_pretrained(default_checkpoint())
TOKENIZER = load_tokenizer(str(default_checkpoint()))
GRID: Grid = (1, 2, 3)
ANSWER = (
    "<SUMMARY> count</SUMMARY><CAPTION> a3 red ball</CAPTION><REASONING> so 1</REASONING>"
    "<REFLECTION> a3 red ball</REFLECTION><CONCLUSION> 1</CONCLUSION>"
)


def encode(text: str) -> list[int]:
    return encode_response(TOKENIZER, text, tag_ids(TOKENIZER))[0]


def build_events(text: str, rows: Sequence[int] = (0, 4, 5), mode: str = "route") -> list[BackendEvent]:
    """A backend's events for a response that looks at `rows` before its reflections, and then ends."""
    opening = tag_ids(TOKENIZER)["<REFLECTION>"]
    events: list[BackendEvent] = [
        Started(20, 6, slots=SlotBuilder(FAMILIES["qwen2_5_vl"], VisionTokens(0, 1, 2, 3)).build)
    ]
    reflections = []
    for at, token_id in enumerate(encode(text)):
        if token_id == opening:
            reflections.append(Reflection(mode, tuple(rows), at=at))
            events += [Reinsertion(0, reflections[-1])] if rows else []
        events.append(Token(0, token_id))
    count = len(encode(text))
    return [*events, Ended("stop", tuple(reflections), count, 0, len(rows) * len(reflections))]


def build_transcript(events: Sequence[BackendEvent], mode: str = "route", grid: Grid | None = GRID) -> Transcript:
    transcript = Transcript(build_policy(mode, 50), TokenTexts(TOKENIZER), grid)
    for event in events:
        transcript.take(event)
    return transcript


@dataclass
class PlayedBackend:
    """Plays `script(job)` for each job: events, and an exception where one is raised. pause_s: before each event."""

    script: Callable[[Job], Sequence[BackendEvent | Exception]]
    pause_s: float = 0.0
    name: str = "transformers"
    jobs: list[Job] = field(default_factory=list)
    closed: int = 0  # generators that came to an end, whichever

    @property
    def checkpoint(self) -> Any:
        return SimpleNamespace(name="played", tokenizer=TOKENIZER)

    def check(self, job: Job) -> None:
        pass

    async def generate(self, job: Job) -> AsyncGenerator[BackendEvent, None]:
        self.jobs.append(job)
        try:
            for event in self.script(job):
                await asyncio.sleep(self.pause_s)
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed += 1


class MeasuredBackend(PlayedBackend):
    """Also lends its checkpoint, without a model. borrows: how often."""

    borrows = 0
    scope: Any = None

    @property
    def checkpoint(self) -> Any:
        return Checkpoint("played", None, TOKENIZER, PROCESSOR, FAMILIES["qwen2_5_vl"], True, scope=self.scope)

    async def borrow(self, work: Callable[[Any], Any]) -> Any:
        self.borrows += 1
        await asyncio.sleep(0.01)
        return work(self.checkpoint)


def build_played_workspace(name: str = "transformers", scope: Any = None) -> Workspace:
    backend = MeasuredBackend(lambda job: build_events(ANSWER, mode=job.policy.mode), name=name)
    backend.scope = scope
    return Workspace(backend)  # type: ignore[arg-type]
