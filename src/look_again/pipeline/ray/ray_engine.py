"""The same stages under Ray Data, over as many workers and nodes as there are.

The driver has the ledger: it cuts what a stage has to do into tasks, gives their names to a pool of actors, and brings
each finished shard in. Workers see the folder of tasks and shards and the rows' images, which every node must have
under the same path, and the endpoints' keys in their own environment; never the ledger. When a worker is killed Ray
gives its task to another, which goes on from its journal. The paper names no such thing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from look_again.clients.openai import Endpoint, open_transport
from look_again.extras import require
from look_again.pipeline.budget import Budget, BudgetLike
from look_again.pipeline.endpoint_pool import EndpointState
from look_again.pipeline.engine import PipelineStage, StageReport, stage_bar
from look_again.pipeline.ledger.items import counts
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.ledger.merge import Merged, merge_folder, merge_shard
from look_again.pipeline.ledger.shards import ShardError
from look_again.pipeline.ledger.tasks import ROWS, write_tasks
from look_again.pipeline.ray.task_work import Done, divided, work_on
from look_again.pipeline.run_config import RunConfig

OBJECT_STORE = 100 * 2**20  # bytes: only names of files travel
CONNECT_S = 10.0


class RayError(ValueError):
    """Ray cannot be used, or a worker cannot work; the message says why."""


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """address: of a cluster; None takes RAY_ADDRESS, or else starts Ray on this machine. workers: actors, None for one
    per CPU (for a checkpoint that decodes: per GPU, where there are any); never more than an endpoint takes requests
    at once. shard_rows: rows of a shard. folder: of tasks and shards, None for RUN/shards. merge: bring shards in as
    they come; else they are left for `look-again data merge`. cpus, temp: of a Ray started here. ValueError for numbers
    below 1."""

    address: str | None = None
    workers: int | None = None
    shard_rows: int = ROWS
    folder: Path | None = None
    merge: bool = True
    cpus: int | None = None
    temp: Path | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "shard_rows", "cpus"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}: use 1 or more")

    def shards(self, ledger: Ledger) -> Path:
        return (self.folder or ledger.folder / "shards").absolute()


class RemoteBudget:
    """A budget in an actor, as workers see it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    async def take(self, key: str, within_s: float) -> str:
        return str(await self.actor.take.remote(key, within_s))

    def settle(self, key: str, tokens: tuple[int, int] | None = None, money: float = 0.0) -> None:
        self.actor.settle.remote(key, tokens, money)


class Worker:
    """An actor of the pool: does one task after the other, with connections that it keeps."""

    def __init__(self, stage: PipelineStage, endpoints: Sequence[Endpoint], budget: BudgetLike | None) -> None:
        self.stage, self.endpoints, self.budget = stage, endpoints, budget
        self.loop = asyncio.new_event_loop()
        self.states: dict[str, EndpointState] | None = None
        self.stopped = ""

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Do the task that `row` names ({task}); the result is {task, shard, stopped, fault}.

        A fault of the node, its keys or the folder is reported to the driver; our own errors are raised.
        """
        done, fault = Done("", self.stopped), ""
        try:
            if not self.stopped:  # by a spent budget or a wrong key: other tasks would fare no better
                done = self.loop.run_until_complete(self._work(Path(row["task"])))
                self.stopped = done.stopped
        except (ValueError, OSError) as error:
            fault = f"{platform.node()}: {error}"
        return {"task": row["task"], "shard": done.shard, "stopped": done.stopped, "fault": fault}

    async def _work(self, task: Path) -> Done:
        if self.states is None:
            self.states = {
                endpoint.name: EndpointState(endpoint, open_transport(endpoint)) for endpoint in self.endpoints
            }
        return await work_on(task, self.stage, self.states, self.budget)


def run_stages(
    ledger: Ledger, config: RunConfig, stages: Sequence[PipelineStage], options: RayOptions, *, progress: bool = False
) -> Iterator[StageReport]:
    """Run stages one after the other in a Ray that is started or joined here.

    RayError where that fails, MissingExtraError without ray or pyarrow.
    """
    with started(options):
        for stage in stages:
            yield run_stage(ledger, config, stage, options, progress=progress)


def run_stage(
    ledger: Ledger, config: RunConfig, stage: PipelineStage, options: RayOptions, *, progress: bool = False
) -> StageReport:
    """Run a stage over its pending items, in a Ray that is there. Shards that exist come in first and are not made
    again. RayError when a worker cannot work; what was finished stays."""
    folder = options.shards(ledger)
    folder.mkdir(parents=True, exist_ok=True)
    session, outcome, stopped = ledger.begin(f"{stage.name} (ray)"), "failed", ""
    try:
        _merge_existing(ledger, folder, session)
        tasks = write_tasks(ledger, stage.head, folder, session, options.shard_rows, batch=stage.batch_size)
        with stage_bar(ledger, stage, progress) as bar:
            for done in _finished(ledger, config, stage, options, tasks):
                if done["fault"]:
                    raise RayError(f"a worker on {done['fault']}")
                stopped = stopped or done["stopped"]
                merged = Merged()
                if done["shard"] and options.merge:
                    merge_shard(ledger, Path(done["shard"]), session, merged)
                Path(done["task"]).unlink(missing_ok=True)
                bar.update(merged.results)
        outcome = stopped or "done"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        ledger.end(session, outcome)
    return StageReport(stage.name, **counts(ledger, stage.key), stopped=stopped or None)


def _merge_existing(ledger: Ledger, folder: Path, session: int) -> None:
    merged = Merged()
    merge_folder(ledger, folder, session, merged)
    if merged.refused:
        raise ShardError("; ".join(merged.refused) + "; or remove it, and its rows are done again")


def _finished(
    ledger: Ledger, config: RunConfig, stage: PipelineStage, options: RayOptions, tasks: Sequence[Path]
) -> Iterator[dict[str, str]]:
    """What became of each task, in the order in which they end."""
    if not tasks:
        return
    import ray
    import ray.data

    endpoints = [end for end in config.endpoints if end.name in config.asked_by(stage.name)]
    gpus = 1 if stage.batch_work is not None and ray.cluster_resources().get("GPU") else 0
    workers = pool_size(options.workers, ray.cluster_resources(), endpoints, len(tasks), per_gpu=bool(gpus))
    budget = None
    if config.budget.limited:
        budget = RemoteBudget(ray.remote(num_cpus=0)(Budget).remote(config.budget, ledger.spent()))
    names = [{"task": str(task)} for task in tasks]
    actor: Any = Worker
    results = ray.data.from_items(names, override_num_blocks=len(names)).map(
        actor,
        fn_constructor_args=(stage, divided(endpoints, workers), budget),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
    )
    yield from results.iter_rows()


def pool_size(
    requested: int | None, resources: dict[str, float], endpoints: Sequence[Endpoint], tasks: int, *, per_gpu: bool
) -> int:
    """The number of workers: as requested, or one per CPU (GPU); never more than tasks or requests of an endpoint."""
    available = int(resources.get("GPU" if per_gpu else "CPU", 1))
    return max(1, min(requested or available, tasks, *(endpoint.concurrency for endpoint in endpoints)))


@contextmanager
def started(options: RayOptions) -> Iterator[None]:
    """Ray, quiet, for as long as this lasts; one that this process has joined before is used and left as it is."""
    require("ray", extra="ray")
    require("pyarrow", extra="ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    check_reachable(address)
    local_options: dict[str, Any] = {
        "num_cpus": options.cpus,
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": False,
        "_temp_dir": str(options.temp) if options.temp else None,
    }
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(local_options if address == "local" else {}),
        )
    except Exception as error:
        raise RayError(f"ray cannot be started or joined at {address}: {' '.join(str(error).split())}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """RayError where nothing listens at a HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise RayError(f"no ray answers at {address}: {error}") from error
