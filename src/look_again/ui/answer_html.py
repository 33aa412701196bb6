"""An answer as HTML: pure functions of a transcript, every word of a person or a model escaped.

Each token that writes something is a span with its number (`data-t`), each section a card with its own
(`data-section`), as analysis.sections counts them: the viewer knows what was looked at by these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from look_again.core.families import Grid
from look_again.core.generate import Reflection
from look_again.text.grammar import StreamEvent, StreamParser, close_tag, open_tag, parse
from look_again.ui.transcript import Transcript, count_kept, find_row_runs
from look_again.web.section_cards import escape, section_html, section_name

NAMES = {"text": "Text", "copy": "COPY", "route": "ROUTE"}
ABOUT = {
    "text": "reflects in words only",
    "copy": "all visual tokens are put back",
    "route": "",  # the slider stands here
}


@dataclass(frozen=True)
class AnswerDisplay:
    """What goes with a transcript. image: its address, "" without one. size: its width and height. code: HTML of the
    snippets. alone: no other mode is compared with it. notes: said under the answer.
    """

    image: str = ""
    size: tuple[int, int] = (1, 1)
    code: str = ""
    alone: bool = False
    notes: Sequence[str] = ()


def answer_html(transcript: Transcript, shown: AnswerDisplay) -> str:
    """The whole answer of one mode."""
    mode = transcript.policy.mode
    key = f' data-key="{escape(transcript.key)}"' if transcript.key else ""
    alone = " la-alone" if shown.alone else ""
    return (
        f'<article class="la-answer la-{transcript.status}{alone}" data-mode="{mode}"{key}>{head_html(transcript)}'
        f'<div class="la-body">{viewer_html(transcript, shown)}<div class="la-response" aria-live="off">'
        f"{response_html(transcript, shown)}{end_html(transcript, shown.notes)}{shown.code}</div></div></article>"
    )


def head_html(transcript: Transcript) -> str:
    """Mode and conclusion, which stay in view, and how far it is."""
    mode, conclusion = transcript.policy.mode, conclude(transcript)
    return (
        f'<header class="la-answer-head"><h3>{NAMES[mode]}</h3>'
        f'<p class="la-verdict" title="{escape(conclusion)}"><span class="la-hidden">concludes: </span>'
        f"{escape(conclusion)}</p></header>"
        f'<p class="la-progress">{escape(progress(transcript))}</p><p class="la-about">{ABOUT[mode]}</p>'
    )


def conclude(transcript: Transcript) -> str:
    """What an answer concludes: "..." until it does, "no conclusion" where it ended without one."""
    conclusion = " ".join((parse(transcript.texts.text).conclusion or "").split())
    return conclusion or ("…" if transcript.running else "no conclusion")


def conclusions_html(transcripts: Sequence[Transcript]) -> str:
    """The conclusions of several answers beside each other, each a link to its answer; "" without any."""
    if not transcripts:
        return ""
    links = "".join(
        f'<a href="#la-column-{transcript.policy.mode}" data-mode="{transcript.policy.mode}">'
        f"<b>{NAMES[transcript.policy.mode]}</b> <span>{escape(conclude(transcript))}</span></a>"
        for transcript in transcripts
    )
    return f'<nav class="la-verdicts" aria-label="conclusions">{links}</nav>'


def progress(transcript: Transcript) -> str:
    """How far an answer is, in a few words."""
    count, back = len(transcript.texts.ids), sum(reflection.reinserted_tokens for reflection in transcript.reinsertions)
    tokens = f"{count} token{'' if count == 1 else 's'}"
    again = f" · {back} put back" if back else ""
    if transcript.status == "waiting":
        return "waiting for its turn"
    if transcript.status == "reading":
        return "reading"
    if transcript.status == "done":
        return f"{tokens}{again} · {transcript.seconds:.1f} s"
    if transcript.status == "writing":
        return f"{tokens}{again}"
    return f"{transcript.status} · {tokens}{again}"


def viewer_html(transcript: Transcript, shown: AnswerDisplay) -> str:
    """The image, with room for a heat map over it and, once there is an answer, for scrubbing through its tokens."""
    if not shown.image:
        return (
            '<div class="la-viewer la-blind"><p class="la-none">no image: there is nothing to look at again</p></div>'
        )
    _, rows, columns = transcript.grid or (1, 1, 1)
    scrub = (
        '<div class="la-scrub" hidden><canvas class="la-timeline" aria-hidden="true"></canvas>'
        '<input type="range" class="la-range" min="0" value="0" step="1" aria-label="token"></div>'
        '<p class="la-reading"></p>'
        '<div class="la-tools" hidden><label>layers <select class="la-layer"><option value="mean">mean of all</option>'
        '</select></label><span class="la-sinks"></span></div>'
    )
    width, height = shown.size
    return (
        f'<div class="la-viewer" data-rows="{rows}" data-columns="{columns}"><div class="la-stage">'
        f'<div class="la-picture" style="aspect-ratio:{width}/{height};--la-ratio:{width / height:.4f}">'
        f'<img src="{escape(shown.image)}" alt="the picture that was asked about" draggable="false">'
        f'<canvas class="la-heat" aria-hidden="true"></canvas>{_veil(())}</div></div>'
        f"{scrub if transcript.key else ''}</div>"
    )


def response_html(transcript: Transcript, shown: AnswerDisplay) -> str:
    """Sections in colour, with what was put back between them."""
    if not transcript.texts.text.strip():
        return _between(transcript, shown, 0, 0) if transcript.reinsertions else '<p class="la-none la-wait"></p>'
    return "".join(_pieces(transcript, shown))


def end_html(transcript: Transcript, notes: Sequence[str] = ()) -> str:
    """What has to be said about the end, and the notes on a finished answer."""
    if transcript.status == "failed":
        return f'<p class="la-refused" role="alert">✗ {escape(transcript.message)}</p>'
    reason = transcript.ended.reason if transcript.ended else ""
    note = {"length": "cut off: the number of tokens is used up", "context": "cut off: the context is full"}.get(reason)
    said = [*([note] if note else []), *(f"note: {text}" for text in notes)]
    return "".join(f'<p class="la-note">{escape(text)}</p>' for text in said)


@dataclass
class _Card:
    """A section that is being written."""

    tag: str | None
    number: int
    body: str = ""
    closed: bool = False


def _pieces(transcript: Transcript, shown: AnswerDisplay) -> Iterator[str]:
    """Cards and re-insertions in the order in which they came."""
    at, card, number, outside = 0, None, 0, _sections_in(transcript)
    shown_before = 0  # re-insertions that stand on the page
    for event in _events(transcript):
        if event.kind == "open":
            if card:
                yield _card_html(card)
            token = transcript.token_at(at)
            if event.tag == "REFLECTION":
                yield _between(transcript, shown, shown_before, token)
                shown_before = sum(reflection.at <= token for reflection in transcript.reinsertions)
            card, number = _Card(event.tag, number), number + 1
        elif event.kind == "close" and card:
            card.closed = True
        elif event.kind == "text":
            if card is None or (card.closed and event.text.strip()):
                if card:
                    yield _card_html(card)
                card = _Card(None, outside)
            card.body += "" if card.closed else _spans(transcript, event.text, at, bool(card.body))
        at += _written(event)
    if card:
        yield _card_html(card)
    if shown_before < len(transcript.reinsertions) and transcript.running:
        yield _between(transcript, shown, shown_before, len(transcript.texts.ids))


def _events(transcript: Transcript) -> list[StreamEvent]:
    """The text as events; while it comes, what may still become a tag is held back."""
    parser = StreamParser()
    events = parser.feed(transcript.texts.text)
    return events if transcript.running else [*events, *parser.flush()]


def _sections_in(transcript: Transcript) -> int:
    """Number of the section of text outside of all others: it is counted last."""
    return sum(event.kind == "open" for event in _events(transcript))


def _written(event: StreamEvent) -> int:
    """Characters of the response that an event stands for."""
    if event.kind == "text" or event.tag is None:
        return len(event.text)
    return len(open_tag(event.tag) if event.kind == "open" else close_tag(event.tag))


def _spans(transcript: Transcript, text: str, at: int, goes_on: bool) -> str:
    """Text that begins at character `at` of the response, a span per token; blanks that begin a card are left out."""
    stop = at + len(text)
    text = text if goes_on else text.lstrip()
    place = at = stop - len(text)
    spans = []
    for token in range(transcript.token_at(at), len(transcript.texts.ends)):
        end = min(transcript.texts.ends[token], stop)
        if end > place:
            spans.append(f'<span data-t="{token}">{escape(text[place - at : end - at])}</span>')
            place = end
        if place >= stop:
            break
    return "".join(spans)


def _card_html(card: _Card) -> str:
    if card.tag is None and not card.body.strip():
        return ""
    body = card.body or ('<i class="la-none">nothing written: it only looks</i>' if card.closed else "")
    title = f'<button type="button" class="la-title-button">{escape(section_name(card.tag))}</button>'
    return section_html(card.tag, title, body, f' data-section="{card.number}"')


def _between(transcript: Transcript, shown: AnswerDisplay, shown_before: int, token: int) -> str:
    """What was put back before the reflection whose tag is response token `token`, or that nothing was."""
    reinsertions = [
        reflection
        for reflection in transcript.reinsertions[shown_before:]
        if reflection.at <= token and reflection.visual_indices
    ]
    if reinsertions:
        return "".join(_reinsertion_html(reflection, transcript, shown) for reflection in reinsertions)
    why = transcript.why_not(token)
    return f'<p class="la-look la-look-none">{escape(why)}</p>' if why else ""


def _reinsertion_html(reflection: Reflection, transcript: Transcript, shown: AnswerDisplay) -> str:
    grid, (kept, of) = transcript.grid, count_kept(reflection, transcript.grid)
    strip = ", in a strip" if transcript.policy.layout == "strip" else ""
    image = f'<img src="{escape(shown.image)}" alt="" draggable="false">' if shown.image else ""
    return (
        f'<button type="button" class="la-look" title="show which" aria-pressed="false" data-at="{reflection.at}">'
        f'<span class="la-mask">{image}{_veil(reflection.visual_indices, grid)}</span><span><b>⟲ looks again</b> '
        f"{kept} of {of} visual tokens put back{strip}</span></button>"
    )


def _veil(kept: Sequence[int], grid: Grid | None = None) -> str:
    """An SVG over an image that dims the patches that were not put back; all clear without a grid over the image."""
    frames, rows, columns = grid or (0, 1, 1)
    seen = set(kept) if rows * columns > 1 else range(frames)
    dimmed = [place for place in range(frames * rows * columns) if place not in seen]
    path = "".join(f"M{column} {row}h{count}v1h-{count}z" for row, column, count in find_row_runs(dimmed, columns))
    return f'<svg class="la-veil" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none"><path d="{path}"/></svg>'
