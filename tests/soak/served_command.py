"""`look-again serve` in a process of its own, for soak tests: its URL, its memory, its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Served:
    url: str
    process: subprocess.Popen
    log: Path

    @property
    def resident_mib(self) -> float:
        """Memory of the process now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


@contextmanager
def look_again_server(folder: Path, *arguments: str) -> Iterator[Served]:
    """A server on a free port that has to be there within five minutes and to end well when it is told to."""
    log = folder / "server.txt"
    command = [sys.executable, "-m", "look_again", "serve", "--port", "0", "--device", "cpu", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield Served(_url(process, log), process, log)
        assert process.poll() is None, f"the server ended by itself: {log.read_text()[-4000:]}"
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()[-6000:]


def _url(process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"^(http://\S+)/v1 serves", log.read_text(), re.MULTILINE):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"the server does not start: {log.read_text()[-4000:]}")
