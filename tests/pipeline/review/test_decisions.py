"""People's decisions: equal shares, no row to two, nothing overwritten, undo, and edits that keep the grammar."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from look_again.data.sample import Sample
from look_again.pipeline.engine import PipelineStage, open_chat_client, run_stages
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.items import Outcome, StageKey, counts, results
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review import decisions
from look_again.pipeline.review.decisions import ReviewError, broken_links, claim, decide, list_decisions, shares, undo

PEOPLE = ("ann", "bob", "cy", "di")


def prepare(ledger: Ledger, text: str, rows: int = 10, which: str = "all", version: str = "v") -> PipelineStage:
    """A run in which `rows` rows wait for people; the even ones were rewritten."""

    async def said(item, chat):
        return Outcome(output={"response": text, "rewritten": item.n % 2 == 0})

    before = PipelineStage(StageKey("before", version), work=said, later=(decisions.NAME,))
    people = decisions.stage(ledger, "before", which=which)
    add_rows(ledger, [Sample(id=f"r{i}", question="Q?", source="test") for i in range(rows)], "here")

    async def go():
        async with open_chat_client(ledger, [], "test") as client:
            return await run_stages(client, [before, people], workers=2)

    asyncio.run(go())
    return people


def test_shares_are_equal_and_no_row_goes_to_two(ledger, response):
    prepare(ledger, response)
    seen: Counter[str] = Counter()
    while handed := [(p, item) for p in PEOPLE if (item := claim(ledger, p, PEOPLE))]:
        for person, item in handed:
            seen[item.row.id] += 1
            decide(ledger, item, person, "accept")
    assert set(seen.values()) == {1}
    assert len(seen) == 10
    assert sorted(share["claimed"] for share in shares(ledger, PEOPLE).values()) == [2, 2, 3, 3]
    assert all(share["claimed"] == share["decided"] for share in shares(ledger, PEOPLE).values())


def test_one_fast_reviewer_gets_no_more_than_a_share(ledger, response):
    prepare(ledger, response)
    while item := claim(ledger, "ann", PEOPLE):
        decide(ledger, item, "ann", "accept")
    assert shares(ledger, PEOPLE)["ann"] == {"claimed": 3, "decided": 3}


def test_a_claimed_row_is_shown_again_until_it_is_decided(ledger, response):
    """A page that was reloaded must not hand out the next row."""
    prepare(ledger, response)
    first = claim(ledger, "ann", PEOPLE)
    assert claim(ledger, "ann", PEOPLE) == first
    other = claim(ledger, "bob", PEOPLE)
    assert other.n != first.n
    with pytest.raises(ReviewError, match="bob's to decide"):
        decide(ledger, other, "ann", "accept")


def test_decisions_become_results(ledger, response):
    people = prepare(ledger, response, rows=3)
    edited = response.replace(">4<", ">5<")
    for action, options in (("accept", {}), ("reject", {"note": "blurred"}), ("edit", {"response": edited})):
        decide(ledger, claim(ledger, "ann", ["ann"]), "ann", action, **options)
    said = {item.row.id: output["response"] for item, output in results(ledger, people.key)}
    assert said == {"r0": response, "r2": edited}
    assert ledger.read("SELECT reason FROM results WHERE status = 'bad'") == [("rejected by ann: blurred",)]
    assert counts(ledger, people.key) == {"items": 3, "ok": 2, "bad": 1, "waiting": 0, "pending": 0}


def test_an_edit_that_breaks_the_grammar_is_refused(ledger, response):
    prepare(ledger, response, rows=1)
    item = claim(ledger, "ann", ["ann"])
    with pytest.raises(ReviewError, match="unclosed CAPTION"):
        decide(ledger, item, "ann", "edit", response=response.replace("</CAPTION>", ""))
    with pytest.raises(ReviewError, match="comes with the new response"):
        decide(ledger, item, "ann", "edit")
    with pytest.raises(ReviewError, match="no decision"):
        decide(ledger, item, "ann", "shrug")
    with pytest.raises(ReviewError, match="not one of the reviewers"):
        claim(ledger, "eve", ["ann"])
    assert list_decisions(ledger) == []


def test_undo_gives_the_row_back_as_it_was_shown(ledger, response):
    people = prepare(ledger, response, rows=2)
    item = claim(ledger, "ann", ["ann"])
    decide(ledger, item, "ann", "edit", response=response.replace(">4<", ">5<"))
    again = undo(ledger, "ann")
    assert (again.n, again.response) == (item.n, response)
    assert counts(ledger, people.key)["waiting"] == 2
    assert claim(ledger, "ann", ["ann"]).n == item.n
    decide(ledger, again, "ann", "accept")
    assert [d.action for d in list_decisions(ledger)] == ["edit", "undo", "accept"]
    undo(ledger, "ann")
    with pytest.raises(ReviewError, match="no decision to take back"):
        undo(ledger, "ann")
    assert broken_links(ledger) == []


def test_a_row_is_decided_once(ledger, response):
    prepare(ledger, response, rows=1)
    item = claim(ledger, "ann", ["ann"])
    decide(ledger, item, "ann", "accept")
    with pytest.raises(ReviewError, match="decided already"):
        decide(ledger, item, "ann", "reject")


def test_a_changed_answer_is_looked_at_again(ledger, response):
    people = prepare(ledger, response, rows=1)
    old = claim(ledger, "ann", ["ann"])
    decide(ledger, old, "ann", "accept")
    prepare(ledger, response.replace(">4<", ">6<"), rows=1, version="v2")
    assert counts(ledger, people.key)["waiting"] == 1
    with pytest.raises(ReviewError, match="has changed"):
        decide(ledger, old, "ann", "accept")
    decide(ledger, claim(ledger, "ann", ["ann"]), "ann", "accept")
    assert counts(ledger, people.key)["ok"] == 1


def test_decisions_outlive_the_stage_being_run_again(ledger, response):
    people = prepare(ledger, response, rows=2)
    decide(ledger, claim(ledger, "ann", ["ann"]), "ann", "accept")
    ledger.apply([("DELETE FROM results WHERE stage = 'review'", ())])
    prepare(ledger, response, rows=2)
    assert counts(ledger, people.key) == {"items": 2, "ok": 1, "bad": 0, "waiting": 1, "pending": 0}


def test_only_rewritten_rows_are_shown_if_so_configured(ledger, response):
    people = prepare(ledger, response, which="rewritten")
    assert counts(ledger, people.key) == {"items": 10, "ok": 5, "bad": 0, "waiting": 5, "pending": 0}
    with pytest.raises(ValueError, match="which is"):
        decisions.stage(ledger, "before", which="some")


def test_a_changed_decision_shows(ledger, response):
    """The chain of hashes is there for exactly this."""
    prepare(ledger, response, rows=3)
    for _ in range(3):
        decide(ledger, claim(ledger, "ann", ["ann"]), "ann", "accept")
    assert broken_links(ledger) == []
    ledger.apply([("UPDATE decisions SET action = 'reject' WHERE id = 2", ())])
    assert broken_links(ledger) == [2]
    ledger.apply([("DELETE FROM decisions WHERE id = 1", ())])
    assert 2 in broken_links(ledger)
