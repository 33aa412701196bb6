"""Turns of the review page, without the page: each names the row that was seen, and nothing that was typed is lost."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter

import pytest

from look_again.pipeline.ledger.items import counts
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review import review
from look_again.pipeline.review import session as turns
from look_again.pipeline.review.review import ReviewError, broken_links, decisions
from look_again.pipeline.review.session import Progress, Sitting, take_over
from tests.pipeline.review.review_runs import PEOPLE, prepare, rows_of


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as opened:
        yield opened


@pytest.fixture
def sitting(ledger, response):
    prepare(ledger, response)
    return Sitting(ledger, PEOPLE)


def row(turn) -> str:
    return turn.view.item.row.id


def test_accept_goes_on_to_the_next_row_and_says_what_was_done(sitting, ledger):
    first = sitting.next("ann")
    assert (row(first), first.progress, first.view.decision) == ("r0", Progress(0, 3), None)
    then = sitting.act("ann", first.seen, "accept")
    assert (row(then), then.progress, then.said) == ("r1", Progress(1, 3), "r0: accepted")
    then = sitting.act("ann", then.seen, "reject", note=" blurred ")
    assert (row(then), then.said) == ("r2", "r1: rejected")
    assert [(d.action, d.note, d.reviewer) for d in decisions(ledger)] == [
        ("accept", "", "ann"),
        ("reject", "blurred", "ann"),
    ]


def test_a_key_pressed_twice_does_not_decide_the_next_row(sitting, ledger):
    first = sitting.next("ann")
    sitting.act("ann", first.seen, "accept")
    again = sitting.act("ann", first.seen, "accept")
    assert again.refused
    assert "decided already" in again.said
    assert (row(again), again.view.decision.action) == ("r0", "accept")
    assert len(decisions(ledger)) == 1


def test_a_reload_shows_the_row_that_was_left(sitting, ledger):
    """Another process, too: nothing but the ledger knows where somebody was."""
    left = sitting.act("ann", sitting.next("ann").seen, "accept")
    assert sitting.next("ann").seen == left.seen
    assert Sitting(ledger, PEOPLE).next("ann").seen == left.seen


def test_two_reviewers_never_see_the_same_row(sitting):
    ann, bob = sitting.next("ann"), sitting.next("bob")
    assert row(ann) != row(bob)
    taken = sitting.act("bob", ann.seen, "accept")
    assert taken.refused
    assert "ann's to decide" in taken.said
    with pytest.raises(ReviewError, match="not one of the reviewers"):
        sitting.next("eve")


def test_a_share_ends(sitting):
    turn = sitting.next("ann")
    while turn.view is not None:
        turn = sitting.act("ann", turn.seen, "accept")
    assert (turn.progress, turn.seen) == (Progress(3, 3), "")
    assert sitting.progress("bob") == Progress(0, 2)
    assert sitting.browse("ann", turn.seen, -1).view.item.row.id == "r2"
    assert sitting.undo("ann", turn.seen).view.item.row.id == "r2"


def test_an_edit_that_breaks_the_grammar_stays_in_the_editor(sitting, ledger, response):
    """Refused with the reason, the text kept: also over a reload."""
    first = sitting.next("ann")
    assert sitting.edit("ann", first.seen).view.text == response
    broken = response.replace("</CAPTION>", "")
    turn = sitting.act("ann", first.seen, "edit", response=broken)
    assert (turn.refused, turn.editing, turn.seen) == (True, True, first.seen)
    assert "unclosed CAPTION" in turn.said
    assert decisions(ledger) == []
    again = sitting.next("ann")
    assert (again.editing, again.view.text) == (True, broken)
    fixed = response.replace(">4<", ">5<")
    done = sitting.act("ann", first.seen, "edit", response=fixed.replace("<CONCLUSION>", "\r\n<CONCLUSION>"))
    assert done.said == "r0: edited"
    assert decisions(ledger)[0].response == fixed.replace("<CONCLUSION>", "\n<CONCLUSION>")
    shown = sitting.browse("ann", done.seen, -1).view
    assert (shown.response, shown.edited_from) == (decisions(ledger)[0].response, response)


def test_an_edit_that_changes_nothing_is_refused(sitting, ledger, response):
    turn = sitting.act("ann", sitting.next("ann").seen, "edit", response=response)
    assert turn.refused
    assert "nothing is changed" in turn.said
    assert decisions(ledger) == []


def test_what_was_begun_is_kept_when_the_editor_is_left(sitting, response):
    first = sitting.next("ann")
    typed = sitting.keep("ann", first.seen, response + " and")
    assert (typed.editing, typed.view.draft) == (True, response + " and")
    left = sitting.leave("ann", first.seen)
    assert (left.editing, left.said) == (False, "your edit is not saved, but kept: e goes on with it")
    assert sitting.edit("ann", first.seen).view.text == response + " and"
    assert sitting.next("bob").view.draft is None
    assert sitting.reset("ann", first.seen).view.draft is None
    sitting.keep("ann", first.seen, response + " and")
    assert sitting.keep("ann", first.seen, response).view.draft is None
    assert sitting.leave("ann", first.seen).said == ""


def test_undo_brings_the_row_back_to_be_decided_again(sitting, ledger):
    first = sitting.next("ann")
    second = sitting.act("ann", first.seen, "reject")
    back = sitting.undo("ann", second.seen)
    assert (back.seen, back.view.decision) == (first.seen, None)
    assert sitting.act("ann", first.seen, "accept").seen == second.seen
    sitting.undo("ann", second.seen)
    nothing = sitting.undo("ann", first.seen)
    assert (nothing.refused, nothing.said) == (True, "ann has no decision to take back")
    assert broken_links(ledger) == []


def test_arrows_walk_over_own_rows_only(sitting):
    sitting.act("ann", sitting.next("ann").seen, "accept")  # r0
    sitting.act("bob", sitting.next("bob").seen, "accept")  # r1 or r2
    at = sitting.next("ann")
    earlier = sitting.browse("ann", at.seen, -1)
    assert (row(earlier), earlier.view.decision.action) == ("r0", "accept")
    first = sitting.browse("ann", earlier.seen, -1)
    assert (first.seen, first.said) == (earlier.seen, "this is your first row")
    assert sitting.browse("ann", earlier.seen, 1).seen == at.seen
    assert sitting.browse("ann", at.seen, 1).seen == at.seen
    assert "decided already" in sitting.edit("ann", earlier.seen).said


def test_a_row_that_changed_is_not_decided_by_what_was_seen_before(sitting, ledger, response):
    first = sitting.next("ann")
    prepare(ledger, response.replace(">4<", ">6<"), version="v2")
    turn = sitting.act("ann", first.seen, "accept")
    assert "has changed since it was shown" in turn.said
    assert (turn.refused, turn.view.response) == (True, response.replace(">4<", ">6<"))
    assert turn.seen != first.seen
    assert decisions(ledger) == []


def test_an_edit_of_a_row_that_changed_meanwhile_is_not_lost(sitting, ledger, response):
    """It stays in the editor, and can be saved once it has been looked at again."""
    first = sitting.next("ann")
    prepare(ledger, response.replace(">4<", ">6<"), version="v2")
    assert "has changed since it was shown" in sitting.edit("ann", first.seen).said
    mine = response.replace(">4<", ">5<")
    turn = sitting.act("ann", first.seen, "edit", response=mine)
    assert (turn.refused, turn.editing, turn.view.text) == (True, True, mine)
    assert sitting.act("ann", turn.seen, "edit", response=mine).said == "r0: edited"


def test_an_edit_of_a_row_decided_in_another_window_is_not_lost(sitting, response):
    first, mine = sitting.next("ann"), response.replace(">4<", ">5<")
    sitting.act("ann", first.seen, "accept")
    turn = sitting.act("ann", first.seen, "edit", response=mine)
    assert (turn.refused, turn.editing, turn.view.decision.action) == (True, False, "accept")
    assert sitting.undo("ann", turn.seen).view.draft == mine


@pytest.mark.parametrize("seen", ["nonsense", "1/x/abc", "999/0/abc"])
def test_a_made_up_row_is_refused(sitting, ledger, seen):
    steps = [sitting.act("ann", seen, "accept"), sitting.edit("ann", seen), sitting.keep("ann", seen, "x")]
    for turn in (*steps, sitting.leave("ann", seen)):
        assert turn.refused
    assert decisions(ledger) == []


def test_verdicts_and_what_was_rewritten_are_shown(ledger, response):
    old = response.replace(">4<", ">3<")
    prepare(ledger, response, before=old)
    view = Sitting(ledger, PEOPLE).next("ann").view
    assert (view.response, view.before, view.panel["objections"]) == (response, old, 1)


def test_a_decision_holds_when_a_stage_puts_the_row_back(sitting, ledger):
    """A stage that read the row before the decision and wrote after it would have the page hand it out for ever."""
    first = sitting.next("ann")
    waiting = ledger.read("SELECT * FROM results WHERE stage = 'review' AND n = 1")[0]
    sitting.act("ann", first.seen, "accept")
    ledger.apply([("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", waiting)])
    assert row(sitting.next("ann")) == "r1"
    assert ledger.read("SELECT status FROM results WHERE stage = 'review' AND n = 1") == [("ok",)]


def test_processes_that_decide_at_once_lose_nothing(tmp_path, response):
    """Both take the next number of a decision; the one that comes second has to try again."""
    with Ledger(tmp_path) as ledger:
        people = prepare(ledger, response, rows_of(24))
        failures: list[object] = []

        def work(name: str) -> None:
            with Ledger(tmp_path) as own:
                sitting = Sitting(own, PEOPLE)
                turn = sitting.next(name)
                while turn.view is not None:
                    turn = sitting.act(name, turn.seen, "accept")
                    failures.extend([turn.said] if turn.refused else [])

        threads = [threading.Thread(target=work, args=[name]) for name in PEOPLE]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert failures == []
        assert Counter(d.reviewer for d in decisions(ledger)) == {"ann": 12, "bob": 12}
        assert len({(d.n, d.sample) for d in decisions(ledger)}) == 24
        assert broken_links(ledger) == []
        assert counts(ledger, people.place)["ok"] == 24


def test_a_disk_that_is_full_refuses_and_keeps_the_edit(sitting, ledger, monkeypatch, response):
    first = sitting.next("ann")
    room = ledger.apply

    def full(ops):
        error = sqlite3.OperationalError("database or disk is full")
        raise turns.LedgerError(str(error))

    monkeypatch.setattr(ledger, "apply", full)
    turn = sitting.act("ann", first.seen, "edit", response=response.replace(">4<", ">5<"))
    assert (turn.refused, turn.editing, turn.said) == (True, True, "database or disk is full")
    assert turn.view.text == response.replace(">4<", ">5<")
    monkeypatch.setattr(ledger, "apply", room)
    assert not sitting.act("ann", first.seen, "edit", response=turn.view.text).refused


def test_rows_and_decisions_are_taken_over_without_an_endpoint(ledger, response):
    people = prepare(ledger, response, rows_of(3))
    sitting = Sitting(ledger, PEOPLE)
    sitting.act("ann", sitting.next("ann").seen, "accept")
    ledger.apply([("DELETE FROM results WHERE stage = ?", (review.NAME,))])
    report = take_over(ledger, people)
    assert (report.items, report.ok, report.waiting) == (3, 1, 2)
