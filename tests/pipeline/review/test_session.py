"""Turns of the review page, without the page: each names the row that was seen, and nothing that was typed is lost."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter

import pytest

from look_again.pipeline.ledger.items import counts
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review import decisions
from look_again.pipeline.review import session as turns
from look_again.pipeline.review.decisions import ReviewError, broken_links, list_decisions, shown_item
from look_again.pipeline.review.session import MAX_CHARACTERS, Progress, ReviewSession, name_seen, take_over
from tests.pipeline.review.review_runs import PEOPLE, prepare, rows_of


@pytest.fixture
def session(ledger, response):
    prepare(ledger, response)
    return ReviewSession(ledger, PEOPLE)


def row(state) -> str:
    return state.view.item.row.id


def test_accept_goes_on_to_the_next_row_and_says_what_was_done(session, ledger):
    first = session.next("ann")
    assert (row(first), first.progress, first.view.decision) == ("r0", Progress(0, 3), None)
    then = session.act("ann", first.seen, "accept")
    assert (row(then), then.progress, then.message) == ("r1", Progress(1, 3), "r0: accepted")
    then = session.act("ann", then.seen, "reject", note=" blurred ")
    assert (row(then), then.message) == ("r2", "r1: rejected")
    assert [(d.action, d.note, d.reviewer) for d in list_decisions(ledger)] == [
        ("accept", "", "ann"),
        ("reject", "blurred", "ann"),
    ]


def test_a_key_pressed_twice_does_not_decide_the_next_row(session, ledger):
    first = session.next("ann")
    session.act("ann", first.seen, "accept")
    again = session.act("ann", first.seen, "accept")
    assert again.refused
    assert "decided already" in again.message
    assert (row(again), again.view.decision.action) == ("r0", "accept")
    assert len(list_decisions(ledger)) == 1


def test_a_reload_shows_the_row_that_was_left(session, ledger):
    """Another process, too: nothing but the ledger knows where somebody was."""
    left = session.act("ann", session.next("ann").seen, "accept")
    assert session.next("ann").seen == left.seen
    assert ReviewSession(ledger, PEOPLE).next("ann").seen == left.seen


def test_two_reviewers_never_see_the_same_row(session):
    ann, bob = session.next("ann"), session.next("bob")
    assert row(ann) != row(bob)
    taken = session.act("bob", ann.seen, "accept")
    assert taken.refused
    assert "ann's to decide" in taken.message
    with pytest.raises(ReviewError, match="not one of the reviewers"):
        session.next("eve")


def test_a_share_ends(session):
    state = session.next("ann")
    while state.view is not None:
        state = session.act("ann", state.seen, "accept")
    assert (state.progress, state.seen) == (Progress(3, 3), "")
    assert session.progress("bob") == Progress(0, 2)
    assert session.browse("ann", state.seen, -1).view.item.row.id == "r2"
    assert session.undo("ann", state.seen).view.item.row.id == "r2"


def test_an_edit_that_breaks_the_grammar_stays_in_the_editor(session, ledger, response):
    """Refused with the reason, the text kept: also over a reload."""
    first = session.next("ann")
    assert session.edit("ann", first.seen).view.text == response
    broken = response.replace("</CAPTION>", "")
    state = session.act("ann", first.seen, "edit", response=broken)
    assert (state.refused, state.editing, state.seen) == (True, True, first.seen)
    assert "unclosed CAPTION" in state.message
    assert list_decisions(ledger) == []
    again = session.next("ann")
    assert (again.editing, again.view.text) == (True, broken)
    fixed = response.replace(">4<", ">5<")
    done = session.act("ann", first.seen, "edit", response=fixed.replace("<CONCLUSION>", "\r\n<CONCLUSION>"))
    assert done.message == "r0: edited"
    assert list_decisions(ledger)[0].response == fixed.replace("<CONCLUSION>", "\n<CONCLUSION>")
    shown = session.browse("ann", done.seen, -1).view
    assert (shown.response, shown.edited_from) == (list_decisions(ledger)[0].response, response)


def test_an_edit_that_changes_nothing_is_refused(session, ledger, response):
    state = session.act("ann", session.next("ann").seen, "edit", response=response)
    assert state.refused
    assert "nothing is changed" in state.message
    assert list_decisions(ledger) == []


def test_what_was_begun_is_kept_when_the_editor_is_left(session, response):
    first = session.next("ann")
    typed = session.keep("ann", first.seen, response + " and")
    assert (typed.editing, typed.view.draft) == (True, response + " and")
    left = session.leave("ann", first.seen)
    assert (left.editing, left.message) == (False, "your edit is not saved, but kept: e goes on with it")
    assert session.edit("ann", first.seen).view.text == response + " and"
    assert session.next("bob").view.draft is None
    assert session.reset("ann", first.seen).view.draft is None
    session.keep("ann", first.seen, response + " and")
    assert session.keep("ann", first.seen, response).view.draft is None
    assert session.leave("ann", first.seen).message == ""


def test_undo_brings_the_row_back_to_be_decided_again(session, ledger):
    first = session.next("ann")
    second = session.act("ann", first.seen, "reject")
    back = session.undo("ann", second.seen)
    assert (back.seen, back.view.decision) == (first.seen, None)
    assert session.act("ann", first.seen, "accept").seen == second.seen
    session.undo("ann", second.seen)
    nothing = session.undo("ann", first.seen)
    assert (nothing.refused, nothing.message) == (True, "ann has no decision to take back")
    assert broken_links(ledger) == []


def test_arrows_walk_over_own_rows_only(session):
    session.act("ann", session.next("ann").seen, "accept")  # r0
    session.act("bob", session.next("bob").seen, "accept")  # r1 or r2
    at = session.next("ann")
    earlier = session.browse("ann", at.seen, -1)
    assert (row(earlier), earlier.view.decision.action) == ("r0", "accept")
    first = session.browse("ann", earlier.seen, -1)
    assert (first.seen, first.message) == (earlier.seen, "this is your first row")
    assert session.browse("ann", earlier.seen, 1).seen == at.seen
    assert session.browse("ann", at.seen, 1).seen == at.seen
    assert "decided already" in session.edit("ann", earlier.seen).message


def test_a_row_that_changed_is_not_decided_by_what_was_seen_before(session, ledger, response):
    first = session.next("ann")
    prepare(ledger, response.replace(">4<", ">6<"), version="v2")
    state = session.act("ann", first.seen, "accept")
    assert "has changed since it was shown" in state.message
    assert (state.refused, state.view.response) == (True, response.replace(">4<", ">6<"))
    assert state.seen != first.seen
    assert list_decisions(ledger) == []


def test_an_edit_of_a_row_that_changed_meanwhile_is_not_lost(session, ledger, response):
    """It stays in the editor, and can be saved once it has been looked at again."""
    first = session.next("ann")
    prepare(ledger, response.replace(">4<", ">6<"), version="v2")
    assert "has changed since it was shown" in session.edit("ann", first.seen).message
    mine = response.replace(">4<", ">5<")
    state = session.act("ann", first.seen, "edit", response=mine)
    assert (state.refused, state.editing, state.view.text) == (True, True, mine)
    assert session.act("ann", state.seen, "edit", response=mine).message == "r0: edited"


def test_an_edit_of_a_row_decided_in_another_window_is_not_lost(session, response):
    first, mine = session.next("ann"), response.replace(">4<", ">5<")
    session.act("ann", first.seen, "accept")
    state = session.act("ann", first.seen, "edit", response=mine)
    assert (state.refused, state.editing, state.view.decision.action) == (True, False, "accept")
    assert session.undo("ann", state.seen).view.draft == mine


@pytest.mark.parametrize("seen", ["nonsense", "1/x/abc", "999/0/abc"])
def test_a_made_up_row_is_refused(session, ledger, seen):
    steps = [session.act("ann", seen, "accept"), session.edit("ann", seen), session.keep("ann", seen, "x")]
    for state in (*steps, session.leave("ann", seen)):
        assert state.refused
    assert session._drafts == {}, "a text is kept for every row that is made up"
    assert list_decisions(ledger) == []


def test_verdicts_and_what_was_rewritten_are_shown(ledger, response):
    old = response.replace(">4<", ">3<")
    prepare(ledger, response, before=old)
    view = ReviewSession(ledger, PEOPLE).next("ann").view
    assert (view.response, view.before, view.panel["objections"]) == (response, old, 1)


def test_a_decision_holds_when_a_stage_puts_the_row_back(session, ledger):
    """A stage that read the row before the decision and wrote after it would have the page hand it out for ever."""
    first = session.next("ann")
    waiting = ledger.read("SELECT * FROM results WHERE stage = 'review' AND n = 1")[0]
    session.act("ann", first.seen, "accept")
    ledger.apply([("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", waiting)])
    assert row(session.next("ann")) == "r1"
    assert ledger.read("SELECT status FROM results WHERE stage = 'review' AND n = 1") == [("ok",)]


def test_processes_that_decide_at_once_lose_nothing(tmp_path, response):
    """Both take the next number of a decision; the one that comes second has to try again."""
    with Ledger(tmp_path) as ledger:
        people = prepare(ledger, response, rows_of(24))
        failures: list[object] = []

        def work(name: str) -> None:
            with Ledger(tmp_path) as own:
                session = ReviewSession(own, PEOPLE)
                state = session.next(name)
                while state.view is not None:
                    state = session.act(name, state.seen, "accept")
                    failures.extend([state.message] if state.refused else [])

        threads = [threading.Thread(target=work, args=[name]) for name in PEOPLE]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert failures == []
        assert Counter(d.reviewer for d in list_decisions(ledger)) == {"ann": 12, "bob": 12}
        assert len({(d.n, d.sample) for d in list_decisions(ledger)}) == 24
        assert broken_links(ledger) == []
        assert counts(ledger, people.key)["ok"] == 24


def test_a_disk_that_is_full_refuses_and_keeps_the_edit(session, ledger, monkeypatch, response):
    first = session.next("ann")
    room = ledger.apply

    def full(ops):
        error = sqlite3.OperationalError("database or disk is full")
        raise turns.LedgerError(str(error))

    monkeypatch.setattr(ledger, "apply", full)
    state = session.act("ann", first.seen, "edit", response=response.replace(">4<", ">5<"))
    assert (state.refused, state.editing, state.message) == (True, True, "database or disk is full")
    assert state.view.text == response.replace(">4<", ">5<")
    monkeypatch.setattr(ledger, "apply", room)
    assert not session.act("ann", first.seen, "edit", response=state.view.text).refused


def test_rows_and_decisions_are_taken_over_without_an_endpoint(ledger, response):
    people = prepare(ledger, response, rows_of(3))
    session = ReviewSession(ledger, PEOPLE)
    session.act("ann", session.next("ann").seen, "accept")
    ledger.apply([("DELETE FROM results WHERE stage = ?", (decisions.NAME,))])
    report = take_over(ledger, people)
    assert (report.items, report.ok, report.waiting) == (3, 1, 2)


@pytest.mark.parametrize("broken", ["x\ud800y", "\udfff", "x" * (MAX_CHARACTERS + 1)])
def test_a_text_that_cannot_be_kept_leaves_nothing(session, ledger, response, broken):
    """A draft with half a surrogate pair broke every later look at its row."""
    first = session.next("ann")
    steps = [
        session.keep("ann", first.seen, broken),
        session.act("ann", first.seen, "edit", response=broken),
        session.act("ann", first.seen, "accept", note=broken),
    ]
    assert all(state.refused for state in steps)
    assert session.edit("ann", first.seen).view.text == response
    assert list_decisions(ledger) == []


def test_rows_that_were_not_handed_out_are_neither_shown_nor_decided(session, ledger):
    """A reviewer could take all rows, and with them the others' share, by their numbers."""
    own = session.next("ann")
    others = [shown_item(ledger, n, 0) for n in range(1, 5) if n != own.view.item.n]
    for item in others:
        for seen in (name_seen(item), f"{item.n}/{item.sample}/guessed"):
            steps = [
                session.act("ann", seen, "accept"),
                session.edit("ann", seen),
                session.keep("ann", seen, "x"),
                session.leave("ann", seen),
            ]
            assert all(state.refused and state.seen == own.seen for state in steps)
    assert list_decisions(ledger) == []
    assert session._drafts == {}


@pytest.mark.parametrize("seen", ["9" * 5000 + "/0/x", "9" * 30 + "/0/x", "0/" + "9" * 30 + "/x", "9" * 18 + "/0/x"])
def test_numbers_of_no_row_are_refused(session, seen):
    """Python reads no number of 5,000 digits, and the database none of 30."""
    for state in (session.act("ann", seen, "accept"), session.browse("ann", seen, 1), session.edit("ann", seen)):
        assert state.view is None or state.seen != seen
