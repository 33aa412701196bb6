"""An answer while it comes: its text, its tokens and where it looked, whatever the events."""

from __future__ import annotations

import pytest

from look_again.analysis.token_sections import token_ends
from look_again.core.generate import Reflection
from look_again.serving.backend import Ended, Started
from look_again.ui.transcript import TokenTexts, build_policy, count_kept, find_row_runs
from tests.ui.ui_answers import ANSWER, GRID, TOKENIZER, build_events, build_transcript, encode


@pytest.mark.parametrize("text", [ANSWER, "<SUMMARY> naïve 日本 🙂 <b>&</SUMMARY>", "", "\n\n a"])
def test_tokens_end_where_the_analysis_says(text):
    """A word of the page would show another token's heat if streaming counted characters differently."""
    texts, ids = TokenTexts(TOKENIZER), encode(text)
    for token_id in ids:
        texts.add(token_id)
    assert texts.text == text
    assert texts.ends == token_ends(TOKENIZER, ids)


def test_the_states_of_an_answer():
    events = build_events(ANSWER)
    transcript = build_transcript([])
    assert transcript.status == "waiting"
    states = []
    for event in events:
        transcript.take(event)
        states.append(transcript.status)
    assert states[0] == "reading"
    assert set(states[2:-1]) == {"writing"}
    assert states[-1] == "done"
    assert [reflection.at for reflection in transcript.reinsertions] == [
        encode(ANSWER).index(encode("<REFLECTION>")[0])
    ]


def test_what_came_stays_when_it_is_stopped_or_fails():
    events = build_events(ANSWER)[:6]
    stopped, failed = build_transcript(events), build_transcript(events)
    stopped.stop()
    failed.fail("the server is gone")
    stopped.fail("too late")
    assert (stopped.status, stopped.message) == ("stopped", "")
    assert (failed.status, failed.message) == ("failed", "the server is gone")
    assert failed.texts.ids == encode(ANSWER)[:5]
    assert stopped.decoded().ids == tuple(encode(ANSWER)[:5])


def test_what_can_be_read_again():
    """A look at the very end has no token after it: the sequence was never fed with it."""
    running = build_transcript(build_events(ANSWER)[:4])
    assert running.decoded() is None
    nothing = build_transcript([Started(20, 6)])
    nothing.stop()
    assert nothing.decoded() is None
    cut = next(i for i, event in enumerate(build_events(ANSWER)) if hasattr(event, "reflection"))
    at_look = build_transcript(build_events(ANSWER)[: cut + 1])
    at_look.stop()
    assert at_look.reinsertions
    assert at_look.decoded().reinsertions == ()


def test_why_nothing_was_put_back():
    at = encode(ANSWER).index(encode("<REFLECTION>")[0])
    events = build_events(ANSWER, rows=())
    assert "nothing back" in build_transcript(events, "text").why_not(at)
    skipped = (Reflection("copy", skipped="context", at=at),)
    full = build_transcript([*events[:-1], Ended("stop", skipped, 9, 0, 0)], "copy")
    assert full.why_not(at) == "did not look again: the context is full"
    assert full.why_not(at + 1) == ""


def test_policies_are_the_papers_but_for_mode_and_keep():
    assert build_policy("copy", 30).keep == 50
    assert (build_policy("route", 30).keep, build_policy("route", 30, "strip").layout) == (30, "strip")
    with pytest.raises(ValueError, match="unknown mode"):
        build_policy("<script>", 50)


def test_patches_as_runs():
    assert find_row_runs([0, 1, 2, 3, 5], columns=3) == [(0, 0, 3), (1, 0, 1), (1, 2, 1)]
    assert find_row_runs([], columns=3) == []
    assert count_kept(Reflection("route", (1, 4)), GRID) == (2, 6)
