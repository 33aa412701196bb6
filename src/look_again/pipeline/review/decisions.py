"""People look (paper, "The pipeline", 1 and 4): rows are claimed, accepted, rejected or edited, and undone.

Every decision is appended with reviewer, time and a hash that covers the one before, so that a changed or missing one
shows. Each reviewer is handed an equal share and no row goes to two. A decision belongs to what was looked at: when a
row's answer changes afterwards it has to be looked at again. Pages, imports and scripts all go through these functions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from look_again.pipeline.chat_client import Chat
from look_again.pipeline.contents import as_text, compute_digest, restore_sample
from look_again.pipeline.engine import PipelineStage, Work
from look_again.pipeline.ledger.items import WAITING, Outcome, StageKey, WorkItem, result_ops
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.stages.chat_stage import faults
from look_again.text.grammar import parse

NAME = "review"
WHICH = ("all", "rewritten", "none")
ACTIONS = ("accept", "reject", "edit")
FOR_A_PERSON = "waits for a reviewer"
_LAST_STANDING = (
    "action != 'undo' AND NOT EXISTS (SELECT 1 FROM decisions u WHERE u.undoes = d.id) ORDER BY id DESC LIMIT 1"
)


AFTER_THE_LAST = 2**62  # the number of a row that comes after all


class ReviewError(ValueError):
    """A decision that cannot be taken: the message says why."""


def stage(ledger: Ledger, after: str, *, which: str = "all", later: tuple[str, ...] = ()) -> PipelineStage:
    """The stage after `after`: rows that people have decided on go on or end; the others wait.

    which: "all", "rewritten" (the others pass as they are) or "none". ValueError for another.
    """
    if which not in WHICH:
        raise ValueError(f"which is {which!r}: use one of {', '.join(WHICH)}")
    version = compute_digest(as_text([which]))[:12]
    return PipelineStage(StageKey(NAME, version, after), work=_work(ledger, which), later=later)


def _work(ledger: Ledger, which: str) -> Work:
    async def work(item: WorkItem, chat: Chat) -> Outcome:
        if which == "none" or (which == "rewritten" and not item.output.get("rewritten")):
            return Outcome(output={"response": item.response, "reviewed": False})
        decision = standing(ledger, item.n, item.sample, item.input)
        return build_outcome(item, decision)

    return work


@dataclass(frozen=True)
class Decision:
    """One decision as it was appended. `input` names what was looked at; undoes: the decision that it takes back."""

    id: int
    n: int
    sample: int
    input: str
    reviewer: str
    action: str
    response: str | None
    note: str
    undoes: int | None
    at: float
    hash: str


def build_outcome(item: WorkItem, decision: Decision | None) -> Outcome:
    """What a decision makes of an item; "shown" is the response that was looked at."""
    shown = {"shown": item.response}
    if decision is None:
        return Outcome.waiting(FOR_A_PERSON, **shown)
    if decision.action == "reject":
        why = f": {decision.note}" if decision.note else ""
        return Outcome.bad(f"rejected by {decision.reviewer}{why}", **shown)
    response = decision.response if decision.action == "edit" else item.response
    return Outcome(output={"response": response, "reviewed": True, "action": decision.action, **shown})


def shown_item(ledger: Ledger, n: int, sample: int) -> WorkItem:
    """An item under review, with the response to look at. ReviewError when it is not among the reviewed ones."""
    if n == AFTER_THE_LAST:
        raise ReviewError("no row is shown: there is nothing to decide")
    rows = ledger.read(
        "SELECT rows.content, r.output, r.input FROM results r JOIN rows USING (n) "
        "WHERE r.stage = ? AND r.n = ? AND r.sample = ?",
        [NAME, n, sample],
    )
    if not rows or "shown" not in (output := json.loads(rows[0][1])):
        raise ReviewError(f"row {n}, sample {sample}, is not under review")
    row = restore_sample(json.loads(rows[0][0]), ledger.folder)
    return WorkItem(n, sample, row, {"response": output["shown"]}, rows[0][2])


def claim(ledger: Ledger, reviewer: str, reviewers: Sequence[str]) -> WorkItem | None:
    """The next row for a reviewer: one claimed and not decided yet, else a new one; None when the share is done.

    A share is the rows under review divided by the reviewers, rounded up. ReviewError for a reviewer who is not listed.
    """
    if reviewer not in reviewers:
        raise ReviewError(f"{reviewer!r} is not one of the reviewers: {', '.join(reviewers)}")
    open_rows = f"FROM results r WHERE r.stage = '{NAME}' AND r.status = '{WAITING}'"
    claimed = "EXISTS (SELECT 1 FROM claims c WHERE c.n = r.n AND c.sample = r.sample AND c.reviewer = ?)"
    mine = f"SELECT r.n, r.sample {open_rows} AND {claimed}"
    if claimed_rows := ledger.read(f"{mine} ORDER BY r.n, r.sample LIMIT 1", [reviewer]):
        return shown_item(ledger, *claimed_rows[0])
    # One statement, so that two processes cannot take the same row or more than a share.
    total = f"(SELECT count(*) FROM claims) + (SELECT count(*) {open_rows} AND {_UNCLAIMED})"
    limit = f"({total} + {len(reviewers)} - 1) / {len(reviewers)}"
    take = (
        f"INSERT INTO claims SELECT r.n, r.sample, ?, ? {open_rows} AND {_UNCLAIMED} "
        f"AND (SELECT count(*) FROM claims WHERE reviewer = ?) < {limit} ORDER BY r.n, r.sample LIMIT 1"
    )
    ledger.apply([(take, (reviewer, time.time(), reviewer))])
    claimed_rows = ledger.read(f"{mine} ORDER BY r.n, r.sample LIMIT 1", [reviewer])
    return shown_item(ledger, *claimed_rows[0]) if claimed_rows else None


_UNCLAIMED = "NOT EXISTS (SELECT 1 FROM claims c WHERE c.n = r.n AND c.sample = r.sample)"


def shares(ledger: Ledger, reviewers: Sequence[str]) -> dict[str, dict[str, int]]:
    """Per reviewer: rows claimed, and of these decided."""
    rows = ledger.read(
        "SELECT c.reviewer, count(*), sum(coalesce(r.status, '') NOT IN ('', 'waiting')) FROM claims c "
        f"LEFT JOIN results r ON r.stage = '{NAME}' AND r.n = c.n AND r.sample = c.sample GROUP BY c.reviewer"
    )
    counted = {reviewer: {"claimed": claimed, "decided": decided or 0} for reviewer, claimed, decided in rows}
    return {reviewer: counted.get(reviewer, {"claimed": 0, "decided": 0}) for reviewer in (*reviewers, *counted)}


def decide(
    ledger: Ledger,
    item: WorkItem,
    reviewer: str,
    action: str,
    *,
    response: str | None = None,
    note: str = "",
    later: Sequence[str] = ("build",),
) -> Decision:
    """Append a decision on an item and let the item go on or end.

    Raises ReviewError for an unknown action, an item that somebody else holds, one that changed since it was shown or
    was decided already, and an edit that breaks the grammar.
    """
    if action not in ACTIONS:
        raise ReviewError(f"{action!r} is no decision: use one of {', '.join(ACTIONS)}")
    if (action == "edit") != (response is not None):
        raise ReviewError("an edit comes with the new response, and nothing else does")
    if response is not None and (problems := faults(parse(response))):
        raise ReviewError(f"the edited response breaks the grammar: {problems}")
    _check_open(ledger, item, reviewer)
    return _append(ledger, item, reviewer, action, response, note, None, later)


def undo(ledger: Ledger, reviewer: str, later: Sequence[str] = ("build",)) -> WorkItem:
    """Take back a reviewer's last decision that still stands; its item is theirs to decide again. ReviewError: none."""
    rows = ledger.read(f"SELECT * FROM decisions d WHERE reviewer = ? AND {_LAST_STANDING}", [reviewer])
    if not rows:
        raise ReviewError(f"{reviewer} has no decision to take back")
    last = Decision(*rows[0])
    item = shown_item(ledger, last.n, last.sample)
    _append(ledger, item, reviewer, "undo", None, "", last.id, later)
    return shown_item(ledger, last.n, last.sample)


def list_decisions(ledger: Ledger) -> list[Decision]:
    """All of them, in order."""
    return [Decision(*row) for row in ledger.read("SELECT * FROM decisions ORDER BY id")]


def standing(ledger: Ledger, n: int, sample: int, given: str) -> Decision | None:
    """The decision on an item as it is now: the last one on this input that was not taken back."""
    query = f"SELECT * FROM decisions d WHERE n = ? AND sample = ? AND input = ? AND {_LAST_STANDING}"
    rows = ledger.read(query, [n, sample, given])
    return Decision(*rows[0]) if rows else None


def broken_links(ledger: Ledger) -> list[int]:
    """Ids of decisions whose hash does not follow from what they hold and from the one before; [] in a sound ledger."""
    before, broken = "", []
    for decision in list_decisions(ledger):
        values = {name: value for name, value in vars(decision).items() if name not in ("id", "hash")}
        if decision.hash != _hash(before, values):
            broken.append(decision.id)
        before = decision.hash
    return broken


def _check_open(ledger: Ledger, item: WorkItem, reviewer: str) -> None:
    now = shown_item(ledger, item.n, item.sample)
    if now.input != item.input:
        raise ReviewError(f"row {item.row.id!r} has changed since it was shown: look at it again")
    holder = ledger.read("SELECT reviewer FROM claims WHERE n = ? AND sample = ?", [item.n, item.sample])
    if holder and holder[0][0] != reviewer:
        raise ReviewError(f"row {item.row.id!r} is {holder[0][0]}'s to decide")
    if standing(ledger, item.n, item.sample, item.input) is not None:
        raise ReviewError(f"row {item.row.id!r} is decided already: take that back first")


def _append(
    ledger: Ledger,
    item: WorkItem,
    reviewer: str,
    action: str,
    response: str | None,
    note: str,
    undoes: int | None,
    later: Sequence[str],
) -> Decision:
    """One transaction: the decision, the claim, and the item's result."""
    last = ledger.read("SELECT id, hash FROM decisions ORDER BY id DESC LIMIT 1")
    number, before = (last[0][0] + 1, last[0][1]) if last else (1, "")
    values: dict[str, Any] = {
        "n": item.n, "sample": item.sample, "input": item.input, "reviewer": reviewer, "action": action,
        "response": response, "note": note, "undoes": undoes, "at": time.time(),
    }  # fmt: skip
    decision = Decision(number, **values, hash=_hash(before, values))
    outcome = build_outcome(item, None if action == "undo" else decision)
    marks = ", ".join("?" * len(vars(decision)))
    ledger.apply(  # the number is a key: of two that append at once, one is told so and nothing of it is kept
        [
            (f"INSERT INTO decisions VALUES ({marks})", tuple(vars(decision).values())),
            ("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?)", (item.n, item.sample, reviewer, decision.at)),
            *result_ops(StageKey(NAME, ""), item, outcome, later),
        ]
    )
    return decision


def _hash(before: str, values: dict[str, Any]) -> str:
    return compute_digest(before + as_text(values))
