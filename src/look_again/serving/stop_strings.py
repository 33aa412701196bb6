"""Stop strings over a streamed text: found across deltas, and nothing given out that one may still begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from look_again.streaming import TextDelta


class StopStrings:
    """Passes deltas on until one of `stops` is complete; the text before it is the last.

    Deltas keep their section. The end of the text that may be the beginning of a stop string is held back. `found` is
    the string that stopped, None so far.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held: list[TextDelta] = []

    def feed(self, delta: TextDelta) -> list[TextDelta]:
        """What can be given out now."""
        if self.found is not None:
            return []
        if not self.stops:
            return [delta]
        self._held.append(delta)
        text = "".join(held.text for held in self._held)
        places = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self.stops if stop in text]
        if places:
            end, _, self.found = min(places)  # the first to be complete, however the text was cut into deltas
            return self._release(end - len(self.found), cut_tags=True)
        return self._release(len(text) - self._beginning(text))

    def rest(self) -> list[TextDelta]:
        """What was held back at the end of the text."""
        return [] if self.found is not None else self._release(sum(len(held.text) for held in self._held))

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
