"""Shards come into the ledger, each once.

A shard is one transaction, and the ledger remembers its hash. Its parts are known by themselves, too: a request by its
key, an attempt by its key and time, a result by the row and what the stage before said of it. So shards that overlap,
as those of two workers that took each other for dead, double nothing, and a result that the ledger no longer asks for
replaces none that counts. Replies are kept in any case: they are paid for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from look_again.pipeline.ledger.items import Outcome, pending_inputs, record_ops
from look_again.pipeline.ledger.ledger import Ledger, Op
from look_again.pipeline.ledger.shards import Shard, ShardError, list_shards, parse_digest, read_shard, salvage

FACT = "shard "
MANY = 500  # values of a query
_KNOWN = ("key", "ask", "endpoint", "model", "prompt")
_ATTEMPT = ("sent_at", "ended_at", "outcome")


@dataclass
class Merged:
    """shards: brought in now. known: that were there before. results, requests, attempts: new in the ledger. outdated:
    results that it has, or no longer asks for. refused: files that are no whole shards of this run, and why."""

    shards: int = 0
    known: int = 0
    results: int = 0
    requests: int = 0
    attempts: int = 0
    outdated: int = 0
    refused: list[str] = field(default_factory=list)


def merge(ledger: Ledger, folders: Sequence[Path]) -> Merged:
    """Bring in all shards of some folders, and first what killed workers left there.

    LedgerError while another process works on the run.
    """
    session = ledger.begin("merge")
    outcome = "failed"
    try:
        merged = Merged()
        for folder in folders:
            merge_folder(ledger, folder, session, merged)
        outcome = "done"
        return merged
    finally:
        ledger.end(session, outcome)


def merge_folder(ledger: Ledger, folder: Path, session: int, merged: Merged) -> None:
    """Bring in the shards of one folder, in a session that has begun. Refused files are named, others brought in."""
    salvage(folder)
    for path in list_shards(folder):
        try:
            merge_shard(ledger, path, session, merged)
        except ShardError as error:
            merged.refused.append(str(error))


def merge_shard(ledger: Ledger, path: Path, session: int, merged: Merged) -> None:
    """Bring in one shard. ShardError for one that is not whole, or of another run."""
    fact = FACT + parse_digest(path)
    if ledger.fact(fact) is not None:
        merged.known += 1
        return
    shard = read_shard(path)
    _check_rows(ledger, path, shard)
    parts = _NewParts(ledger, shard, session)
    ops = [*parts.results(merged), *parts.requests(merged)]
    ledger.apply([*ops, ("INSERT INTO facts VALUES (?, ?)", (fact, path.name))])
    merged.shards += 1


def _check_rows(ledger: Ledger, path: Path, shard: Shard) -> None:
    """ShardError unless the shard's rows are the ledger's, each under its number."""
    digests = _by_number(ledger, "SELECT n, digest FROM rows WHERE n IN", [record["n"] for record in shard.records])
    for record in shard.records:
        _, digest, _ = record["input"].split(":")
        if digests.get(record["n"]) != digest:
            raise ShardError(f"{path} is of another run: its row {record['n']} is not the one of {ledger.folder}")


class _NewParts:
    """What of a shard is new to the ledger, as statements."""

    def __init__(self, ledger: Ledger, shard: Shard, session: int) -> None:
        self.shard, self.session = shard, session
        numbers = [record["n"] for record in shard.records]
        self.pending_inputs = pending_inputs(ledger, shard.head.key, min(numbers), max(numbers))
        keys = [request["key"] for record in shard.records for request in record["requests"]]
        self.answered = _by_number(ledger, "SELECT key, reply IS NOT NULL FROM requests WHERE key IN", keys)
        self.sent = {
            (key, at): number
            for number, (key, at) in _by_number(
                ledger, "SELECT id, key, sent_at FROM attempts WHERE key IN", keys
            ).items()
        }
        self.last_attempt = ledger.last_attempt()

    def results(self, merged: Merged) -> list[Op]:
        ops: list[Op] = []
        key, later = self.shard.head.key, self.shard.head.later
        for record in self.shard.records:
            of = (record["n"], record["sample"])
            if record["status"] is None:
                continue
            if self.pending_inputs.get(of) != record["input"]:
                merged.outdated += 1
                continue
            outcome = Outcome(record["status"], json.loads(record["output"]), record["reason"])
            ops += record_ops(key.stage, of, record["input"], outcome, record["at"], later)
            merged.results += 1
        return ops

    def requests(self, merged: Merged) -> list[Op]:
        ops: list[Op] = []
        for record in self.shard.records:
            for request in record["requests"]:
                ops += self._request(record, request, merged)
        return ops

    def _request(self, record: Mapping[str, Any], request: Mapping[str, Any], merged: Merged) -> list[Op]:
        key, ask, *about = (request[name] for name in _KNOWN)
        values = (key, self.shard.head.key.stage, record["n"], record["sample"], ask, *about)
        ops: list[Op] = [
            ("INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL, NULL)", values)
        ]
        merged.requests += key not in self.answered
        numbers: dict[int, int] = {}
        for attempt in request["attempts"]:
            sent = (key, attempt["sent_at"])
            if sent not in self.sent:
                self.last_attempt += 1
                self.sent[sent] = self.last_attempt
                values = (self.last_attempt, key, self.session, *(attempt[name] for name in _ATTEMPT))
                ops.append(("INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?)", values))
                merged.attempts += 1
            numbers[attempt["id"]] = self.sent[sent]
        if request["reply"] is not None and not self.answered.get(key):
            cost = (request["tokens_in"], request["tokens_out"], request["cost"])
            ops.append(
                (
                    "UPDATE requests SET reply = ?, answered_by = ?, tokens_in = ?, tokens_out = ?, cost = ? "
                    "WHERE key = ?",
                    (request["reply"], numbers[request["answered_by"]], *cost, key),
                )
            )
        return ops


def _by_number(ledger: Ledger, select: str, values: Sequence[Any]) -> dict[Any, Any]:
    """What a SELECT finds for some values: its first column, and the rest of the row."""
    values_by_number: dict[Any, Any] = {}
    for at in range(0, len(values), MANY):
        part = values[at : at + MANY]
        for first, *rest in ledger.read(f"{select} ({', '.join('?' * len(part))})", part):
            values_by_number[first] = rest[0] if len(rest) == 1 else tuple(rest)
    return values_by_number
