"""An evaluation killed at ten random moments and started again each time ends as an undisturbed one.

python -m pytest tests/soak/test_kill_evaluation.py
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

KILLS = 10
ARGUMENTS = ["eval", "tabletop", "--n", "44", "--batch", "2", "--no-planted", "--max-new-tokens", "120"]


def start(out: Path) -> subprocess.Popen:
    """The same command each time, in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "look_again", *ARGUMENTS, "--device", "cpu", "--out", str(out)]
    with out.with_suffix(".txt").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def lines(out: Path) -> int:
    path = out / "tabletop" / "items.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_somewhere(out: Path, draw: random.Random) -> bool:
    """Kill the command once it has finished two to four more items and a random while; False if it ended before."""
    process, wanted, deadline = start(out), lines(out) + draw.randint(2, 4), time.monotonic() + 300
    while process.poll() is None and lines(out) < wanted:
        assert time.monotonic() < deadline, out.with_suffix(".txt").read_text()[-3000:]
        time.sleep(0.002)
    time.sleep(draw.random() * 0.3)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def result(out: Path) -> dict:
    found = json.loads((out / "tabletop" / "result.json").read_text())
    del found["timing"]
    return found


def test_ten_kills_change_nothing(tmp_path):
    draw = random.Random(7)
    kills = sum(kill_somewhere(tmp_path / "killed", draw) for _ in range(KILLS))
    assert kills == KILLS
    for run in ("killed", "whole"):
        assert start(tmp_path / run).wait(timeout=600) == 0
    assert result(tmp_path / "killed") == result(tmp_path / "whole")
    assert lines(tmp_path / "killed") == 44
