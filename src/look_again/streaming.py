"""Token events as text: what a stream shows, section by section. Used by the Python API, the server and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from look_again.answers import Answer
from look_again.core.generate import Event, Reinsertion, Token
from look_again.text.chat import decode_text
from look_again.text.grammar import StreamEvent, StreamParser, close_tag, open_tag


@dataclass(frozen=True)
class TextDelta:
    """Stream event: more text. `tag` is its section, None outside; `kind` is "open", "text" or "close"."""

    text: str
    tag: str | None
    kind: str = "text"


@dataclass(frozen=True)
class LookedAgain:
    """Stream event: visual tokens were put back, right before the `<REFLECTION>` that follows in the stream."""

    reinsertion: Reinsertion


@dataclass(frozen=True)
class Finished:
    """Last stream event."""

    answer: Answer


StreamItem = TextDelta | LookedAgain | Finished


class TextStream:
    """Turns token events into text deltas with their section; holds back incomplete characters and tags."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.parser = StreamParser()
        self.ids: list[int] = []
        self.start = 0  # ids before it were given out, up to a whole character
        self.given = ""

    def take(self, event: Event) -> Iterator[StreamItem]:
        if isinstance(event, Reinsertion):
            yield LookedAgain(event)
        elif isinstance(event, Token):
            self.ids.append(event.token_id)
            text = decode_text(self.tokenizer, self.ids[self.start :])
            if text.endswith("\ufffd"):
                return
            new, self.given = text[len(self.given) :], text
            if len(self.ids) - self.start > 16:
                self.start, self.given = len(self.ids), ""
            yield from self._texts(self.parser.feed(new))

    def rest(self) -> Iterator[StreamItem]:
        text = decode_text(self.tokenizer, self.ids[self.start :])
        yield from self._texts(self.parser.feed(text[len(self.given) :]))
        yield from self._texts(self.parser.flush())

    def _texts(self, events: Sequence[StreamEvent]) -> Iterator[TextDelta]:
        for event in events:
            yield TextDelta(_written(event), event.tag, event.kind)


def _written(event: StreamEvent) -> str:
    """What an event adds to the response's text."""
    if event.kind == "text" or event.tag is None:
        return event.text
    return open_tag(event.tag) if event.kind == "open" else close_tag(event.tag)
