"""Runs of `look-again reproduce` in processes of their own, which a test may kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def start_run(plan: Path, run: Path, *options: str) -> subprocess.Popen[bytes]:
    """A run in a session of its own."""
    command = [sys.executable, "-m", "look_again", "reproduce", "--plan", str(plan), "--out", str(run), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def kill_run(process: subprocess.Popen[bytes], *, alone: bool) -> None:
    """Kills the run alone, so that its commands live on, or with its commands."""
    os.kill(process.pid, signal.SIGKILL) if alone else os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_report(run: Path) -> dict[str, Any]:
    return json.loads((run / "report" / "report.json").read_text())
