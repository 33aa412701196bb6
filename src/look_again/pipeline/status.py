"""What `data status` shows: progress, spend, rates, agreement between judges, flags, all read from the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from look_again.pipeline.engine import PipelineStage
from look_again.pipeline.ledger.items import counts
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.stages import verify
from look_again.pipeline.stages.agreement import agreement

REASONS = 5  # named per stage
RECENT_S = 300.0  # over which rates are taken
REASON_CHARACTERS = 160


_OUTCOME = (
    "CASE WHEN outcome IS NULL THEN 'under way' WHEN outcome LIKE 'status %' THEN substr(outcome, 1, 10) "
    "WHEN outcome IN ('ok', 'interrupted') THEN outcome WHEN outcome LIKE 'no reply within%' THEN 'timed out' "
    "ELSE 'failed' END"
)


def status(ledger: Ledger, stages: Sequence[PipelineStage]) -> dict[str, Any]:
    """Everything, as JSON. Per stage, items = ok + bad + waiting + pending."""
    spent = ledger.spent()
    return {
        "rows": dict(_pairs(ledger, "SELECT verdict, count(*) FROM rows GROUP BY verdict ORDER BY verdict")),
        "refused": _reasons(ledger, "SELECT reason, count(*) FROM rows WHERE verdict = 'refused'"),
        "stages": {stage.name: counts(ledger, stage.key) | _why(ledger, stage) for stage in stages},
        "spent": {
            "replies": spent.replies,
            "tokens_in": spent.tokens_in,
            "tokens_out": spent.tokens_out,
            "money": spent.money,
        },
        "endpoints": endpoints(ledger),
        "panel": panel(ledger),
        "requests": ledger.audit(),
        "sessions": len(ledger.read("SELECT id FROM sessions")),
    }


def endpoints(ledger: Ledger, now: float | None = None) -> dict[str, dict[str, Any]]:
    """Per endpoint: requests, replies, attempts by outcome, tokens, money, and recent replies per second."""
    since = (time.time() if now is None else now) - RECENT_S
    totals = ledger.read(
        "SELECT endpoint, count(*), count(reply), coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0), "
        "coalesce(sum(cost), 0) FROM requests GROUP BY endpoint ORDER BY endpoint"
    )
    names = ("requests", "replies", "tokens_in", "tokens_out", "money")
    by_endpoint: dict[str, dict[str, Any]] = {
        endpoint: dict(zip(names, values, strict=True)) for endpoint, *values in totals
    }
    tries = (
        f"SELECT endpoint, {_OUTCOME} AS kind, count(*) FROM attempts JOIN requests USING (key) GROUP BY endpoint, kind"
    )
    for endpoint, kind, count in ledger.read(tries):
        by_endpoint[endpoint].setdefault("attempts", {})[kind] = count
    recent = (
        "SELECT endpoint, count(*), min(ended_at), max(ended_at) FROM attempts JOIN requests USING (key) "
        "WHERE outcome = 'ok' AND ended_at > ? GROUP BY endpoint"
    )
    for endpoint, count, first, last in ledger.read(recent, [since]):
        by_endpoint[endpoint]["replies_per_second"] = round((count - 1) / (last - first), 2) if last > first else None
    return by_endpoint


def panel(ledger: Ledger) -> dict[str, Any] | None:
    """Rows judged and flagged, why, and how the judges agree; None before any verdict."""
    rows = flagged = by_format = 0
    votes: list[dict[str, bool]] = []
    for output in _outputs(ledger, verify.NAME):
        rows += 1
        flagged += output["flagged"]
        by_format += bool(output["format"])
        objections = {verdict["judge"]: verify.objects(verdict) for verdict in output["verdicts"]}
        votes.append({judge: objects for judge, objects in objections.items() if objects is not None})
    if not rows:
        return None
    judged = [vote for vote in votes if vote]
    return {
        "rows": rows,
        "flagged": flagged,
        "flag_rate": flagged / rows,
        "flagged_by_format": by_format,
        **agreement(judged),
    }


def _outputs(ledger: Ledger, stage: str) -> Iterator[dict[str, Any]]:
    at = (-1, -1)
    page = (
        "SELECT n, sample, output FROM results WHERE stage = ? AND status = 'ok' AND (n, sample) > (?, ?) "
        "ORDER BY n, sample LIMIT 500"
    )
    while page_rows := ledger.read(page, [stage, *at]):
        at = page_rows[-1][:2]
        yield from (json.loads(output) for _, _, output in page_rows)


def _why(ledger: Ledger, stage: PipelineStage) -> dict[str, Any]:
    """The commonest reasons of rows that ended or wait here."""
    query = "SELECT reason, count(*) FROM results WHERE stage = ? AND status != 'ok'"
    return {"reasons": _reasons(ledger, query, [stage.name])}


def _reasons(ledger: Ledger, query: str, values: Sequence[Any] = ()) -> dict[str, int]:
    counts = _pairs(
        ledger, f"{query} GROUP BY substr(reason, 1, 60) ORDER BY count(*) DESC, reason LIMIT {REASONS}", values
    )
    return {str(reason)[:REASON_CHARACTERS]: count for reason, count in counts}


def _pairs(ledger: Ledger, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, Any]]:
    return [(name, count) for name, count in ledger.read(query, values)]
