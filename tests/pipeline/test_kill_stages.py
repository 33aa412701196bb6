"""The whole demonstration, killed with SIGKILL and started again, ends in the ledger of an undisturbed run.

At full length, with the shipped model instead of an oracle (an hour or more on two cores):
export LOOK_AGAIN_KILL_ROWS=2000 LOOK_AGAIN_KILLS=20 LOOK_AGAIN_KILL_MODEL=1
python -m pytest -s tests/pipeline/test_kill_stages.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from look_again.pipeline.ledger.ledger import Ledger
from look_again.tabletop.demo import COLD_START, DISTILLED

ROWS, KILLS = (
    int(os.environ.get(name, usual)) for name, usual in (("LOOK_AGAIN_KILL_ROWS", 12), ("LOOK_AGAIN_KILLS", 3))
)
ORACLE = [] if os.environ.get("LOOK_AGAIN_KILL_MODEL") else ["--oracle"]
FAULTS = 0.05
WITHIN_S = 240 + 6 * ROWS  # of one run


def start(out: Path) -> subprocess.Popen:
    """The same command each time."""
    command = [sys.executable, "-m", "look_again", "data", "demo", *ORACLE, "--json", "--out", str(out)]
    command += ["--rows", str(ROWS), "--faults", str(FAULTS), "--error-rate", "0.3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (out.parent / f"{out.name}.txt").open("a") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)


def finish(out: Path) -> None:
    assert start(out).wait(WITHIN_S) == 0, (out.parent / f"{out.name}.txt").read_text()[-3000:]


def state(out: Path) -> dict[str, list[tuple]]:
    """Rows, verdicts, replies and what was built, without times."""
    found = {}
    for flow in (COLD_START, DISTILLED):
        with Ledger(out / flow, create=False) as ledger:
            found[flow] = [
                *ledger.read("SELECT origin, position, id, verdict, reason, digest FROM rows ORDER BY n"),
                *ledger.read("SELECT stage, n, sample, status, input, output, reason FROM results ORDER BY 1, 2, 3"),
                *ledger.read("SELECT key, reply, tokens_in, cost FROM requests ORDER BY key"),
                *ledger.read("SELECT n, sample, reviewer, action, response FROM decisions ORDER BY n, sample, id"),
            ]
        build = out / flow / "build"
        found[flow] += [(path.name, path.read_bytes()) for path in sorted(build.rglob("*")) if path.is_file()]
    return found


def events(out: Path) -> int:
    """How far a run has come: attempts and results so far."""
    total = 0
    for flow in (COLD_START, DISTILLED):
        if (out / flow / "ledger.sqlite").exists():
            with Ledger(out / flow) as ledger:
                total += ledger.last_attempt() + ledger.read("SELECT count(*) FROM results")[0][0]
    return total


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(out)
    return out


def test_killed_and_started_again(undisturbed, tmp_path):
    out, chance, total = tmp_path / "run", random.Random(7), events(undisturbed)
    for kill in range(KILLS):
        process = start(out)
        target = min(total - 5, int(total * (kill + chance.random()) / KILLS))
        deadline = time.monotonic() + WITHIN_S
        while events(out) < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finish(out)
    assert state(out) == state(undisturbed)
    audits = []
    for flow in (COLD_START, DISTILLED):
        with Ledger(out / flow) as ledger:
            audits.append(ledger.audit())
    assert [audit["sent_again"] for audit in audits] == [0, 0]
    assert sum(audit["interrupted"] for audit in audits) <= KILLS * 8 * 5
    print(f"{KILLS} kills: {audits}")
