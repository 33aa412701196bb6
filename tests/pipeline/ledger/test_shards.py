"""Tasks are cut, done and done on after a kill, and become shards that are whole or not taken."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from look_again.clients.openai import InProcessTransport
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.items import Outcome
from look_again.pipeline.ledger.journal import Journal, journals, read_journal
from look_again.pipeline.ledger.ledger import Ledger, LedgerError, LedgerFullError
from look_again.pipeline.ledger.merge import merge
from look_again.pipeline.ledger.shards import ShardError, find_shard, list_shards, parse_digest, read_shard
from look_again.pipeline.ledger.tasks import TaskError, read_task
from look_again.pipeline.ray import ray_engine, task_work
from look_again.pipeline.ray.ray_engine import RayError, Worker, check_reachable, pool_size
from look_again.pipeline.ray.task_work import divided
from tests.pipeline.ray.task_runs import ENDPOINT, STAGES, Counting, answer, by_tasks, cut, do, here, rows, state

pytest.importorskip("pyarrow")


@pytest.fixture
def ledger(ledger):
    add_rows(ledger, rows(7), "here")
    return ledger


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "shards").mkdir()
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with Ledger(tmp_path_factory.mktemp("local")) as opened:
        add_rows(opened, rows(7), "here")
        here(opened)
        yield opened


def test_tasks_end_in_the_ledger_of_the_local_engine(ledger, shards, local):
    by_tasks(ledger, shards)
    assert state(ledger) == state(local)
    assert len(state(ledger)["requests"]) > 20
    assert ledger.read("SELECT count(*) FROM attempts") == local.read("SELECT count(*) FROM attempts")
    assert ledger.audit() == {"sent_again": 0, "interrupted": 0, "repeated": 0}


def test_tasks_hold_whole_batches(ledger, shards):
    """Sampling draws its random numbers per batch: other batches would be other answers."""
    stage = replace(STAGES[2], key=replace(STAGES[2].key, after=None, samples=3), batch=4)
    sizes = [len(read_task(path).items) for path in cut(ledger, stage, shards, size=5)]
    assert sizes == [8, 8, 5]
    for path in sorted(shards.glob("*.task")):
        do(path, stage)
    merge(ledger, [shards])
    found = ledger.read("SELECT output FROM results ORDER BY n, sample")
    assert Counter(output for (output,) in found) == {'{"of":4}': 20, '{"of":1}': 1}


class Killed(BaseException):
    """The process is gone."""


class Mortal(Journal):
    """A journal whose process dies at a given write: before it, while it is written, or right after it."""

    lives: ClassVar[list[tuple[int, str]]] = []  # of the workers to come

    def __init__(self, path, task) -> None:
        self.left, self.how = self.lives.pop(0) if self.lives else (10**9, "")
        super().__init__(path, task)

    def apply(self, ops) -> None:
        self.left -= 1
        if self.left == 0 and self.how != "after":
            if self.how == "torn":
                self._file.write(b'[["INSERT INTO resu')
            raise Killed
        if self.left < 0:
            raise Killed
        super().apply(ops)
        if self.left == 0:
            raise Killed


@settings(max_examples=12, deadline=None)
@given(kills=st.lists(st.tuples(st.integers(1, 20), st.sampled_from(["before", "torn", "after"])), max_size=5))
def test_any_schedule_of_kills_ends_as_the_undisturbed_run(local, kills):
    """The bug it would catch: a worker that takes over asks again for what the one before it was answered."""
    server = Counting()
    with tempfile.TemporaryDirectory() as name, Ledger(name) as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_work, "Journal", Mortal)
        patch.setattr(Mortal, "lives", list(kills))
        folder = Path(name) / "shards"
        folder.mkdir()
        add_rows(ledger, rows(7), "here")
        for stage in STAGES:
            for path in cut(ledger, stage, folder, size=8):
                while find_shard(path) is None:
                    try:
                        do(path, stage, server)
                    except Killed:
                        continue
            merge(ledger, [folder])
        assert state(ledger) == state(local)
        audit = ledger.audit()
        assert audit["sent_again"] == 0
        assert audit["interrupted"] <= (len(kills) - len(Mortal.lives)) * ENDPOINT.concurrency
        twice = sum(count - 1 for count in Counter(server.answered).values())
        assert twice <= audit["repeated"], "a reply that was on disk was paid for again"


def test_a_driver_that_is_killed_loses_no_reply(ledger, shards, local, monkeypatch):
    """Its tasks are cut anew, from other items: journals must come in before that."""
    server = Counting()
    monkeypatch.setattr(task_work, "Journal", Mortal)
    chance = random.Random(0)
    for _ in range(6):
        Mortal.lives = [(chance.randint(2, 30), "after")]
        try:
            by_tasks(ledger, shards, server=server, size=chance.randint(2, 9))
        except Killed:
            merge(ledger, [shards])
    Mortal.lives = []
    by_tasks(ledger, shards, server=server)
    assert state(ledger) == state(local)
    assert ledger.audit()["sent_again"] == 0
    assert sum(count - 1 for count in Counter(server.answered).values()) <= ledger.audit()["repeated"]
    assert not list(shards.glob("*.journal"))
    assert not list(shards.glob("*.task"))


def test_replies_of_another_version_are_not_paid_for_again(ledger, shards):
    """Workers have no ledger: what it knows has to go with the task."""
    server = Counting()
    by_tasks(ledger, shards, STAGES[:1], server)
    before = len(server.answered)
    other = replace(STAGES[0], key=replace(STAGES[0].key, version="w"))
    assert by_tasks(ledger, shards, [other], server).results == 14
    assert len(server.answered) == before
    assert ledger.read("SELECT count(*) FROM results WHERE input LIKE 'w:%'") == [(14,)]


def test_attempts_of_earlier_sessions_count_on(ledger, shards):
    """Endpoints are told how often a request went out; a fault of the first two attempts must not come back."""

    async def down(body, headers):
        return 503, {}, "down"

    by_tasks(ledger, shards, STAGES[:1], down)
    assert ledger.read("SELECT DISTINCT status FROM results") == [("waiting",)]
    seen = []

    async def tells(body, headers):
        seen.append(int(headers["X-Attempt"]))
        return await answer(body, headers)

    merged = by_tasks(ledger, shards, STAGES[:1], tells)
    assert merged.results == 14
    assert ledger.read("SELECT DISTINCT status FROM results ORDER BY 1") == [("bad",), ("ok",)]
    assert max(seen) >= ENDPOINT.attempts


def test_a_finished_shard_is_not_made_again(ledger, shards):
    server = Counting()
    path, *_ = cut(ledger, STAGES[0], shards)
    first = do(path, STAGES[0], server)
    asked = len(server.answered)
    assert do(path, STAGES[0], server) == first
    assert len(server.answered) == asked


def test_a_shard_that_is_not_whole_is_refused(ledger, shards):
    path, *_ = cut(ledger, STAGES[0], shards)
    whole = Path(do(path, STAGES[0]).shard)
    data = whole.read_bytes()
    assert len(read_shard(whole).records) == 5
    for name, broken in (("short", data[:-20]), ("empty", b""), ("spoiled", data[:200] + b"\0" * 200 + data[400:])):
        bad = shards / f"{name}.{parse_digest(whole)}.parquet"
        bad.write_bytes(broken)
        with pytest.raises(ShardError, match=r"no whole shard|not hold what its name"):
            read_shard(bad)
    renamed = shards / f"other.{'0' * 16}.parquet"
    renamed.write_bytes(data)
    with pytest.raises(ShardError, match="does not hold what its name says"):
        read_shard(renamed)


def test_a_shard_that_was_being_written_is_not_seen(ledger, shards):
    path, *_ = cut(ledger, STAGES[0], shards)
    (shards / f"{path.stem}.01.{'0' * 16}.parquet.4711").write_bytes(b"PAR1")
    assert find_shard(path) is None
    assert merge(ledger, [shards]).shards == 0
    assert not list(shards.iterdir()), "what is left of it goes"


def test_a_full_disk_ends_a_worker_and_keeps_what_was_written(ledger, shards, monkeypatch):
    path, *_ = cut(ledger, STAGES[0], shards)
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    server = Counting()
    monkeypatch.setattr("look_again.pipeline.ledger.journal.os.fsync", full)
    with pytest.raises(LedgerError):
        do(path, STAGES[0], server)
    monkeypatch.undo()
    assert len(list(read_journal(journals(path)[0]))) >= 5
    merge(ledger, [shards])
    by_tasks(ledger, shards, STAGES[:1], server)
    assert ledger.audit()["sent_again"] == 0
    assert issubclass(LedgerFullError, LedgerError)


def test_two_workers_at_one_task_do_not_spoil_each_other(ledger, shards, local):
    """One that was thought dead writes on; its shard comes later and doubles nothing."""
    path, *_ = cut(ledger, STAGES[0], shards, size=50)
    task = read_task(path)
    with Journal(path, task) as slow:
        slow.begin("slow")
        key = "a request of the slow one"
        about = (STAGES[0].name, 1, 0, 0, "e", "m", "")
        slow.apply(
            [
                ("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL, NULL)", (key, *about)),
                ("INSERT INTO attempts VALUES (?, ?, 1, 7.5, NULL, NULL)", (slow.last_attempt() + 1, key)),
            ]
        )
        do(path, STAGES[0])
        merge(ledger, [shards])
        results = state(ledger)["results"]
        slow.apply([("UPDATE attempts SET ended_at = 8.5, outcome = 'ok' WHERE key = ?", [key])])
    assert results == [row for row in state(local)["results"] if row[0] == "one"]
    assert ledger.read("SELECT outcome FROM attempts WHERE key = ?", [key]) == [("interrupted",)]


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(TaskError, match="every node has to see this folder"):
        asyncio.run(task_work.work_on(tmp_path / "nowhere.task", STAGES[0], {}))


def test_workers_share_concurrency_and_rate():
    endpoint = replace(ENDPOINT, concurrency=7, rate=6.0)
    (each,) = divided([endpoint], 3)
    assert (each.concurrency, each.rate) == (2, 2.0)
    assert divided([replace(endpoint, rate=None)], 1)[0].rate is None
    with pytest.raises(ValueError, match="8 workers cannot share endpoint 'e', which takes 7"):
        divided([endpoint], 8)


def test_a_pool_is_no_larger_than_what_there_is():
    there, narrow = {"CPU": 16.0, "GPU": 2.0}, [replace(ENDPOINT, concurrency=5)]
    assert pool_size(None, there, [], 100, per_gpu=False) == 16
    assert pool_size(None, there, [], 100, per_gpu=True) == 2
    assert pool_size(8, there, narrow, 100, per_gpu=False) == 5
    assert pool_size(8, there, narrow, 3, per_gpu=False) == 3


def test_a_cluster_that_is_not_there_is_an_error_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(RayError, match="no ray answers at"):
                check_reachable(address)
    check_reachable("auto")


def test_a_worker_tells_the_driver_what_is_wrong_with_its_node(tmp_path, monkeypatch):
    """An error that is raised comes out of Ray as pages of traceback."""
    worker = Worker(STAGES[0], [], None)
    said = worker({"task": str(tmp_path / "nowhere.task")})
    assert "every node has to see this folder" in said["fault"]
    monkeypatch.delenv("LOOK_AGAIN_NO_KEY", raising=False)
    worker = Worker(STAGES[0], [replace(ENDPOINT, base_url="http://localhost:9", key_env="LOOK_AGAIN_NO_KEY")], None)
    assert "takes its key from LOOK_AGAIN_NO_KEY, which is not set" in worker({"task": "any"})["fault"]


def test_a_worker_that_was_refused_leaves_the_other_tasks_alone(ledger, shards, monkeypatch):
    """With a wrong key each of 800 tasks would send its requests and hear the same."""
    asked = []

    async def refuses(body, headers):
        asked.append(headers)
        return 401, {}, "who are you"

    monkeypatch.setattr(ray_engine, "open_transport", lambda endpoint: InProcessTransport(refuses))
    worker = Worker(STAGES[0], [ENDPOINT], None)
    said = [worker({"task": str(path)}) for path in cut(ledger, STAGES[0], shards)]
    assert all("who are you" in one["stopped"] for one in said)
    assert len(asked) <= ENDPOINT.concurrency


def test_a_shard_reads_as_a_table(ledger, shards):
    """What others read with any Parquet reader: a row per item, requests and attempts inside it."""
    from pyarrow import parquet

    by_tasks(ledger, shards, STAGES[:1])
    table = parquet.read_table(list_shards(shards)[0]).to_pylist()
    assert [row["n"] for row in table] == [1, 1, 2, 2, 3]
    requests = [request for row in table for request in row["requests"]]
    assert all(request["attempts"][-1]["outcome"] == "ok" for request in requests)
    assert Outcome(table[0]["status"]).status == "ok"
