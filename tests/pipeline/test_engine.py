"""A stage that is killed anywhere and started again goes on: no row lost, none doubled, nothing finished sent again."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from look_again.clients.openai import Endpoint, InProcessTransport
from look_again.data.sample import Sample
from look_again.images import ImageError
from look_again.pipeline.budget import BudgetLimits
from look_again.pipeline.chat_client import Chat, Halt
from look_again.pipeline.endpoint_pool import EndpointState
from look_again.pipeline.engine import PipelineStage, RowProblem, open_chat_client, run_stages
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem, counts, results
from look_again.pipeline.ledger.ledger import Ledger, LedgerFullError

ENDPOINT = Endpoint(name="e", base_url="test:", model="m", backoff_s=0.0001, max_wait_s=0.001, concurrency=3)


class Killed(BaseException):
    """The process is gone."""


class Mortal(Ledger):
    """A ledger whose process dies at a given write: before it, or after it reached the disk and nobody knows."""

    def __init__(self, folder: Path, lives: int, after: bool) -> None:
        super().__init__(folder)
        self.lives, self.after = lives, after

    def apply(self, ops) -> None:
        self.lives -= 1
        if self.lives < 0 or (self.lives == 0 and not self.after):
            raise Killed
        super().apply(ops)
        if self.lives == 0:
            raise Killed


class Server:
    """Replies with a number for each text; fails now and then, differently each time."""

    def __init__(self, seed: int) -> None:
        self.chance, self.finished = random.Random(seed), Counter()

    async def __call__(self, body, headers):
        await asyncio.sleep(0)
        if self.chance.random() < 0.1:
            return 500, {}, "oops"
        text = body["messages"][-1]["content"][-1]["text"]
        self.finished[headers["Idempotency-Key"]] += 1
        return 200, {}, {"choices": [{"message": {"content": f"{len(text)}{text[-1]}"}}], "usage": {"prompt_tokens": 1}}


async def first(item: WorkItem, chat: Chat) -> Outcome:
    one, two = await asyncio.gather(chat.ask("e", "", f"{item.row.question}{item.sample}"), chat.ask("e", "", "two"))
    if item.n % 5 == 0:
        raise RowProblem("every fifth")
    return Outcome(output={"response": one.text + two.text})


async def second(item: WorkItem, chat: Chat) -> Outcome:
    reply = await chat.ask("e", "", f"again {item.response}")
    return Outcome(output={"response": reply.text})


STAGES = [
    PipelineStage(StageKey("one", "v", samples=2), work=first, later=("two", "three")),
    PipelineStage(StageKey("two", "v", "one"), work=second, later=("three",)),
    PipelineStage(
        StageKey("three", "v", "two"), batch_work=lambda items: [Outcome(output={"n": i.n}) for i in items], batch=4
    ),
]


def rows(n: int) -> list[Sample]:
    return [Sample(id=f"r{i}", question=f"{i}?", source="test") for i in range(n)]


def run(ledger: Ledger, server: Server, stages=STAGES, **options):
    async def go():
        async with open_chat_client(
            ledger, [EndpointState(ENDPOINT, InProcessTransport(server))], "test", options.get("budget")
        ) as client:
            return await run_stages(client, stages, workers=options.get("workers", 4))

    return asyncio.run(go())


def state(ledger: Ledger) -> list[tuple]:
    """Rows and verdicts, without times."""
    return ledger.read("SELECT stage, n, sample, status, input, output, reason FROM results ORDER BY 1, 2, 3")


@pytest.fixture(scope="module")
def undisturbed():
    with tempfile.TemporaryDirectory() as folder, Ledger(folder) as ledger:
        add_rows(ledger, rows(7), "here")
        run(ledger, Server(0))
        yield state(ledger)


@settings(max_examples=30, deadline=None)
@given(kills=st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=6), seed=st.integers(0, 99))
def test_any_schedule_of_kills_ends_as_the_undisturbed_run(undisturbed, kills, seed):
    """The bug it would catch: a reply lost between the wire and the disk that is not asked for again, or one on disk
    that is."""
    server = Server(seed)
    with tempfile.TemporaryDirectory() as folder:
        with Ledger(folder) as ledger:
            add_rows(ledger, rows(7), "here")
        for lives, after in kills:
            mortal = Mortal(Path(folder), lives, after)
            try:
                run(mortal, server)
            except Killed:
                pass
            finally:
                mortal.close()
        with Ledger(folder) as ledger:
            run(ledger, server)
            assert state(ledger) == undisturbed
            audit = ledger.audit()
            assert audit["sent_again"] == 0
            assert audit["interrupted"] <= len(kills) * ENDPOINT.concurrency
            twice = sum(count - 1 for count in server.finished.values())
            assert twice <= audit["repeated"], "a reply that was on disk was paid for again"


def test_counts_add_up_at_every_stage(tmp_path):
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(11), "here")
        one, two, three = run(ledger, Server(0))
        assert (one.items, one.ok, one.bad) == (22, 18, 4)
        assert (two.items, two.ok) == (18, 18)
        assert (three.items, three.ok) == (18, 18)


def test_a_row_that_fails_gets_its_reason_and_the_others_go_on(tmp_path):
    async def picky(item: WorkItem, chat: Chat) -> Outcome:
        if item.n == 2:
            raise ImageError("no such picture")
        return Outcome()

    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(3), "here")
        run(ledger, Server(0), [PipelineStage(StageKey("s", "v"), work=picky)])
        assert ledger.read("SELECT n, status, reason FROM results ORDER BY n") == [
            (1, "ok", None),
            (2, "bad", "no such picture"),
            (3, "ok", None),
        ]


def test_a_server_that_is_down_leaves_rows_waiting_and_they_go_on_later(tmp_path):
    async def down(body, headers):
        return 503, {}, "down"

    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(3), "here")
        (report,) = run(ledger, down, STAGES[:1])
        assert (report.waiting, report.pending) == (6, 0)
        assert "down" in ledger.read("SELECT reason FROM results")[0][0]
        (report,) = run(ledger, Server(0), STAGES[:1])
        assert (report.waiting, report.ok + report.bad) == (0, 6)


def test_a_spent_budget_leaves_rows_pending(tmp_path):
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(9), "here")
        (report,) = run(ledger, Server(0), STAGES, budget=BudgetLimits(tokens=7))
        assert "budget" in report.stopped
        assert report.pending > 0
        assert ledger.spent().tokens_in == 7
        assert run(ledger, Server(0))[-1].stopped is None
        assert counts(ledger, STAGES[0].key)["pending"] == 0


def test_a_full_disk_stops_the_run_and_a_later_one_goes_on(tmp_path, undisturbed):
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(7), "here")
    ledger = Ledger(tmp_path)
    pages = ledger.read("PRAGMA page_count")[0][0]
    ledger._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(LedgerFullError):
        run(ledger, Server(0))
    ledger.close()
    with Ledger(tmp_path) as ledger:
        run(ledger, Server(0))
        assert state(ledger) == undisturbed
        assert ledger.audit()["sent_again"] == 0


def test_an_error_of_ours_is_raised_and_replies_under_way_are_kept(tmp_path):
    """A bug in one stage must not throw away what other rows have paid for."""

    async def buggy(item: WorkItem, chat: Chat) -> Outcome:
        await chat.ask("e", "", item.row.question)
        if item.n == 1:
            raise ZeroDivisionError
        return Outcome()

    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(4), "here")
        with pytest.raises(ZeroDivisionError):
            run(ledger, Server(0), [PipelineStage(StageKey("s", "v"), work=buggy)])
        assert ledger.audit()["interrupted"] == 0
        assert ledger.read("SELECT count(*) FROM attempts WHERE outcome IS NULL") == [(0,)]


def test_only_so_many_rows_are_in_work(tmp_path):
    """Rows hold pictures: a queue that fills up would hold all of them."""
    open_now = widest = 0

    async def slow(item: WorkItem, chat: Chat) -> Outcome:
        nonlocal open_now, widest
        open_now += 1
        widest = max(widest, open_now)
        await asyncio.sleep(0.001)
        open_now -= 1
        return Outcome()

    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(50), "here")
        run(ledger, Server(0), [PipelineStage(StageKey("s", "v"), work=slow)], workers=5)
    assert widest == 5


def test_results_stream_in_order(tmp_path):
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(5), "here")
        run(ledger, Server(0), STAGES[:1])
        found = [(item.row.id, item.sample) for item, _ in results(ledger, STAGES[0].key, page=3)]
    assert found == [(f"r{i}", k) for i in range(4) for k in range(2)]


def test_halting_lets_what_is_under_way_finish(tmp_path):
    async def asks(item: WorkItem, chat: Chat) -> Outcome:
        reply = await chat.ask("e", "", item.row.question)
        chat.client.halt("enough")
        return Outcome(output={"response": reply.text})

    with Ledger(tmp_path) as ledger:
        add_rows(ledger, rows(20), "here")
        (report,) = run(ledger, Server(1), [PipelineStage(StageKey("s", "v"), work=asks)])
        assert report.stopped == "enough"
        assert 1 <= report.ok <= 4
        assert ledger.audit()["interrupted"] == 0
        assert issubclass(Halt, Exception)
