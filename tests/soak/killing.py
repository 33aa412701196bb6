"""A command that is killed again and again, and what its log says meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """`look-again ARGUMENTS`, in a process group of its own; what it prints is added to `folder/out.txt`."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "look_again", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)


def finish(folder: Path, process: subprocess.Popen) -> None:
    """Wait for its end, which has to be a good one."""
    assert process.wait(900) == 0, (folder / "out.txt").read_text()[-4000:]


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_log(path: Path) -> dict[int, dict[str, float]]:
    """The lines of a log by step, one that is being written left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
            found[entry["step"]] = entry
        except ValueError:
            continue
    return found


def wait_for(folder: Path, log: Path, step: int, process: subprocess.Popen) -> None:
    """Until the log reaches `step`; an error of the run is an error of the test."""
    deadline = time.monotonic() + 600
    while max(read_log(log), default=0) < step:
        assert process.poll() is None, (folder / "out.txt").read_text()[-4000:]
        assert time.monotonic() < deadline, "the run does not move"
        time.sleep(0.02)


def kill_at_random(
    folder: Path, log: Path, arguments: tuple[str, ...], *, kills: int, steps: int, stride: int, wait: float
) -> list[dict[int, dict[str, float]]]:
    """Start and kill `kills` times, each after 1 to `stride` more steps and up to `wait` seconds; the log at each."""
    chance, logs = random.Random(11), []
    for done in range(kills):
        process = start(folder, *arguments)
        reached = max(read_log(log), default=0)
        wait_for(folder, log, min(reached + chance.randint(1, stride), steps - 2 * (kills - done)), process)
        time.sleep(chance.random() * wait)
        kill(process)
        logs.append(read_log(log))
    finish(folder, start(folder, *arguments))
    return logs
