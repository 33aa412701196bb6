"""Shards: what came of a task, as a Parquet file that can be brought into a ledger, here or elsewhere, once.

A row per item: what the stage said of it, and every request made for it with its reply, cost and attempts. A shard is
written under another name and renamed, and its name ends in a hash of its contents, so that one that is cut short,
changed or half copied is never taken for whole. Keys of endpoints are in no request, so they are in no shard.
"""

from __future__ import annotations

import io
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from look_again.extras import require
from look_again.pipeline.contents import as_text, compute_digest, write_once
from look_again.pipeline.ledger.journal import NUMBERS, Journal, journals
from look_again.pipeline.ledger.tasks import Head, read_task

SUFFIX = ".parquet"
VERSION = 1
DIGITS = 16  # of the hash in a name
_RESULT = ("n", "sample", "status", "input", "output", "reason", "at")
_REQUEST = (
    "key", "ask", "endpoint", "model", "prompt", "reply", "answered_by", "tokens_in", "tokens_out", "cost",
)  # fmt: skip
_ATTEMPT = ("id", "sent_at", "ended_at", "outcome")
_WHOLE_NUMBERS = {"n", "sample", "ask", "answered_by", "tokens_in", "tokens_out", "id"}
_NUMBERS = {"at", "cost", "sent_at", "ended_at"}


class ShardError(ValueError):
    """A file that is no whole shard."""


@dataclass(frozen=True)
class Shard:
    """head: the stage. records: a mapping per item, its requests under "requests", their attempts under "attempts".
    "status" is None for an item that was begun and not finished."""

    head: Head
    records: list[dict[str, Any]]

    @property
    def digest(self) -> str:
        return compute_digest(as_text([VERSION, self.head.as_dict(), self.records]))[:DIGITS]


def find_shard(task: Path) -> Path | None:
    """The task's shard, where one was finished."""
    return next(iter(sorted(task.parent.glob(f"{task.stem}.*{SUFFIX}"))), None)


def list_shards(folder: Path) -> list[Path]:
    """All shards of a folder, in order."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def parse_digest(path: Path) -> str:
    """The hash that a shard's name ends in."""
    return path.stem.rpartition(".")[2]


def finish(task: Path, journal: Journal) -> Path | None:
    """Write what the journal holds as the task's shard, then remove its journals; None where nothing was done."""
    given = read_task(task)
    shard = Shard(given.head, _records(journal, given.inputs))
    path = None
    if shard.records:
        path = task.parent / f"{task.stem}.{journal.number:02d}.{shard.digest}{SUFFIX}"
        write_shard(path, shard)
    clear(task)
    return path


def clear(task: Path) -> None:
    """Remove the journals of a task whose shard is on the disk."""
    for journal in journals(task):
        journal.unlink(missing_ok=True)


def salvage(folder: Path) -> int:
    """Make shards of what killed workers left, and remove their tasks; how many. Only while no worker is at work."""
    finished = 0
    for draft in [*folder.glob("*.task.*"), *folder.glob(f"*{SUFFIX}.*")]:
        draft.unlink()
    for path in sorted(folder.glob("*.task")):
        if find_shard(path) is None and journals(path):
            with Journal(path, read_task(path)) as journal:
                journal.begin("salvage")  # what was under way is marked as interrupted
                finished += finish(path, journal) is not None
        clear(path)
        path.unlink()
    return finished


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard; it is on the disk, under its name, when this returns. MissingExtraError without pyarrow."""
    require("pyarrow", extra="ray")
    import pyarrow
    from pyarrow import parquet

    header = json.dumps({"version": VERSION, "head": shard.head.as_dict()})
    schema = pyarrow.schema(_schema(), metadata={"look_again": header})
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(shard.records, schema), file)
    write_once(path, file.getvalue())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_shard(path: Path) -> Shard:
    """ShardError for a file that is not whole, or not what its name says. MissingExtraError without pyarrow."""
    require("pyarrow", extra="ray")
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, partitioning=None)
        header = json.loads(table.schema.metadata[b"look_again"])
        shard = Shard(Head.of(header["head"]), table.to_pylist())
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path} is no whole shard ({' '.join(str(error).split())[:200]}): copy it again") from error
    if header["version"] != VERSION:
        raise ShardError(f"{path} is a shard of version {header['version']}; this is version {VERSION}")
    if shard.digest != parse_digest(path):
        raise ShardError(f"{path} does not hold what its name says: copy it again, under its own name")
    return shard


def _records(journal: Journal, inputs: Mapping[tuple[int, int], str]) -> list[dict[str, Any]]:
    """What was done for the task, by item; requests of earlier sessions are in the ledger and left out."""
    attempts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key, *attempt in journal.read(
        f"SELECT key, {', '.join(_ATTEMPT)} FROM attempts WHERE id > ? ORDER BY id", [NUMBERS]
    ):
        attempts[key].append(dict(zip(_ATTEMPT, attempt, strict=True)))
    records: dict[tuple[int, int], dict[str, Any]] = {}
    for values in journal.read(f"SELECT {', '.join(_RESULT)} FROM results"):
        record = dict(zip(_RESULT, values, strict=True))
        records[record["n"], record["sample"]] = {**record, "requests": []}
    for n, sample, *request in journal.read(f"SELECT n, sample, {', '.join(_REQUEST)} FROM requests ORDER BY key"):
        fields = dict(zip(_REQUEST, request, strict=True))
        if fields["key"] in attempts:
            identity = {"n": n, "sample": sample, "input": inputs[n, sample], "requests": []}
            nothing = {**dict.fromkeys(_RESULT), **identity}
            record = records.setdefault((n, sample), nothing)
            record["requests"].append({**fields, "attempts": attempts[fields["key"]]})
    return [records[key] for key in sorted(records)]


def _schema() -> list[Any]:
    import pyarrow

    def fields(names: tuple[str, ...]) -> list[tuple[str, Any]]:
        return [(name, _type(name)) for name in names]

    attempts = pyarrow.list_(pyarrow.struct(fields(_ATTEMPT)))
    requests = pyarrow.list_(pyarrow.struct([*fields(_REQUEST), ("attempts", attempts)]))
    return [pyarrow.field(name, kind) for name, kind in [*fields(_RESULT), ("requests", requests)]]


def _type(name: str) -> Any:
    import pyarrow

    if name in _WHOLE_NUMBERS:
        return pyarrow.int64()
    return pyarrow.float64() if name in _NUMBERS else pyarrow.string()
