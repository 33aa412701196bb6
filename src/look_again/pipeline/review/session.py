"""A review session: what a reviewer does to the row in front of them, and what is to be shown then.

The page, whatever it is made with, only passes on keys and shows states. Every step names the row as it was seen, so
that a key pressed twice, a second window or a row that changed meanwhile is refused and never falls on another row. The
paper says that people check rows in equal shares; how a page does that is ours.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from look_again.pipeline.engine import PipelineStage, StageReport, open_chat_client, run_stage
from look_again.pipeline.ledger.items import WAITING, StageKey, WorkItem, result_ops
from look_again.pipeline.ledger.ledger import Ledger, LedgerError
from look_again.pipeline.review.decisions import (
    AFTER_THE_LAST,
    NAME,
    Decision,
    ReviewError,
    build_outcome,
    claim,
    decide,
    shares,
    shown_item,
    standing,
    undo,
)
from look_again.pipeline.stages import rewrite, verify

TRIES = 5  # of a decision that met another one on its way into the ledger
MAX_CHARACTERS = 100_000  # of an edit or a note
DIGITS = 18  # of a row's and a sample's number together
DECIDED = {"accept": "accepted", "reject": "rejected", "edit": "edited"}
T = TypeVar("T")


class _UnfitTextError(ReviewError):
    """A text that is not kept, not even as a draft."""


@dataclass(frozen=True)
class ItemView:
    """A row as it is shown. decision: the one that stands. before: the response that the writer replaced, None if none
    was. panel: what `verify` said, None without a panel. draft: an edit that was begun and not saved."""

    item: WorkItem
    decision: Decision | None = None
    before: str | None = None
    panel: dict[str, Any] | None = None
    draft: str | None = None

    @property
    def response(self) -> str:
        """The response as decided: the edited one after an edit."""
        edited = self.decision.response if self.decision else None
        return edited if edited is not None else self.item.response or ""

    @property
    def text(self) -> str:
        """What the editor holds."""
        return self.response if self.draft is None else self.draft

    @property
    def edited_from(self) -> str | None:
        """The response that an edit replaced."""
        return self.item.response if self.decision and self.decision.action == "edit" else None


@dataclass(frozen=True)
class Progress:
    """Rows: of the reviewer's share, and of these decided."""

    decided: int
    share: int


@dataclass(frozen=True)
class PageState:
    """What to show. view: None when no row is left. said: what the last step did or why it was `refused`. editing:
    whether the editor is open; after a refusal its text is to be left as it is."""

    reviewer: str
    progress: Progress
    view: ItemView | None = None
    message: str = ""
    refused: bool = False
    editing: bool = False

    @property
    def seen(self) -> str:
        return "" if self.view is None else name_seen(self.view.item)


def name_seen(item: WorkItem) -> str:
    """What names an item as it was seen: row, sample, and the hash of the row and of its response."""
    return f"{item.n}/{item.sample}/{item.input}"


@dataclass
class ReviewSession:
    """Reviewers at work on a run, in one process; other processes may work on it too.

    reviewers: all who share the rows. Edits that were begun are kept as long as the process lives.
    """

    ledger: Ledger
    reviewers: Sequence[str]
    later: Sequence[str] = ("build",)
    _drafts: dict[tuple[str, str], str] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def next(self, reviewer: str, message: str = "") -> PageState:
        """The row that the reviewer has to decide: where they left off, else a new one. ReviewError for a stranger."""
        with self._lock:
            while (item := claim(self.ledger, reviewer, self.reviewers)) is not None:
                decision = standing(self.ledger, item.n, item.sample, item.input)
                if decision is None:
                    return self._state(reviewer, item, message)
                # A stage that ran at the moment of the decision has put the row back: the decision holds.
                outcome = build_outcome(item, decision)
                self.ledger.apply(result_ops(StageKey(NAME, ""), item, outcome, self.later))
            return PageState(reviewer, self.progress(reviewer), None, message)

    def act(self, reviewer: str, seen: str, action: str, *, response: str | None = None, note: str = "") -> PageState:
        """Accept, reject or edit the row that was seen, and go on to the next; a refusal stays and says why."""
        try:
            with self._lock:
                item = self._item(reviewer, seen)
                _check_text(note)
                if response is not None:
                    response = _check_text(response.replace("\r\n", "\n"))
                    self._drafts[reviewer, seen] = response
                    if response == item.response:
                        raise ReviewError("nothing is changed: accept the row, or leave the editor")
                self._decide(item, reviewer, action, response, note.strip())
                if action == "edit":
                    self._drafts.pop((reviewer, seen), None)
                return self.next(reviewer, f"{item.row.id}: {DECIDED[action]}")
        except _UnfitTextError as error:
            return self._refused(reviewer, seen, str(error))
        except (ReviewError, LedgerError) as error:
            return self._refused(reviewer, seen, str(error), draft=response)

    def undo(self, reviewer: str, seen: str) -> PageState:
        """Take back the reviewer's last decision, and show its row."""
        try:
            with self._lock:
                item = self._again(lambda: undo(self.ledger, reviewer, self.later))
                return self._state(reviewer, item, f"{item.row.id}: the decision is taken back")
        except (ReviewError, LedgerError) as error:
            return self._refused(reviewer, seen, str(error))

    def browse(self, reviewer: str, seen: str, step: int) -> PageState:
        """The reviewer's row before (step -1) or after (+1) the one that was seen."""
        try:
            with self._lock:
                position = self._neighbour(reviewer, _parse_seen(seen), step)
                if position is None and (step > 0 or not seen):
                    return self.next(reviewer)
                shown = self._item(reviewer, seen) if position is None else shown_item(self.ledger, *position)
                state = self._state(reviewer, shown)
                return replace(state, message="" if position else "this is your first row")
        except ReviewError as error:
            return self._refused(reviewer, seen, str(error))

    def edit(self, reviewer: str, seen: str) -> PageState:
        """The row that was seen with the editor open, in it what was begun earlier."""
        try:
            item = self._item(reviewer, seen)
            if standing(self.ledger, item.n, item.sample, item.input) is not None:
                raise ReviewError(f"row {item.row.id!r} is decided already: take that back first")
            if name_seen(self._now(item)) != seen:
                raise ReviewError(f"row {item.row.id!r} has changed since it was shown: look at it again")
            return replace(self._state(reviewer, item), editing=True)
        except ReviewError as error:
            return self._refused(reviewer, seen, str(error))

    def leave(self, reviewer: str, seen: str) -> PageState:
        """The row without the editor; what was begun is kept."""
        try:
            state = self._state(reviewer, self._item(reviewer, seen))
        except ReviewError as error:
            return self._refused(reviewer, seen, str(error))
        kept = state.view is not None and state.view.draft is not None
        return replace(
            state, editing=False, message="your edit is not saved, but kept: e goes on with it" if kept else ""
        )

    def reset(self, reviewer: str, seen: str) -> PageState:
        """The editor with the response as it was shown; what was begun is dropped."""
        self._drafts.pop((reviewer, seen), None)
        return self.edit(reviewer, seen)

    def keep(self, reviewer: str, seen: str, text: str) -> PageState:
        """Remember an edit that was begun, so that a reload brings it back."""
        try:
            item = self._item(reviewer, seen)
            if name_seen(self._now(item)) != seen:
                raise ReviewError(f"row {item.row.id!r} has changed since it was shown: look at it again")
            if text == item.response:
                self._drafts.pop((reviewer, seen), None)
            else:
                self._drafts[reviewer, seen] = _check_text(text)
            return replace(self._state(reviewer, item), editing=True)
        except ReviewError as error:
            return self._refused(reviewer, seen, str(error))

    def progress(self, reviewer: str) -> Progress:
        """The progress of a reviewer."""
        counted = shares(self.ledger, self.reviewers)
        own = counted[reviewer]
        free = self.ledger.read(
            "SELECT count(*) FROM results r WHERE r.stage = ? AND r.status = ? AND NOT EXISTS "
            "(SELECT 1 FROM claims c WHERE c.n = r.n AND c.sample = r.sample)",
            [NAME, WAITING],
        )[0][0]
        total = free + sum(share["claimed"] for share in counted.values())
        fair = -(-total // len(self.reviewers))
        return Progress(own["decided"], max(own["claimed"], min(fair, own["claimed"] + free)))

    def _decide(self, item: WorkItem, reviewer: str, action: str, response: str | None, note: str) -> None:
        self._again(lambda: decide(self.ledger, item, reviewer, action, response=response, note=note, later=self.later))

    def _again(self, step: Callable[[], T]) -> T:
        """Do it; again when another process wrote a decision at the same moment, which takes the number of ours."""
        for attempt in range(TRIES):
            before = self._last()
            try:
                return step()
            except LedgerError:
                if self._last() == before or attempt == TRIES - 1:
                    raise
        raise AssertionError

    def _last(self) -> int:
        return int(self.ledger.read("SELECT coalesce(max(id), 0) FROM decisions")[0][0])

    def _item(self, reviewer: str, seen: str) -> WorkItem:
        """The item that was seen, under the hash that it was seen with. ReviewError for one that is not theirs."""
        item = self._own_item(reviewer, seen)
        return replace(item, input=seen.split("/", 2)[2])

    def _own_item(self, reviewer: str, seen: str) -> WorkItem:
        """The item as it is now. ReviewError for one that was not handed to the reviewer."""
        n, sample = _parse_seen(seen)
        item = shown_item(self.ledger, n, sample)
        holder = self.ledger.read("SELECT reviewer FROM claims WHERE n = ? AND sample = ?", [n, sample])
        if not holder or holder[0][0] != reviewer:
            reason = f"is {holder[0][0]}'s to decide" if holder else "was not handed to you yet"
            raise ReviewError(f"row {item.row.id!r} {reason}")
        return item

    def _now(self, item: WorkItem) -> WorkItem:
        return shown_item(self.ledger, item.n, item.sample)

    def _state(self, reviewer: str, item: WorkItem, message: str = "") -> PageState:
        view = load_view(self.ledger, item)
        draft = self._drafts.get((reviewer, name_seen(item))) if view.decision is None else None
        return PageState(
            reviewer, self.progress(reviewer), replace(view, draft=draft), message, editing=draft is not None
        )

    def _refused(self, reviewer: str, seen: str, reason: str, *, draft: str | None = None) -> PageState:
        """The row as it is now, with the reason. draft: an edit that is refused; it stays open for another try."""
        try:
            state = self._state(reviewer, self._own_item(reviewer, seen))
        except ReviewError:  # it is no longer there, or another's
            draft, state = None, self.next(reviewer)
        if draft is None or state.view is None or state.view.decision is not None:
            return replace(state, message=reason, refused=True, editing=False)
        self._drafts[reviewer, state.seen] = draft
        return replace(state, view=replace(state.view, draft=draft), message=reason, refused=True, editing=True)

    def _neighbour(self, reviewer: str, position: tuple[int, int], step: int) -> tuple[int, int] | None:
        sign, order = (">", "ASC") if step > 0 else ("<", "DESC")
        rows = self.ledger.read(
            f"SELECT c.n, c.sample FROM claims c JOIN results r ON r.stage = '{NAME}' AND r.n = c.n "
            f"AND r.sample = c.sample WHERE c.reviewer = ? AND r.output LIKE '%\"shown\"%' "
            f"AND (c.n, c.sample) {sign} (?, ?) ORDER BY c.n {order}, c.sample {order} LIMIT 1",
            [reviewer, *position],
        )
        return (rows[0][0], rows[0][1]) if rows else None


def take_over(ledger: Ledger, stage: PipelineStage) -> StageReport:
    """Run the review stage: rows that have come since wait for people, and decisions that stand count.

    LedgerError while another process works on the run.
    """

    async def go() -> StageReport:
        async with open_chat_client(ledger, [], NAME) as client:
            return await run_stage(client, stage, workers=1)

    return asyncio.run(go())


def load_view(ledger: Ledger, item: WorkItem) -> ItemView:
    """An item with all that is known of it."""
    outputs = {
        stage: json.loads(output)
        for stage, output in ledger.read(
            "SELECT stage, output FROM results WHERE n = ? AND sample = ? AND stage IN (?, ?)",
            [item.n, item.sample, verify.NAME, rewrite.NAME],
        )
    }
    written = outputs.get(rewrite.NAME, {})
    before = written.get("before") if written.get("rewritten") else None
    return ItemView(item, standing(ledger, item.n, item.sample, item.input), before, outputs.get(verify.NAME))


def _check_text(text: str) -> str:
    """The text. _UnfitTextError for one that is too long to keep, or that cannot be written."""
    if len(text) > MAX_CHARACTERS:
        raise _UnfitTextError(f"the text has {len(text)} characters; at most {MAX_CHARACTERS} are kept")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _UnfitTextError("the text holds half a surrogate pair, which is no character") from None
    return text


def _parse_seen(seen: str) -> tuple[int, int]:
    """Row and sample; after the last row for "" (nothing was seen). ReviewError for anything else."""
    if not seen:
        return AFTER_THE_LAST, 0
    n, _, rest = seen.partition("/")
    sample, separator, _ = rest.partition("/")
    if not (separator and n.isdecimal() and sample.isdecimal() and len(n + sample) <= DIGITS):
        raise ReviewError(f"{seen[:40]!r} names no row")
    return int(n), int(sample)
