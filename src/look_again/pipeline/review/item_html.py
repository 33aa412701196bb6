"""What a reviewer sees, as pieces of HTML: pure functions of the page's state, every word of a row escaped.

As the paper's people did ("The pipeline", 4), they see image, question, reference and response; ours see the panel's
verdicts and what a rewrite replaced as well.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any
from urllib.parse import quote

from look_again.data.encoded_images import sendable
from look_again.data.image_files import ImageSource
from look_again.data.sample import Sample
from look_again.images import ImageError
from look_again.pipeline.review.decisions import Decision
from look_again.pipeline.review.response_text import escape, grammar_html, problems_html, sections_html
from look_again.pipeline.review.session import DECIDED, ItemView, PageState

MAX_PIXELS = 1_500_000  # of an image on the page
KEYS_OF_BUTTONS = {"accept": "a", "reject": "r", "edit": "e", "undo": "u", "earlier": "←", "later": "→",
                   "save": "Ctrl Enter", "leave": "Esc"}  # fmt: skip
OTHER_KEYS = (("n", "writes a note"), ("Esc", "leaves it"), ("↑ ↓", "scroll"))


def header_html(state: PageState) -> str:
    """The line on top: who, how far, which row; and what the last step did."""
    done, share = state.progress.decided, state.progress.share
    percent = 100 * done // share if share else 100
    row = "" if state.view is None else f'<span class="la-row">row <b>{escape(state.view.item.row.id)}</b></span>'
    sample = "" if state.view is None or not state.view.item.sample else f" · sample {state.view.item.sample}"
    source = "" if state.view is None else f'<span class="la-quiet">{escape(state.view.item.row.source)}{sample}</span>'
    message, refused = ("", _message_html(state)) if state.refused else (_message_html(state), "")
    return (
        f'<div class="la-head" data-turn="{time.time_ns()}" data-row="{escape(state.seen)}">'
        f'<span class="la-who">{escape(state.reviewer)}</span>'
        f'<span class="la-bar" role="progressbar" aria-label="decided" aria-valuenow="{percent}" aria-valuemin="0" '
        f'aria-valuemax="100"><span style="width:{percent}%"></span></span><span>{done} of {share} decided</span>'
        f"{message}{row}{source}</div>{refused}{_decision_html(state)}"
    )


def _message_html(state: PageState) -> str:
    kind, sign = ("la-refused", "✗ ") if state.refused else ("la-said", "")
    return f'<div class="{kind}" id="la-said" role="alert">{sign}{escape(state.message)}</div>' if state.message else ""


def _decision_html(state: PageState) -> str:
    if state.view is None or (decision := state.view.decision) is None:
        return ""
    return f'<div class="la-decision la-{decision.action}">{_word(decision)}. <kbd>→</kbd> goes on.</div>'


def _word(decision: Decision) -> str:
    """A decision in words, escaped."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(decision.at))
    note = f": {decision.note}" if decision.note else ""
    return f"<b>{DECIDED[decision.action]}</b> by {escape(decision.reviewer)} on {when}{escape(note)}"


def left_html(state: PageState) -> str:
    """What is asked about what: images, question, reference."""
    return "" if state.view is None else images_html(state.view.item.row.images) + question_html(state.view.item.row)


def right_html(state: PageState) -> str:
    """The response, or beside an open editor what it will be, and what the panel said; without a row, what then."""
    if state.view is None:
        return done_html(state)
    edited = f"{_title('As it will be')}{sections_html(state.view.text)}"
    return (edited if state.editing else response_html(state.view)) + verdicts_html(state.view)


def _title(text: str, pills: str = "", more: str = "") -> str:
    return f'<h4 class="la-title">{text}{pills}</h4>{more}'


def _pill(text: str, kind: str) -> str:
    return f' <span class="la-pill la-{kind}">{text}</span>'


def check_html(state: PageState) -> str:
    """The line under the editor."""
    if state.view is None or state.refused:
        return _message_html(state)
    return grammar_html(state.view.text, state.view.draft is not None)


def done_html(state: PageState) -> str:
    """The page when no row is left."""
    if state.progress.share == 0:
        return '<div class="la-done"><h3>Nothing to review</h3><p>No row waits for you. Reload to look again.</p></div>'
    return (
        f'<div class="la-done"><h3>Your share is done</h3><p>{state.progress.decided} of {state.progress.share} rows '
        "are decided. <kbd>u</kbd> takes back the last decision, <kbd>←</kbd> looks back. Reload to look for new rows."
        "</p></div>"
    )


def images_html(images: Sequence[ImageSource]) -> str:
    """A row's images inside the page; one that cannot be read says so."""
    if not images:
        return '<p class="la-none">no picture</p>'
    shown = [_image_html(image, number, len(images)) for number, image in enumerate(images, start=1)]
    return f'<div class="la-pictures">{"".join(shown)}</div>'


def _image_html(image: ImageSource, number: int, count: int) -> str:
    try:
        kind, data = sendable(image, MAX_PIXELS)
    except ImageError as error:
        return f'<p class="la-refused">picture {number} cannot be shown: {escape(error)}</p>'
    alt = "picture" if count == 1 else f"picture {number} of {count}"
    return f'<img alt="{alt}" src="data:{kind};base64,{base64.b64encode(data).decode()}">'


def question_html(sample: Sample) -> str:
    """The question, its options and the reference."""
    options = "".join(f"<li>{escape(text)}</li>" for text in sample.options)
    listed = f'<ol class="la-options" type="A">{options}</ol>' if options else ""
    reference = (
        f"<b>{escape(sample.reference)}</b>{_option(sample)}"
        if sample.reference
        else '<i class="la-none">none known</i>'
    )
    return (
        f'<div class="la-question"><h4>Question</h4><div class="la-text">{escape(sample.question)}</div>{listed}'
        f'<h4>Reference</h4><div class="la-text la-reference">{reference}</div></div>'
    )


def _option(sample: Sample) -> str:
    """The text of the option that the reference names by its letter."""
    at = ascii_uppercase.find(sample.reference or "-")
    return (
        f" ({escape(sample.options[at])})" if len(sample.reference or "") == 1 and 0 <= at < len(sample.options) else ""
    )


def response_html(view: ItemView) -> str:
    """The response, after an edit the edited one; with what stood there before, and what is wrong with it."""
    wrong = problems_html(view.response)
    problems = f'<div class="la-check la-refused"><b>✗ This breaks the grammar.</b>{wrong}</div>' if wrong else ""
    earlier = [
        (name, text)
        for name, text in (("before the edit", view.edited_from), ("before it was rewritten", view.before))
        if text is not None
    ]
    folded = "".join(
        f'<details class="la-before"><summary>The response {name}</summary>{sections_html(text)}</details>'
        for name, text in earlier
    )
    pills = (_pill("rewritten", "note") if view.before is not None else "") + (
        _pill("edited", "note") if view.edited_from is not None else ""
    )
    return f"{_title('Response', pills)}{problems}{sections_html(view.response)}{folded}"


def verdicts_html(view: ItemView) -> str:
    """What the panel said, a card per judge."""
    if view.panel is None:
        return ""
    about = '<p class="la-quiet la-about">about the response before it was rewritten</p>' if view.before else ""
    cards = "".join(_verdict_html(verdict) for verdict in view.panel.get("verdicts", ()))
    broken = view.panel.get("format")
    format_card = f'<p class="la-refused">It broke the grammar: {escape(broken)}</p>' if broken else ""
    count = int(view.panel.get("objections", 0))
    pills = _pill("1 objection" if count == 1 else f"{count} objections", "bad" if count else "good")
    pills += _pill("flagged", "bad") if view.panel.get("flagged") else ""
    title = _title("What the judges said", pills, about)
    return f'{title}{format_card}<div class="la-verdicts">{cards}</div>'


def _verdict_html(verdict: Mapping[str, Any]) -> str:
    judge = f"<b>{escape(verdict.get('judge', 'judge'))}</b>"
    if "answer" not in verdict:
        return f'<div class="la-verdict">{judge} abstains<p>{escape(verdict.get("abstains", ""))}</p></div>'
    words = " ".join(
        f'<span class="{"la-good" if verdict[part] == "correct" else "la-bad"}">'
        f"{'✓' if verdict[part] == 'correct' else '✗'} {part} {escape(verdict[part])}</span>"
        for part in ("answer", "reasoning")
    )
    reason = verdict.get("reason")
    return f'<div class="la-verdict">{judge} {words}{f"<p>{escape(reason)}</p>" if reason else ""}</div>'


def chooser_html(reviewers: Sequence[str], progress: Mapping[str, str]) -> str:
    """The choice of a reviewer: a link for each, which can be kept as a bookmark."""
    links = "".join(
        f'<li><a href="?reviewer={quote(name, safe="")}"><b>{escape(name)}</b> '
        f'<span class="la-quiet">{escape(progress.get(name, ""))}</span></a></li>'
        for name in reviewers
    )
    return f'<div class="la-done"><h3>Who is reviewing?</h3><ul class="la-people">{links}</ul></div>'


def keys_html() -> str:
    """The keys that have no button, for the foot of the page."""
    return f'<div class="la-keys">{"".join(f"<span><kbd>{key}</kbd> {word}</span>" for key, word in OTHER_KEYS)}</div>'


def badges_css() -> str:
    """A style sheet that puts its key on every button."""
    return "".join(f'#la-{name}::after {{ content: "{key}" }}\n' for name, key in KEYS_OF_BUTTONS.items())
