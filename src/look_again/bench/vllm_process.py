"""A vLLM server of one's own for a while, in an environment of its own: for benchmarks and for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

START_SECONDS = 1800  # it takes 30 on idle cores; a server that dies is noticed at once
OPTIONS = ("--enforce-eager", "--block-size", "32", "--enable-scale-out", "--host", "127.0.0.1")
SETTINGS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
}


@dataclass
class VllmProcess:
    """A running server, in a process group of its own."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """And its workers, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def vllm_process(
    python: str,
    checkpoint: str | Path,
    folder: Path,
    options: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    pythonpath: Sequence[str] = (),
) -> Iterator[VllmProcess]:
    """`vllm serve` of a checkpoint until the context ends. RuntimeError, with its last words, if it does not start.

    python: of the environment. folder: where its output goes. options: besides OPTIONS. settings: environment variables
    besides SETTINGS.
    """
    port, log = _free_port(), folder / "out.txt"
    command = [str(Path(python).with_name("vllm")), "serve", str(checkpoint), "--port", str(port), *OPTIONS, *options]
    environment = {**os.environ, **SETTINGS, **(settings or {}), "PYTHONPATH": os.pathsep.join(pythonpath)}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}", process, log)
        yield VllmProcess(f"http://127.0.0.1:{port}", process)
    finally:
        _stop(process)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _is_up(url):
        said = log.read_text(errors="replace")[-4000:]
        if process.poll() is not None:
            raise RuntimeError(f"vLLM ended with status {process.returncode}: {said}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"vLLM is not up after {START_SECONDS} s: {said}")
        time.sleep(1)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _is_up(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/health", timeout=5):
            return True
    except (URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """And its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
