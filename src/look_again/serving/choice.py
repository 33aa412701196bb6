"""One answer on its way: a backend's events in, text for OpenAI's two fields out, and what is reported at the end.

The CONCLUSION goes into `content`, everything else with its tags into `reasoning_content`; streamed or not, it is cut
here, so both forms of an answer agree. Stop strings are found across deltas, and nothing is given out that a stop
string may still begin with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from look_again.core.generate import Reflection, Reinsertion, Token
from look_again.serving.backend import BackendEvent, Ended, Started
from look_again.serving.tool_calls import Call, CallReader, Toolbox
from look_again.streaming import LookedAgain, StreamItem, TextDelta, TextStream


class StopStrings:
    """Passes deltas on until one of `stops` is complete; the text before it is the last.

    Deltas keep their section. The end of the text that may be the beginning of a stop string is held back. `stopped_by`
    is the string that stopped, None so far.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.stopped_by: str | None = None
        self._held: list[TextDelta] = []

    def feed(self, delta: TextDelta) -> list[TextDelta]:
        """What can be given out now."""
        if self.stopped_by is not None:
            return []
        if not self.stops:
            return [delta]
        self._held.append(delta)
        text = "".join(held.text for held in self._held)
        places = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self.stops if stop in text]
        if places:
            end, _, self.stopped_by = min(places)  # the first to be complete, however the text was cut into deltas
            return self._release(end - len(self.stopped_by), cut_tags=True)
        return self._release(len(text) - self._beginning(text))

    def rest(self) -> list[TextDelta]:
        """What was held back at the end of the text."""
        return [] if self.stopped_by is not None else self._release(sum(len(held.text) for held in self._held))

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = min(len(text), max(map(len, self.stops)) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self.stops)), 0)

    def _release(self, length: int, *, cut_tags: bool = False) -> list[TextDelta]:
        """The first `length` characters of what is held. A tag stays whole unless the text ends inside it."""
        given: list[TextDelta] = []
        while self._held and len(self._held[0].text) <= length:
            given.append(self._held.pop(0))
            length -= len(given[-1].text)
        if length and (cut_tags or self._held[0].kind == "text"):
            whole = self._held[0]
            given.append(TextDelta(whole.text[:length], whole.tag))
            self._held[0] = replace(whole, text=whole.text[length:], kind="text")
        return given


@dataclass(frozen=True)
class TextPiece:
    """More text of a message's field, "content" or "reasoning_content"."""

    field: str
    text: str


@dataclass(frozen=True)
class ToolCallsPiece:
    """The calls of an answer, whole."""

    calls: tuple[Call, ...]


Piece = Started | TextPiece | ToolCallsPiece | Reflection


class Conclusion:
    """Splits a response at its first CONCLUSION.

    Its text goes into `content`, without the tags and without blanks around it; all other text, tags included, into
    `reasoning_content`. A second CONCLUSION, which the format does not allow, stays in the trace.
    """

    def __init__(self) -> None:
        self.seen = False
        self.inside = False
        self._blanks = ""  # at the end of the content so far: given out once something follows
        self._begun = False

    def split(self, delta: TextDelta) -> TextPiece | None:
        """None for a delta that adds nothing."""
        if delta.kind == "open" and delta.tag == "CONCLUSION" and not self.seen:
            self.seen = self.inside = True
            return None
        if not self.inside:
            return TextPiece("reasoning_content", delta.text) if delta.text else None
        if delta.kind == "close":
            self.inside = False
            return None
        return self._content(delta.text)

    def _content(self, text: str) -> TextPiece | None:
        text = self._blanks + text
        text = text if self._begun else text.lstrip()
        shown = text.rstrip()
        self._blanks, self._begun = text[len(shown) :], self._begun or bool(shown)
        return TextPiece("content", shown) if shown else None


class Choice:
    """One of the answers of a request.

    everything: the whole tagged text goes into `content`. After the end: `finish_reason` is "stop" or "length",
    `stop_reason` the stop string that ended it, and the counts are those of `Ended`, or of the events where a stop
    string ended the answer before its own end.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str] = (),
        *,
        everything: bool = False,
        toolbox: Toolbox | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.started: Started | None = None
        self.reflections: list[Reflection] = []
        self.sampled = self.forced = self.reinserted = 0
        self.cached_tokens: int | None = None
        self.text: dict[str, str] = {"content": "", "reasoning_content": ""}
        self.everything = everything
        self.calls: tuple[Call, ...] = ()
        self.reasoning_tokens: int | None = None  # sampled before the CONCLUSION, once that has begun
        self.token_ids: list[int] = []
        self.unreported: list[tuple[str, Token]] = []
        self._last_forced = False
        self._caller = None if toolbox is None else CallReader(toolbox)
        self._reason: str | None = None
        self._stream = TextStream(tokenizer)
        self._stops = StopStrings(stops)
        self._conclusion = Conclusion()

    @property
    def ended(self) -> bool:
        return self._reason is not None or self._stops.stopped_by is not None

    @property
    def finish_reason(self) -> str:
        if self.calls:
            return "tool_calls"
        return "stop" if self._stops.stopped_by is not None or self._reason == "stop" else "length"

    @property
    def stop_reason(self) -> str | None:
        return self._stops.stopped_by

    @property
    def notes(self) -> list[str]:
        """What a caller should know of how it ended."""
        notes = ["the context was full"] if self._reason == "context" and self._stops.stopped_by is None else []
        if not self.everything and not self._conclusion.seen:
            notes.append("no CONCLUSION came: all that was written is in reasoning_content")
        return notes

    def take(self, event: BackendEvent) -> Iterator[Piece]:
        """What an event adds, in order. After `ended` no more is to be taken."""
        if isinstance(event, Started):
            self.started = event
            yield event
        elif isinstance(event, Ended):
            self._end(event)
            yield from self._pieces(self._stream.rest())
            yield from self._texts(self._stops.rest())
            yield from self._finish_calls()
        else:
            self._count(event)
            was_inside = self._conclusion.inside
            yield from self._pieces(self._stream.take(event))
            if isinstance(event, Token):
                inside = self.everything or (was_inside and self._conclusion.inside)
                self.unreported.append(("content" if inside else "reasoning_content", event))
            if self._stops.stopped_by is not None:
                yield from self._finish_calls()

    def report_tokens(self, field: str | None = None) -> list[tuple[str, Token]]:
        """The tokens, with their fields, that were not reported before: of one field, or all."""
        reported = [pair for pair in self.unreported if field in (None, pair[0])]
        self.unreported = [pair for pair in self.unreported if field not in (None, pair[0])]
        return reported

    def _count(self, event: Token | Reinsertion) -> None:
        if isinstance(event, Reinsertion):
            self.reflections.append(event.reflection)
            self.reinserted += event.reflection.reinserted_tokens
            return
        self._last_forced = event.forced
        self.token_ids.append(event.token_id)
        self.forced += event.forced
        self.sampled += not event.forced

    def _end(self, ended: Ended) -> None:
        self._reason = ended.reason
        self.reflections = list(ended.reflections)
        self.sampled, self.forced, self.reinserted = ended.sampled, ended.forced, ended.reinserted
        self.cached_tokens = ended.cached_tokens

    def _pieces(self, items: Iterator[StreamItem]) -> Iterator[Piece]:
        for item in items:
            if isinstance(item, LookedAgain):
                yield item.reinsertion.reflection
            elif isinstance(item, TextDelta):
                self._note_conclusion(item)
                yield from self._texts(self._stops.feed(item))

    def _texts(self, deltas: Sequence[TextDelta]) -> Iterator[TextPiece]:
        for delta in deltas:
            piece = TextPiece("content", delta.text) if self.everything else self._conclusion.split(delta)
            if piece is not None and piece.field == "content" and self._caller is not None:
                piece = TextPiece("content", self._caller.feed(piece.text))
            if piece is not None and piece.text:
                self.text[piece.field] += piece.text
                yield piece

    def _finish_calls(self) -> Iterator[Piece]:
        """The tool calls at the end of the answer, or the text that was held back for one."""
        calls, text = ([], "") if self._caller is None else self._caller.finish()
        if calls:
            self.calls = tuple(calls)
            yield ToolCallsPiece(self.calls)
        if text:
            self.text["content"] += text
            yield TextPiece("content", text)

    def _note_conclusion(self, delta: TextDelta) -> None:
        if delta.kind == "open" and delta.tag == "CONCLUSION" and self.reasoning_tokens is None:
            self.reasoning_tokens = self.sampled - (not self._last_forced)
