"""The ledger keeps what was committed, counts what was under way, and refuses what would mix it up."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import replace

import pytest
from PIL import Image

from look_again.data.encoded_images import image_bytes
from look_again.data.sample import BadSample, Sample
from look_again.data.source import Source
from look_again.pipeline.contents import restore_sample, store_sample
from look_again.pipeline.intake import add_rows, add_source
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem, counts, pending, result_ops, results
from look_again.pipeline.ledger.ledger import Ledger, LedgerError, LedgerFullError
from look_again.tabletop.loader import tabletop_samples

FIRST = StageKey("distil", "v1")
SECOND = StageKey("verify", "v1", "distil")


def text_rows(n: int) -> list[Sample]:
    return [Sample(id=f"r{i}", question=f"What is {i}?", reference=str(i), source="test") for i in range(n)]


def put(ledger: Ledger, key: StageKey, item: WorkItem, outcome: Outcome, later: tuple[str, ...] = ()) -> None:
    ledger.apply(result_ops(key, item, outcome, later))


def test_rows_come_in_once_however_often_they_are_read(ledger):
    first = add_rows(ledger, text_rows(3), "here")
    second = add_rows(ledger, text_rows(4), "here")
    assert (first.new, second.new, second.known) == (3, 1, 3)
    assert [item.row.id for item in pending(ledger, FIRST)] == ["r0", "r1", "r2", "r3"]


def test_refused_rows_stay_with_their_reason(ledger, tmp_path):
    """A lost row would make the counts of a build a mystery."""
    good, *_ = text_rows(1)
    gone = replace(good, id="gone", images=(tmp_path / "gone.png",))
    rows = [good, good, gone, replace(good, id="mute", question=" "), BadSample("line 7", "not JSON")]
    intake = add_rows(ledger, rows, "here")
    assert (intake.new, intake.refused) == (5, 4)
    reasons = dict(ledger.read("SELECT id || position, reason FROM rows WHERE verdict = 'refused'"))
    assert "occurs twice" in reasons["r01"]
    assert "no such file" in reasons["gone2"]
    assert reasons["mute3"] == "the question is empty"
    assert reasons["line 74"] == "not JSON"
    assert counts(ledger, FIRST)["items"] == 1


def test_half_a_surrogate_pair_in_a_row_is_no_end(ledger):
    """One odd character among 40,000 rows must not keep the others out."""
    assert (
        add_rows(ledger, [Sample(id="\ud83d", question="What \ud83d?", source="test"), *text_rows(1)], "here").new == 2
    )
    assert [item.row.question for item in pending(ledger, FIRST)] == ["What ??", "What is 0?"]


def test_a_source_that_changed_under_a_run_is_refused(ledger):
    """Finished work would otherwise be handed to other rows."""
    add_rows(ledger, text_rows(2), "here")
    with pytest.raises(LedgerError, match="'r1' of here is not what it was"):
        add_rows(ledger, [text_rows(1)[0], replace(text_rows(2)[1], question="Else?")], "here")


def test_a_file_with_broken_lines_is_read_once(ledger, write_lines, tmp_path):
    record = {"id": "a", "question": "Q?"}
    source = Source(loader="jsonl", path=str(write_lines(tmp_path / "in" / "rows.jsonl", record, "{", record)))
    assert add_source(ledger, source).refused == 2
    write_lines(tmp_path / "in" / "rows.jsonl", {"id": "other", "question": "Q?"})
    assert add_source(ledger, source).known == 3
    with pytest.raises(LedgerError, match="'other'"):
        add_source(ledger, source, again=True)


def test_pictures_of_every_kind_come_back(ledger, encoded, tmp_path):
    """A row that streams from the ledger shows the pictures that it came in with."""
    (tmp_path / "a.jpg").write_bytes(encoded(30, 20, "JPEG"))
    (made,) = tabletop_samples("train", 3, [5])
    images = (tmp_path / "a.jpg", encoded(), Image.new("RGB", (9, 9), "red"), *made.images)
    row = replace(made, images=images)
    back = restore_sample(json.loads(json.dumps(store_sample(row, ledger.folder))), ledger.folder)
    assert [image_bytes(image) for image in back.images] == [image_bytes(image) for image in images]
    assert replace(back, images=images) == row


def test_a_stage_sees_what_the_stage_before_let_through(ledger):
    add_rows(ledger, text_rows(3), "here")
    first, second, _ = pending(ledger, FIRST)
    put(ledger, FIRST, first, Outcome(output={"response": "yes"}))
    put(ledger, FIRST, second, Outcome.bad("empty"))
    assert [(item.n, item.response) for item in pending(ledger, SECOND)] == [(first.n, "yes")]
    assert counts(ledger, FIRST) == {"items": 3, "ok": 1, "bad": 1, "waiting": 0, "pending": 1}
    assert counts(ledger, SECOND) == {"items": 1, "ok": 0, "bad": 0, "waiting": 0, "pending": 1}


def test_samples_are_items_of_their_own(ledger):
    add_rows(ledger, text_rows(2), "here")
    key = replace(FIRST, samples=3)
    items = list(pending(ledger, key, page=2))
    assert [(item.row.id, item.sample) for item in items] == [(r, k) for r in ("r0", "r1") for k in range(3)]


def test_another_version_is_made_again_and_only_it(ledger):
    """Changing the verification's prompt must not distil again."""
    add_rows(ledger, text_rows(1), "here")
    (item,) = pending(ledger, FIRST)
    put(ledger, FIRST, item, Outcome(output={"response": "yes"}))
    (item,) = pending(ledger, SECOND)
    put(ledger, SECOND, item, Outcome())
    assert not list(pending(ledger, SECOND))
    assert list(pending(ledger, replace(SECOND, version="v2"))) != []
    assert not list(pending(ledger, FIRST))
    assert not list(results(ledger, replace(SECOND, version="v2")))


def test_another_answer_of_the_stage_before_is_looked_at_again(ledger):
    add_rows(ledger, text_rows(1), "here")
    (item,) = pending(ledger, FIRST)
    put(ledger, FIRST, item, Outcome(output={"response": "yes"}))
    put(ledger, SECOND, next(pending(ledger, SECOND)), Outcome())
    put(ledger, FIRST, item, Outcome(output={"response": "yes"}))
    assert not list(pending(ledger, SECOND))
    put(ledger, FIRST, item, Outcome(output={"response": "no"}))
    assert [again.response for again in pending(ledger, SECOND)] == ["no"]


def test_what_ends_early_leaves_nothing_further_on(ledger):
    add_rows(ledger, text_rows(1), "here")
    (item,) = pending(ledger, FIRST)
    put(ledger, FIRST, item, Outcome())
    put(ledger, SECOND, next(pending(ledger, SECOND)), Outcome())
    put(ledger, FIRST, item, Outcome.bad("refused"), later=("verify",))
    assert ledger.read("SELECT stage FROM results") == [("distil",)]


def test_requests_under_way_at_a_kill_are_counted(tmp_path):
    ledger = Ledger(tmp_path)
    session = ledger.begin("first")
    for key in ("a", "b"):
        ledger.apply([("INSERT INTO attempts (key, session, sent_at) VALUES (?, ?, 0)", (key, session))])
    ledger.close()  # no end: as a kill leaves it
    with Ledger(tmp_path) as again:
        again.begin("second")
        assert again.read("SELECT interrupted FROM sessions") == [(0,), (2,)]
        assert again.audit() == {"sent_again": 0, "interrupted": 2, "repeated": 0}
        again.apply([("INSERT INTO attempts (key, session, sent_at) VALUES ('a', 2, 0)", ())])
        assert again.audit()["repeated"] == 1


def test_the_audit_finds_a_request_sent_after_its_reply(ledger):
    """The number that has to be 0 must be able to be something else."""
    ledger.apply([("INSERT INTO attempts (key, session, sent_at, outcome) VALUES ('a', 1, 0, 'ok')", ())])
    values = "('a', 's', 1, 0, 0, 'e', 'm', 'p', '{}', 1, 0, 0, 0)"
    ledger.apply([(f"INSERT INTO requests VALUES {values}", ())])
    assert ledger.audit()["sent_again"] == 0
    ledger.apply([("INSERT INTO attempts (key, session, sent_at) VALUES ('a', 1, 0)", ())])
    assert ledger.audit()["sent_again"] == 1


def test_two_processes_cannot_send_for_one_run(tmp_path):
    with Ledger(tmp_path) as one, Ledger(tmp_path) as other:
        session = one.begin("one")
        with pytest.raises(LedgerError, match="another process"):
            other.begin("other")
        one.end(session, "done")
        assert other.begin("other") == 2


def test_a_transaction_is_whole_or_not_at_all(ledger):
    with pytest.raises(LedgerError):
        ledger.apply([("INSERT INTO facts VALUES ('a', '1')", ()), ("INSERT INTO nowhere VALUES (1)", ())])
    assert ledger.fact("a") is None


def test_a_full_disk_is_said_and_nothing_is_lost(ledger):
    add_rows(ledger, text_rows(5), "here")
    pages = ledger.read("PRAGMA page_count")[0][0]
    ledger._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerFullError, match="make room"):
        add_rows(ledger, text_rows(5000), "here")
    ledger._writer.execute("PRAGMA max_page_count = 1000000")
    assert add_rows(ledger, text_rows(600), "here").known >= 5
    assert counts(ledger, FIRST)["items"] == 600


def test_what_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.sqlite").write_text("not a database, but long enough to be looked at as one" * 50)
    with pytest.raises(LedgerError, match="not a database"):
        Ledger(tmp_path)
    with pytest.raises(LedgerError, match="holds no run"):
        Ledger(tmp_path / "nowhere", create=False)


def test_a_ledger_of_another_version_is_refused(tmp_path):
    Ledger(tmp_path).close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        database.execute("UPDATE facts SET value = '99' WHERE name = 'version'")
    with pytest.raises(LedgerError, match="version 99"):
        Ledger(tmp_path)


def test_a_run_of_many_rows_opens_quickly(tmp_path):
    """4,000 rows here, 40,000 in `look-again bench data`: a scan per row would show at once."""
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, text_rows(4000), "here")
        ops = [op for item in list(pending(ledger, FIRST))[:3900] for op in result_ops(FIRST, item, Outcome())]
        ledger.apply(ops)
    start = time.process_time()
    with Ledger(tmp_path) as ledger:
        ledger.begin("again")
        assert counts(ledger, FIRST)["ok"] >= 3900
        next(pending(ledger, FIRST), None)
    assert time.process_time() - start < 1.0
