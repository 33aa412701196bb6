"""An evaluation that is killed loses nothing finished and ends as an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from look_again.commands.main import main

ARGUMENTS = [
    "eval",
    "tabletop",
    "--n",
    "6",
    "--batch",
    "2",
    "--no-planted",
    "--max-new-tokens",
    "70",
    "--device",
    "cpu",
]


def finished(out: Path) -> dict:
    result = json.loads((out / "tabletop" / "result.json").read_text())
    del result["timing"]
    return result


def killed_after_a_batch(out: Path) -> bytes:
    """Start the command, kill it as soon as an item is finished; what it left."""
    items = out / "tabletop" / "items.jsonl"
    command = [sys.executable, "-m", "look_again", *ARGUMENTS, "--out", str(out)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and not (items.exists() and items.read_bytes().count(b"\n")):
        assert time.monotonic() < deadline, "no item was finished in two minutes"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return items.read_bytes()


def test_a_killed_evaluation_resumes_and_ends_equal(tmp_path, capsys):
    """Would catch lost or repeated items, a batch cut otherwise after the kill, and half a line taken for an item."""
    left = killed_after_a_batch(tmp_path / "killed")
    assert 1 <= left.count(b"\n") < 6
    assert not (tmp_path / "killed" / "tabletop" / "result.json").exists()
    items = tmp_path / "killed" / "tabletop" / "items.jsonl"
    items.write_bytes(left[: left.index(b"\n") + 20])  # one whole item of a batch of two, and half the next
    for run in ("killed", "whole"):
        assert main([*ARGUMENTS, "--out", str(tmp_path / run)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert finished(tmp_path / "killed") == finished(tmp_path / "whole")
    ids = [json.loads(line)["id"] for line in items.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 6
    first = left.split(b"\n")[0]
    assert items.read_bytes().startswith(first + b"\n")
    assert (tmp_path / "killed" / "tabletop" / "report.html").is_file()
