"""The response format of the paper ("The response format"): one definition for data, decoding and rewards.

Five tagged sections: SUMMARY, CAPTION, REASONING and CONCLUSION once each in that order, and any number of
REFLECTIONs between them; no overlap, no nesting. `parse` is the streaming parser fed once, so a whole text
and a stream of it cannot disagree. Both take time linear in the text.

Where the paper is silent, this file decides:
- a REFLECTION before the first section or after CONCLUSION is out of order ("between sections");
- whitespace between sections is free, any other text there is a problem;
- an empty section is a problem unless it is a REFLECTION;
- a tag inside a section is a problem and otherwise content of that section, so a CONCLUSION written inside a
  REFLECTION is not an answer; a closing tag also ends whatever was opened inside its own section;
- tags are exact, case-sensitive strings: `<summary>` or look-alike letters are plain text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

TAGS = ("SUMMARY", "CAPTION", "REASONING", "REFLECTION", "CONCLUSION")

Kind = Literal["missing", "repeated", "out-of-order", "nested", "unclosed", "unopened", "text-outside", "empty"]


def open_tag(tag: str) -> str:
    """`<SUMMARY>` for `SUMMARY`; ValueError for a tag that is not in `TAGS`."""
    return f"<{_known(tag)}>"


def close_tag(tag: str) -> str:
    """`</SUMMARY>` for `SUMMARY`; ValueError for a tag that is not in `TAGS`."""
    return f"</{_known(tag)}>"


def _known(tag: str) -> str:
    if tag not in TAGS:
        raise ValueError(f"unknown section {tag!r}: use one of {', '.join(TAGS)}")
    return tag


TAG_TOKENS = tuple(token for tag in TAGS for token in (open_tag(tag), close_tag(tag)))

_RANK = {tag: rank for rank, tag in enumerate(TAGS)}
_FIXED = tuple(tag for tag in TAGS if tag != "REFLECTION")
_MEANING = {open_tag(tag): (tag, False) for tag in TAGS} | {close_tag(tag): (tag, True) for tag in TAGS}
_SPLIT = re.compile("(" + "|".join(TAG_TOKENS) + ")")
_PREFIXES = frozenset(token[:length] for token in TAG_TOKENS for length in range(1, len(token)))
_LONGEST = max(map(len, TAG_TOKENS))


def split_at_tags(text: str) -> list[str]:
    """The text cut before and after every tag; joined again it is the text."""
    return [part for part in _SPLIT.split(text) if part]


class Section(NamedTuple):
    """A top-level section. `response.text[start:end]` is its content verbatim; `text` is that, stripped."""

    tag: str
    text: str
    start: int
    end: int


class Problem(NamedTuple):
    """One breach of the grammar.

    `at`: character position of the offending tag or text, of the content for "empty", the length of the text
    for "missing". `tag` is None for "text-outside". "unopened" is a closing tag with no open one.
    """

    kind: Kind
    tag: str | None
    at: int


def shorten(text: str | None, most: int = 60) -> str:
    """The repr of a text where an object is printed, its end left out beyond so many characters."""
    shown = repr(text)
    return shown if len(shown) <= most else f"{shown[: most - 2]} …"


@dataclass(frozen=True)
class Response:
    """A parsed response: closed top-level sections in order of appearance, problems in order of position.

    `unclosed` is the section still open where the text ends (a truncated response), None otherwise. It is in
    neither `sections` nor `conclusion`: half an answer is not an answer.
    """

    text: str
    sections: tuple[Section, ...]
    problems: tuple[Problem, ...]
    unclosed: Section | None = None

    def __repr__(self) -> str:
        kinds = list(dict.fromkeys(problem.kind for problem in self.problems))
        wrong = f", problems: {', '.join(kinds)}" if kinds else ""
        sections = f"{len(self.sections)} section{'' if len(self.sections) == 1 else 's'}"
        return f"Response({sections}, conclusion {shorten(self.conclusion)}{wrong})"

    @property
    def well_formed(self) -> bool:
        """Whether the grammar holds (the paper's format reward)."""
        return not self.problems

    @property
    def conclusion(self) -> str | None:
        """The answer: text of the last closed top-level CONCLUSION; None without one, "" if empty."""
        section = self.get("CONCLUSION")
        return None if section is None else section.text

    @property
    def reflections(self) -> list[Section]:
        """The closed top-level REFLECTIONs, in order."""
        return [section for section in self.sections if section.tag == "REFLECTION"]

    def get(self, tag: str) -> Section | None:
        """The last closed top-level section with this tag, or None; ValueError for an unknown tag."""
        _known(tag)
        return next((section for section in reversed(self.sections) if section.tag == tag), None)


class StreamEvent(NamedTuple):
    """A section opened or closed (`text` is ""), or a piece of text in section `tag` (None: outside all)."""

    kind: Literal["open", "text", "close"]
    tag: str | None
    text: str = ""


def parse(text: str, *, min_reflections: int = 1) -> Response:
    """Parse a whole response; fewer REFLECTIONs than `min_reflections` (paper: n >= 1) are "missing"."""
    parser = StreamParser(min_reflections=min_reflections)
    parser.read(text)
    return parser.close()


class StreamParser:
    """Parses a response while it is being generated.

    A tag may be split over chunks anywhere; only characters that may still become a tag are held back (12 at
    most). The events, with their tags written out, add up to the text. ValueError for `min_reflections` < 0.
    """

    def __init__(self, *, min_reflections: int = 1) -> None:
        if min_reflections < 0:
            raise ValueError(f"min_reflections is {min_reflections}: use 0 or more")
        self._needed = dict.fromkeys(TAGS, 1) | {"REFLECTION": min_reflections}
        self._chunks: list[str] = []
        self._held = ""  # characters received that may be the start of a tag
        self._at = 0  # position of the first character not yet turned into an event
        self._ended = False
        self._stack: list[tuple[str, int]] = []  # open tags and their positions; the first is the section
        self._depth = dict.fromkeys(TAGS, 0)  # how often each tag is on the stack
        self._seen = dict.fromkeys(TAGS, 0)  # top-level sections opened so far
        self._latest = -1  # rank of the last section, in the grammar's order, that was opened; no REFLECTION
        self._spans: list[tuple[str, int, int]] = []
        self._problems: list[Problem] = []
        self._outside_reported = False

    def feed(self, chunk: str) -> list[StreamEvent]:
        """Take the next characters; ValueError once the input has ended by `flush` or `close`."""
        if self._ended:
            raise ValueError(f"chunk {chunk[:20]!r} fed after the end: use a new StreamParser")
        self._chunks.append(chunk)
        buffer = self._held + chunk
        end = len(buffer) - _prefix_length(buffer)
        self._held = buffer[end:]
        return [self._take(piece) for piece in _SPLIT.split(buffer[:end]) if piece]

    def read(self, text: str) -> None:
        """Take the whole text at once, without events."""
        self._chunks.append(text)
        for piece in _SPLIT.split(text):
            if piece:
                self._account(piece)

    def flush(self) -> list[StreamEvent]:
        """End the input and give out what was held back, as text."""
        self._ended = True
        held, self._held = self._held, ""
        return [self._take(held)] if held else []

    def close(self) -> Response:
        """End the input; equal to `parse` of everything fed."""
        self.flush()
        text = "".join(self._chunks)
        sections = [_section(text, *span) for span in self._spans]
        cut_off = [_section(text, tag, at + len(f"<{tag}>"), len(text)) for tag, at in self._stack[:1]]
        problems = [
            *self._problems,
            *[Problem("empty", s.tag, s.start) for s in sections if not s.text and s.tag in _FIXED],
            *[Problem("unclosed", tag, at) for tag, at in self._stack],
            *[Problem("missing", tag, len(text)) for tag in TAGS if self._seen[tag] < self._needed[tag]],
        ]
        problems.sort(key=lambda problem: problem.at)
        return Response(text, tuple(sections), tuple(problems), cut_off[0] if cut_off else None)

    def _take(self, piece: str) -> StreamEvent:
        """Account for one tag or run of text: exactly one event each."""
        if self._account(piece):
            tag, closing = _MEANING[piece]
            return StreamEvent("close" if closing else "open", tag)
        return StreamEvent("text", self._stack[0][0] if self._stack else None, piece)

    def _account(self, piece: str) -> bool:
        """Whether this is a tag that opens or closes a top-level section."""
        at, self._at = self._at, self._at + len(piece)
        tag, closing = _MEANING.get(piece, (None, False))
        if tag is None:
            self._take_text(piece, at)
            return False
        self._outside_reported = False
        return self._take_close(tag, at) if closing else self._take_open(tag, at)

    def _take_text(self, piece: str, at: int) -> None:
        if not self._stack and not self._outside_reported and not piece.isspace():
            self._outside_reported = True
            self._problems.append(Problem("text-outside", None, at + len(piece) - len(piece.lstrip())))

    def _take_open(self, tag: str, at: int) -> bool:
        """Whether this opening tag opens a top-level section."""
        if self._stack:
            self._problems.append(Problem("nested", tag, at))
        else:
            self._check_order(tag, at)
            self._seen[tag] += 1
        self._stack.append((tag, at))
        self._depth[tag] += 1
        return len(self._stack) == 1

    def _take_close(self, tag: str, at: int) -> bool:
        """Whether this closing tag closes the top-level section."""
        if not self._depth[tag]:
            self._problems.append(Problem("unopened", tag, at))
            return False
        opened = ""
        while opened != tag:
            opened, since = self._stack.pop()
            self._depth[opened] -= 1
            if opened != tag:
                self._problems.append(Problem("unclosed", opened, since))
        if not self._stack:
            self._spans.append((tag, since + len(f"<{tag}>"), at))
        return not self._stack

    def _check_order(self, tag: str, at: int) -> None:
        reflects, rank = tag == "REFLECTION", _RANK[tag]
        if self._seen[tag] and not reflects:
            self._problems.append(Problem("repeated", tag, at))
        elif rank < self._latest or (reflects and self._latest < 0):
            self._problems.append(Problem("out-of-order", tag, at))
        if not reflects:
            self._latest = max(self._latest, rank)


def _section(text: str, tag: str, start: int, end: int) -> Section:
    return Section(tag, text[start:end].strip(), start, end)


def find_tag_beginning(text: str) -> str:
    """The end of `text` that may be the beginning of a tag, "" where none may."""
    return text[len(text) - _prefix_length(text) :]


def _prefix_length(text: str) -> int:
    """Length of the end of `text` that may be the start of a tag; a tag has its only `<` in front."""
    start = text.rfind("<", max(0, len(text) - _LONGEST + 1))
    return len(text) - start if start >= 0 and text[start:] in _PREFIXES else 0
