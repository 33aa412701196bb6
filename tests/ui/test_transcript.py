"""An answer while it comes: its text, its tokens and where it looked, whatever the events."""

from __future__ import annotations

import pytest

from look_again.analysis.token_sections import token_ends
from look_again.core.generate import Reflection
from look_again.serving.backend import Ended, Started
from look_again.ui.transcript import TokenTexts, kept_of, policy_of, runs_of
from tests.ui.ui_answers import ANSWER, GRID, TOKENIZER, events_of, ids_of, transcript_of


@pytest.mark.parametrize("text", [ANSWER, "<SUMMARY> naïve 日本 🙂 <b>&</SUMMARY>", "", "\n\n a"])
def test_tokens_end_where_the_analysis_says(text):
    """A word of the page would show another token's heat if streaming counted characters differently."""
    texts, ids = TokenTexts(TOKENIZER), ids_of(text)
    for token_id in ids:
        texts.add(token_id)
    assert texts.text == text
    assert texts.ends == token_ends(TOKENIZER, ids)


def test_the_states_of_an_answer():
    events = events_of(ANSWER)
    transcript = transcript_of([])
    assert transcript.status == "waiting"
    states = []
    for event in events:
        transcript.take(event)
        states.append(transcript.status)
    assert states[0] == "reading"
    assert set(states[2:-1]) == {"writing"}
    assert states[-1] == "done"
    assert [look.at for look in transcript.looks] == [ids_of(ANSWER).index(ids_of("<REFLECTION>")[0])]


def test_what_came_stays_when_it_is_stopped_or_fails():
    events = events_of(ANSWER)[:6]
    stopped, failed = transcript_of(events), transcript_of(events)
    stopped.stop()
    failed.fail("the server is gone")
    stopped.fail("too late")
    assert (stopped.status, stopped.message) == ("stopped", "")
    assert (failed.status, failed.message) == ("failed", "the server is gone")
    assert failed.texts.ids == ids_of(ANSWER)[:5]
    assert stopped.decoded().ids == tuple(ids_of(ANSWER)[:5])


def test_what_can_be_read_again():
    """A look at the very end has no token after it: the sequence was never fed with it."""
    running = transcript_of(events_of(ANSWER)[:4])
    assert running.decoded() is None
    nothing = transcript_of([Started(20, 6)])
    nothing.stop()
    assert nothing.decoded() is None
    cut = next(i for i, event in enumerate(events_of(ANSWER)) if hasattr(event, "reflection"))
    at_look = transcript_of(events_of(ANSWER)[: cut + 1])
    at_look.stop()
    assert at_look.looks
    assert at_look.decoded().looks == ()


def test_why_nothing_was_put_back():
    at = ids_of(ANSWER).index(ids_of("<REFLECTION>")[0])
    events = events_of(ANSWER, rows=())
    assert "nothing back" in transcript_of(events, "text").why_not(at)
    skipped = (Reflection("copy", skipped="context", at=at),)
    full = transcript_of([*events[:-1], Ended("stop", skipped, 9, 0, 0)], "copy")
    assert full.why_not(at) == "did not look again: the context is full"
    assert full.why_not(at + 1) == ""


def test_policies_are_the_papers_but_for_mode_and_keep():
    assert policy_of("copy", 30).keep == 50
    assert (policy_of("route", 30).keep, policy_of("route", 30, "strip").layout) == (30, "strip")
    with pytest.raises(ValueError, match="unknown mode"):
        policy_of("<script>", 50)


def test_patches_as_runs():
    assert runs_of([0, 1, 2, 3, 5], columns=3) == [(0, 0, 3), (1, 0, 1), (1, 2, 1)]
    assert runs_of([], columns=3) == []
    assert kept_of(Reflection("route", (1, 4)), GRID) == (2, 6)
