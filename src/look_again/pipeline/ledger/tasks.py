"""Tasks: what a worker without the ledger is given, some tens of items and all that is known of them, in a file.

With the items go the requests that were made for them before, so that a reply that is in the ledger is not asked for
again. Tasks, journals and shards of a run lie in one folder that every node sees:

    0003-00012-1f2e3d4c.task            the items, written before a worker starts
    0003-00012-1f2e3d4c.01.journal      what the first worker did with them (`journal`); .02 where that one was killed
    0003-00012-1f2e3d4c.01.….parquet    the finished shard (`shards`)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from look_again.pipeline.contents import as_text, compute_digest, restore_sample, store_sample, write_once
from look_again.pipeline.ledger.items import StageKey, WorkItem, pending
from look_again.pipeline.ledger.ledger import Ledger

ROWS = 50  # of a shard: what is done again where a worker is killed while it decodes
SUFFIX = ".task"
REQUEST = "key, stage, n, sample, ask, endpoint, model, prompt, reply, tokens_in, tokens_out, cost"


class TaskError(ValueError):
    """A task that a worker cannot read."""


@dataclass(frozen=True)
class Head:
    """The stage that tasks and shards are of: its place, and the stages whose results go with an item that ends."""

    key: StageKey
    later: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"place": asdict(self.key), "later": self.later}

    @staticmethod
    def of(values: dict[str, Any]) -> Head:
        return Head(StageKey(**values["place"]), tuple(values["later"]))


@dataclass(frozen=True)
class Task:
    """head: the stage. items: each as JSON. known: rows of the ledger's requests, in the order of REQUEST. attempts:
    how often those without a reply have gone out, by key."""

    head: Head
    items: Sequence[dict[str, Any]]
    known: Sequence[Sequence[Any]] = ()
    attempts: dict[str, int] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[tuple[int, int], str]:
        """The name of each item's input, by row and sample."""
        return {(item["n"], item["sample"]): item["input"] for item in self.items}

    def read_items(self) -> Iterator[WorkItem]:
        """The items. Images are read where the run has them."""
        for item in self.items:
            row = restore_sample(item["content"], Path())
            yield WorkItem(item["n"], item["sample"], row, item["output"], item["input"])


def write_tasks(
    ledger: Ledger, head: Head, folder: Path, session: int, rows: int = ROWS, *, batch: int | None = None
) -> list[Path]:
    """Cut a stage's pending items into tasks of `rows` items, in order; their files.

    A stage that works in batches of `batch` items gets whole ones, the same that it would get without tasks. Names
    begin with the session's number, so none comes twice in a run.
    """
    size = rows if batch is None else -(-rows // batch) * batch
    items, paths = pending(ledger, head.key, page=size), list[Path]()
    while part := list(islice(items, size)):
        task = _task(ledger, head, part)
        name = f"{session:04d}-{len(paths):05d}-{compute_digest(as_text([item.input for item in part]))[:8]}"
        paths.append(folder / f"{name}{SUFFIX}")
        write_once(paths[-1], json.dumps({**vars(task), "head": task.head.as_dict()}).encode())
    return paths


def read_task(path: Path) -> Task:
    """TaskError for a file that is not there, as on a node that does not see the run's folder, or cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Task(**{**values, "head": Head.of(values["head"])})
    except OSError as error:
        raise TaskError(f"{path} cannot be read ({error.strerror}): every node has to see this folder") from error
    except (ValueError, TypeError, KeyError) as error:
        raise TaskError(f"{path} is no task: {error}") from error


def _task(ledger: Ledger, head: Head, part: Sequence[WorkItem]) -> Task:
    items = [
        {
            "n": item.n,
            "sample": item.sample,
            "input": item.input,
            "content": store_sample(item.row, ledger.folder),
            "output": item.output,
        }
        for item in part
    ]
    positions = {(item.n, item.sample) for item in part}
    requests = ledger.read(
        f"SELECT {REQUEST} FROM requests WHERE stage = ? AND n BETWEEN ? AND ?",
        [head.key.stage, part[0].n, part[-1].n],
    )
    known = [request for request in requests if (request[2], request[3]) in positions]
    attempts = {request[0]: ledger.attempts(request[0]) for request in known if request[8] is None}
    return Task(head, items, known, attempts)
