"""The Ray engine makes what the local engine makes, also when a worker is killed with SIGKILL in the middle.

python -m pytest -s tests/soak/test_ray_engine.py          (a quarter of an hour on two busy cores; Ray starts once)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.pipeline.budget import BudgetLimits
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.pipeline_run import build_run, run
from look_again.pipeline.review import decisions
from look_again.pipeline.run_config import RunConfig
from look_again.pipeline.stages.distil import Distillation
from look_again.tabletop.demo import DemoConfig, _cold_rows, _plain_rows, _stand_in

pytest.importorskip("ray")
from look_again.pipeline.ray.ray_engine import RayOptions, started

ROWS, SHARD_ROWS = 60, 8
DEMO = DemoConfig(rows=ROWS, oracle=True, faults=0.04, error_rate=0.3)
ROW_MAKERS = {"cold-start": _cold_rows, "distilled": _plain_rows}
OPTIONS = RayOptions(workers=2, shard_rows=SHARD_ROWS, cpus=2)


@pytest.fixture(scope="module", autouse=True)
def ray_here():
    """One Ray for all tests. Its folder is near the root: sockets have short names."""
    temp = Path(tempfile.mkdtemp(prefix="ray-"))
    with started(replace(OPTIONS, temp=temp)):
        yield
    shutil.rmtree(temp, ignore_errors=True)


def through(folder: Path, config: RunConfig, options: RayOptions | None, rows: int = ROWS) -> dict[str, object]:
    """All stages, stand-ins for people, and the build."""
    with Ledger(folder) as ledger:
        add_rows(ledger, ROW_MAKERS[config.flow](replace(DEMO, rows=rows)), "tabletop")
        run(ledger, config, ray=options)
        _stand_in(ledger, config)
        run(ledger, config, [decisions.NAME], ray=options)
        build_run(ledger, config, folder / "build")
        return state(ledger, folder / "build")


def state(ledger: Ledger, build: Path) -> dict[str, object]:
    """Rows, verdicts, replies and what was built, without times."""
    return {
        "rows": ledger.read("SELECT origin, position, id, verdict, reason, digest FROM rows ORDER BY n"),
        "results": ledger.read(
            "SELECT stage, n, sample, status, input, output, reason FROM results ORDER BY stage, n, sample"
        ),
        "requests": ledger.read(
            "SELECT key, stage, n, sample, ask, endpoint, model, prompt, reply, tokens_in, tokens_out, cost "
            "FROM requests ORDER BY key"
        ),
        "build": {str(p.relative_to(build)): p.read_bytes() for p in sorted(build.rglob("*")) if p.is_file()},
    }


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    for name, value in one.items():
        assert value == other[name], f"{name} differ"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    configs = {"cold-start": DEMO.cold_start(), "distilled": DEMO.distilled()}
    return {flow: through(out / flow, config, None) for flow, config in configs.items()}


def test_cold_start_is_that_of_the_local_engine(local, tmp_path):
    assert_same(through(tmp_path, DEMO.cold_start(), OPTIONS), local["cold-start"])
    shards = list((tmp_path / "shards").iterdir())
    assert len(shards) == -(-ROWS // SHARD_ROWS)
    assert {path.suffix for path in shards} == {".parquet"}


class Killer(threading.Thread):
    """Kills workers that have finished some requests of a task and wait for others; `times` of them."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.times, self.killed = folder, times, []

    def run(self) -> None:
        deadline = time.monotonic() + 600
        while len(self.killed) < self.times and time.monotonic() < deadline:
            for journal in self.folder.glob("*.journal"):
                if in_the_middle(journal) and (pid := writer_of(journal)) and pid not in self.killed:
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(pid)
                    break
            time.sleep(0.01)


def in_the_middle(journal: Path) -> bool:
    try:
        text = journal.read_text()
    except FileNotFoundError:
        return False
    sent, ended = text.count("INSERT INTO attempts"), text.count("UPDATE attempts SET ended_at")
    return ended >= 2 and sent > ended


def writer_of(path: Path) -> int | None:
    """The process that has a file open."""
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            if any(os.readlink(handle) == str(path) for handle in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    return None


def test_killed_workers_cost_nothing_but_time(local, tmp_path):
    killer = Killer(tmp_path / "shards", 2)
    killer.start()
    assert_same(through(tmp_path, DEMO.distilled(), OPTIONS), local["distilled"])
    assert len(killer.killed) == 2, "no worker was killed: nothing is shown"
    with Ledger(tmp_path) as ledger:
        audit = ledger.audit()
        print(f"{len(killer.killed)} workers killed: {audit}")
        assert audit["sent_again"] == 0
        assert 0 < audit["interrupted"] <= 2 * 5 * DEMO.concurrency
        assert all(not list((tmp_path / "shards").glob(f"*.{left}")) for left in ("task", "journal"))


def test_shards_are_left_for_the_merge_and_merged_once(local, tmp_path, capsys):
    config = DEMO.cold_start()
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, _cold_rows(DEMO), "tabletop")
        (report,) = run(ledger, config, ["cold-start"], ray=replace(OPTIONS, merge=False))
        assert report.pending == ROWS
    for expected in (-(-ROWS // SHARD_ROWS), 0):
        assert main(["data", "merge", "--run", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["shards"] == expected
    with Ledger(tmp_path) as ledger:
        found = state(ledger, tmp_path / "build")
        teaching = [row for row in local["cold-start"]["results"] if row[0] == "cold-start"]
        assert found["results"] == teaching
        assert found["requests"] == local["cold-start"]["requests"]


def test_a_checkpoint_decodes_to_the_same_answers(tmp_path):
    """Greedy and sampled: batches, and so random numbers, are those of the local engine."""
    oracle = replace(DEMO, faults=0.0).distilled()
    for temperature in (0.0, 1.0):
        given = Distillation(
            checkpoint="", batch=3, samples=2, max_new_tokens=40, temperature=temperature, device="cpu"
        )
        config = replace(oracle, distil=given)
        found = []
        for name, options in (("here", None), ("ray", replace(OPTIONS, shard_rows=4))):
            with Ledger(tmp_path / f"{name}-{temperature}") as ledger:
                add_rows(ledger, _plain_rows(replace(DEMO, rows=8)), "tabletop")
                (report,) = run(ledger, config, ["distil"], ray=options)
                assert report.pending == 0
                found.append(state(ledger, tmp_path / "none")["results"])
        assert found[0] == found[1]
        assert len(found[0]) == 16


def test_a_spent_budget_stops_cleanly_and_goes_on(local, tmp_path):
    whole = DEMO.cold_start()
    total = sum(row[9] + row[10] for row in local["cold-start"]["requests"] if row[8] is not None)
    limit = total // 2
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, _cold_rows(DEMO), "tabletop")
        (report,) = run(ledger, replace(whole, budget=BudgetLimits(tokens=limit)), ["cold-start"], ray=OPTIONS)
        spent = ledger.spent()
        print(f"{spent.tokens_in + spent.tokens_out} of {limit} tokens spent: {report.stopped}")
        assert "the budget" in report.stopped
        assert 0.9 * limit < spent.tokens_in + spent.tokens_out < 1.02 * limit
        assert report.pending > 0
        run(ledger, whole, ["cold-start"], ray=OPTIONS)
        assert state(ledger, tmp_path / "build")["requests"] == local["cold-start"]["requests"]
        assert ledger.audit()["sent_again"] == 0


def test_a_worker_without_its_key_says_so(tmp_path):
    end = replace(
        DEMO.endpoint("teacher", "teacher"), base_url="http://127.0.0.1:9/v1", key_env="LOOK_AGAIN_NO_SUCH_KEY"
    )
    with Ledger(tmp_path) as ledger:
        add_rows(ledger, _cold_rows(replace(DEMO, rows=3)), "tabletop")
        with pytest.raises(ValueError, match="takes its key from LOOK_AGAIN_NO_SUCH_KEY, which is not set"):
            run(ledger, replace(DEMO.cold_start(), endpoints=(end,)), ["cold-start"], ray=OPTIONS)
        assert ledger.read("SELECT outcome FROM sessions") == [("failed",)]
