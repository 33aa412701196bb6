"""What a stage works on and what comes of it: work items and outcomes, and how both are stored in the ledger.

A work item is a row of the ledger and the number of an answer to it (`sample`). A stage's result names the version of
the stage and the digests of the row and of the output of the stage before; when any of them changes the result no
longer counts and is made again. What did not change is left alone, so another prompt or judge makes new work only for
what depends on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from look_again.data.sample import Sample
from look_again.pipeline.contents import as_text, compute_digest, restore_sample
from look_again.pipeline.ledger.ledger import Ledger, Op
from look_again.text.unicode import storable

OK, BAD, WAITING = "ok", "bad", "waiting"
PAGE = 200  # items read at once

# The items that a stage has to look at, in order: those without a result, with one that waits, or an outdated one.
_FIRST = """
WITH RECURSIVE k(sample) AS (SELECT 0 UNION ALL SELECT sample + 1 FROM k WHERE sample + 1 < :samples),
up AS (SELECT n, sample, '{}' AS output, '' AS digest FROM rows CROSS JOIN k WHERE verdict = 'ok')"""
_LATER = "WITH up AS (SELECT n, sample, output, digest FROM results WHERE stage = :after AND status = 'ok')"
_JOINED = """
FROM up JOIN rows USING (n) LEFT JOIN results r ON r.stage = :stage AND r.n = up.n AND r.sample = up.sample"""
_CURRENT = "r.input IS :version || ':' || rows.digest || ':' || up.digest"
_PENDING = f"(r.status IS NULL OR r.status = 'waiting' OR NOT ({_CURRENT}))"


@dataclass(frozen=True)
class StageKey:
    """The identity of a stage: its name, its version, the stage before it (None: it starts from the rows) and the
    number of samples per row."""

    stage: str
    version: str
    after: str | None = None
    samples: int = 1

    @property
    def query(self) -> str:
        return (_LATER if self.after else _FIRST) + " "

    @property
    def values(self) -> dict[str, Any]:
        return {"stage": self.stage, "version": self.version, "after": self.after, "samples": self.samples}


@dataclass(frozen=True)
class WorkItem:
    """A row of the ledger with its sample, the number of an answer to it, and the state that a stage starts from.

    n: number of the row. sample: number of the answer. row: the sample of data. output: of the stage before. input: the
    name of all of that.
    """

    n: int
    sample: int
    row: Sample
    output: dict[str, Any]
    input: str

    @property
    def response(self) -> str | None:
        """The response so far: that of the last stage, or else the row's own."""
        return self.output.get("response", self.row.response)


@dataclass(frozen=True)
class Outcome:
    """The result of a stage on an item.

    status: "ok" (goes on), "bad" (ends here, `reason` says why) or "waiting" (for a person or an endpoint).
    """

    status: str = OK
    output: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None

    @staticmethod
    def bad(reason: str, **output: Any) -> Outcome:
        return Outcome(BAD, output, reason)

    @staticmethod
    def waiting(reason: str, **output: Any) -> Outcome:
        return Outcome(WAITING, output, reason)


def pending(ledger: Ledger, key: StageKey, page: int = PAGE) -> Iterator[WorkItem]:
    """Pending items in the order of rows and samples, a page in memory at a time."""
    select = "SELECT up.n, up.sample, rows.content, up.output, :version || ':' || rows.digest || ':' || up.digest"
    where = f"WHERE {_PENDING} AND (up.n, up.sample) > (:n, :sample) ORDER BY up.n, up.sample LIMIT :page"
    at = (-1, -1)
    while page_rows := ledger.read(
        f"{key.query}{select}{_JOINED} {where}", key.values | {"n": at[0], "sample": at[1], "page": page}
    ):
        for n, sample, content, output, given in page_rows:
            at = (n, sample)
            yield WorkItem(n, sample, restore_sample(json.loads(content), ledger.folder), json.loads(output), given)


def pending_inputs(ledger: Ledger, key: StageKey, first: int, last: int) -> dict[tuple[int, int], str]:
    """The pending items of the rows from `first` to `last`, each with the name of its input."""
    select = "SELECT up.n, up.sample, :version || ':' || rows.digest || ':' || up.digest"
    where = f"WHERE {_PENDING} AND up.n BETWEEN :first AND :last"
    page_rows = ledger.read(f"{key.query}{select}{_JOINED} {where}", key.values | {"first": first, "last": last})
    return {(n, sample): given for n, sample, given in page_rows}


def results(
    ledger: Ledger, key: StageKey, status: str = OK, page: int = PAGE
) -> Iterator[tuple[WorkItem, dict[str, Any]]]:
    """Items whose result has this status and still counts, each with the stage's output."""
    select = "SELECT up.n, up.sample, rows.content, up.output, r.input, r.output"
    where = f"WHERE r.status = :status AND {_CURRENT} AND (up.n, up.sample) > (:n, :sample)"
    order = "ORDER BY up.n, up.sample LIMIT :page"
    at = (-1, -1)
    while page_rows := ledger.read(
        f"{key.query}{select}{_JOINED} {where} {order}",
        key.values | {"n": at[0], "sample": at[1], "page": page, "status": status},
    ):
        for n, sample, content, output, given, result_output in page_rows:
            at = (n, sample)
            row = restore_sample(json.loads(content), ledger.folder)
            yield WorkItem(n, sample, row, json.loads(output), given), json.loads(result_output)


def counts(ledger: Ledger, key: StageKey) -> dict[str, int]:
    """Numbers of the items that the stage gets, by their state: items = ok + bad + waiting + pending."""
    state = f"CASE WHEN r.status IS NULL OR NOT ({_CURRENT}) THEN 'pending' ELSE r.status END"
    query = f"{key.query}SELECT {state} AS state, count(*) {_JOINED} GROUP BY state"
    by_state: dict[str, int] = dict(ledger.read(query, key.values))
    return {"items": sum(by_state.values()), **{name: by_state.get(name, 0) for name in (OK, BAD, WAITING, "pending")}}


def result_ops(key: StageKey, item: WorkItem, outcome: Outcome, later: Sequence[str] = ()) -> list[Op]:
    """Statements that write a result; where the item does not go on, its results of `later` stages are deleted."""
    return record_ops(key.stage, (item.n, item.sample), item.input, outcome, time.time(), later)


def record_ops(
    stage: str, of: tuple[int, int], given: str, outcome: Outcome, at: float, later: Sequence[str]
) -> list[Op]:
    """What writes a result of another time. of: the numbers of row and sample. given: the name of the input."""
    output = as_text(outcome.output)
    reason = None if outcome.reason is None else storable(outcome.reason)
    values = (stage, *of, outcome.status, given, compute_digest(output), output, reason, at)
    ops: list[Op] = [("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)]
    if outcome.status != OK:
        delete = "DELETE FROM results WHERE stage = ? AND n = ? AND sample = ?"
        ops += [(delete, (name, *of)) for name in later]
    return ops


def with_output(item: WorkItem, **output: Any) -> WorkItem:
    """The item with further output."""
    return replace(item, output=item.output | output)
