"""`look-again bench data`: the data engine's own overhead, with a transport that answers at once.

One stage, one request a row, one image of its own file with it: what is timed is reading the row from the ledger,
reading and encoding the image, and committing request, reply and result to disk. Each figure is taken in a process of
its own, so that memory is that of the run alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from look_again.bench.settings import LEFT, DataSettings
from look_again.clients.openai import Endpoint, InProcessTransport
from look_again.data.sample import Sample
from look_again.pipeline.chat_client import Chat
from look_again.pipeline.endpoint_pool import EndpointState
from look_again.pipeline.engine import PipelineStage, open_chat_client, run_stage
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.items import Outcome, StageKey, WorkItem, counts, pending
from look_again.pipeline.ledger.ledger import Ledger
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample

TARGETS = {"rows_per_second": 300, "memory_40k_over_2k": 1.2, "resume_40k_seconds": 2.0}
IMAGES = 50  # files that the rows share
KEY = StageKey("bench", "1")


def run(args: argparse.Namespace) -> dict[str, Any]:
    settings = DataSettings(rows=args.rows, many=args.many, concurrency=args.concurrency)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        return measure(settings, Path(folder))


def measure(settings: DataSettings, folder: Path) -> dict[str, Any]:
    """All three figures."""
    small, large = (
        _child(folder / name, rows, settings) for name, rows in (("small", settings.rows), ("large", settings.many))
    )
    reopened = _reopened(folder / "large")
    return {
        "benchmark": "data",
        "rows_per_second": small["rows_per_second"],
        "rows_per_second_of_many": large["rows_per_second"],
        "memory_40k_over_2k": large["peak_mib"] / small["peak_mib"],
        "resume_40k_seconds": reopened,
        "peak_mib": {"rows": small["peak_mib"], "many": large["peak_mib"]},
        "targets": TARGETS,
        "settings": asdict(settings),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    lines = [f"{'':24}{'measured':>10}{'target':>10}"]
    lines += [f"{name:24}{result[name]:>10.3g}{target:>10g}" for name, target in result["targets"].items()]
    return "\n".join(lines)


def _child(folder: Path, rows: int, settings: DataSettings) -> dict[str, float]:
    """Make a ledger in one process and run over it in another."""
    for step in ("make", "drive"):
        command = [
            sys.executable,
            "-m",
            "look_again.bench.data_costs",
            step,
            str(folder),
            str(rows),
            str(settings.concurrency),
        ]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said)


def _reopened(folder: Path) -> float:
    """Seconds from a finished ledger, some of whose rows are taken back, to the first item that is left."""
    with Ledger(folder) as ledger:
        ledger.apply([(f"DELETE FROM results WHERE n > (SELECT max(n) FROM results) - {LEFT}", ())])
    start = time.perf_counter()
    with Ledger(folder) as ledger:
        ledger.begin("again")
        ledger.spent()
        left = counts(ledger, KEY)["pending"]
        next(pending(ledger, KEY))
        assert left == LEFT
        return time.perf_counter() - start


def make(folder: Path, rows: int) -> None:
    """A run with that many rows, and images in files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(IMAGES):
        render(make_sample("train", 0, index).scene).save(folder / f"{index}.png")
    with Ledger(folder) as ledger:
        add_rows(ledger, _rows(folder, rows), "bench")


def _rows(folder: Path, rows: int) -> Iterator[Sample]:
    response = make_sample("train", 0, 0).written.text
    for index in range(rows):
        image = folder / f"{index % IMAGES}.png"
        yield Sample(id=f"row-{index}", images=(image,), question="How many?", response=response, source="bench")


def drive(folder: Path, concurrency: int) -> dict[str, float]:
    """One stage over a run; rows per second, and the peak of this process's memory in MiB."""
    endpoint = Endpoint(name="bench", base_url="bench:", model="bench", concurrency=concurrency)

    async def work(item: WorkItem, chat: Chat) -> Outcome:
        reply = await chat.ask("bench", "", item.row.prompt, item.row.images)
        return Outcome(output={"response": reply.text})

    async def go(ledger: Ledger) -> float:
        async with open_chat_client(ledger, [EndpointState(endpoint, InProcessTransport(_answer))], "bench") as client:
            start = time.perf_counter()
            report = await run_stage(client, PipelineStage(KEY, work=work), workers=2 * concurrency)
            assert report.ok == report.items
            return report.items / (time.perf_counter() - start)

    with Ledger(folder) as ledger:
        speed = asyncio.run(go(ledger))
    return {"rows_per_second": speed, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """The peak of this program's resident memory. Where the system says it: `ru_maxrss` counts the parent's, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def _answer(body: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
    choice = {"message": {"content": "four"}, "finish_reason": "stop"}
    return 200, {}, {"choices": [choice], "usage": {"prompt_tokens": 300, "completion_tokens": 1}}


if __name__ == "__main__":
    step, folder, rows, concurrency = sys.argv[1:]
    if step == "make":
        make(Path(folder), int(rows))
        print("{}")
    else:
        print(json.dumps(drive(Path(folder), int(concurrency))))
