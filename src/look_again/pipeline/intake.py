"""Rows come into a run: each once, in order, the unusable ones with the reason why.

A row is known by where it came from and its place there, so that reading the same source again adds nothing; a source
whose rows changed under a run is refused, because finished work would belong to rows that are no longer there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from look_again.data.checks import Needs, check_sample
from look_again.data.loaders import load_samples
from look_again.data.sample import BadSample, Sample
from look_again.data.source import Source
from look_again.images import ImageError
from look_again.pipeline.contents import as_text, compute_digest, store_sample
from look_again.pipeline.ledger.ledger import Ledger, LedgerError, Op
from look_again.text.unicode import storable

BATCH_ROWS = 500  # of a transaction
NEEDS = Needs(needs_response=False, min_reflections=0, decode=False)  # what cannot be decoded ends at its first stage


@dataclass
class Intake:
    """What came in: rows that are new to the run, of these the refused ones, and those that were there already."""

    new: int = 0
    refused: int = 0
    known: int = 0


def read_source(source: Source) -> Iterator[Sample | BadSample]:
    """A source's rows, and in their places the ones that it could not give."""
    skipped: list[BadSample] = []
    for row in load_samples(source, on_skip=skipped.append):
        yield from skipped
        skipped.clear()
        yield row
    yield from skipped


def add_rows(ledger: Ledger, rows: Iterable[Sample | BadSample], origin: str) -> Intake:
    """Take rows in. A refused one (bad image, no question, an id that is taken) stays in the ledger with its reason.

    Raises LedgerError when a place of `origin` holds another row than before, LedgerFullError when the disk is full.
    """
    intake, ops = Intake(), list[Op]()
    known = dict(ledger.read("SELECT position, digest FROM rows WHERE origin = ?", [origin]))
    taken = {row_id for (row_id,) in ledger.read("SELECT id FROM rows WHERE verdict = 'ok'")}
    for position, row in enumerate(rows):
        content, reason = _content(ledger, row)
        digest = compute_digest(content or as_text([row.id, reason]))
        if position in known:
            _check_same(known[position], digest, row.id, origin)
            intake.known += 1
            continue
        reason = reason or _fault(row, taken)
        if reason is None:
            taken.add(row.id)
        intake.new += 1
        intake.refused += reason is not None
        ops.append(_op(origin, position, row.id, reason, digest, content))
        if len(ops) == BATCH_ROWS:
            ledger.apply(ops)
            ops = []
    ledger.apply(ops)
    return intake


def add_source(ledger: Ledger, source: Source, *, again: bool = False) -> Intake:
    """Take a source's rows in; one that was read to its end before is not read `again` unless asked for."""
    origin = as_text({"loader": source.loader, "path": source.path, "split": source.split, "name": source.name})
    fact = f"read {compute_digest(as_text(vars(source)))}"
    if not again and (before := ledger.fact(fact)) is not None:
        return Intake(known=int(before))
    intake = add_rows(ledger, read_source(source), origin)
    ledger.set_fact(fact, str(intake.new + intake.known))
    return intake


def _content(ledger: Ledger, row: Sample | BadSample) -> tuple[str | None, str | None]:
    """The row as text, or why there is none."""
    if isinstance(row, BadSample):
        return None, row.reason
    try:
        return as_text(store_sample(row, ledger.folder)), None
    except ImageError as error:
        return None, str(error)


def _fault(row: Sample | BadSample, taken: set[str]) -> str | None:
    """What is wrong with a new row."""
    assert isinstance(row, Sample)
    if row.id in taken:
        return f"the id {row.id!r} occurs twice in this run: give every row its own"
    return "; ".join(check_sample(row, NEEDS)) or None


def _check_same(before: str, now: str, row_id: str, origin: str) -> None:
    if before != now:
        raise LedgerError(f"row {row_id!r} of {origin} is not what it was when this run began: start another run")


def _op(origin: str, position: int, row_id: str, reason: str | None, digest: str, content: str | None) -> Op:
    verdict = "ok" if reason is None else "refused"
    stored_reason = None if reason is None else storable(reason)
    values = (origin, position, storable(row_id), verdict, stored_reason, digest, content)
    return (
        "INSERT INTO rows (origin, position, id, verdict, reason, digest, content) VALUES (?, ?, ?, ?, ?, ?, ?)",
        values,
    )
