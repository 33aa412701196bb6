"""An answer while it comes, from a backend's events: the one state that the page shows and what is measured afterwards.

No page and no model is in here. The paper shows no interface; all of this is ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from look_again.core.families import Grid
from look_again.core.generate import Reflection, Reinsertion, Token
from look_again.core.reattention import Reattention
from look_again.core.slots import Slots
from look_again.serving.backend import BackendEvent, Ended, Started
from look_again.text.chat import decode_text

Status = Literal["waiting", "reading", "writing", "done", "stopped", "failed"]
LONGEST_PIECE = 16  # tokens that a character may be spread over, and more

SKIPPED = {
    "context": "the context is full",
    "max_reinsertions": "it has looked again as often as it may",
    "max_new_tokens": "no tokens are left",
    "no image": "there is no image",
    "nothing sampled": "no token was sampled before, so there is no attention to rank by",
}


@dataclass(frozen=True)
class DecodedAnswer:
    """A decoded answer, to be measured: its ids, its re-insertions, and the sequence (see `Started.slots`)."""

    ids: tuple[int, ...]
    reinsertions: tuple[Reflection, ...]
    slots: Callable[[], Slots]


class TokenTexts:
    """The text of tokens as they come: `text`, and per token the number of characters once it is written (`ends`).

    A character in several tokens counts at the last of them, as in analysis.sections; special tokens add none.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.ends: list[int] = []
        self.text = ""
        self._start = 0  # ids before it make whole characters

    def add(self, token_id: int) -> None:
        self.ids.append(token_id)
        text = decode_text(self.tokenizer, self.ids[self._start :])
        if text.endswith("\ufffd") and len(self.ids) - self._start < LONGEST_PIECE:
            self.ends.append(len(self.text))
            return
        self.text += text
        self.ends.append(len(self.text))
        self._start = len(self.ids)


@dataclass
class Transcript:
    """One answer under one policy.

    grid: of the image's visual tokens, None without an image. message: why it failed. reinsertions:
    all that was put back so far. seconds: from the question to the last event. key: of the kept answer, "" before.
    """

    policy: Reattention
    texts: TokenTexts
    grid: Grid | None = None
    status: Status = "waiting"
    message: str = ""
    slots: Callable[[], Slots] | None = None
    reinsertions: list[Reflection] = field(default_factory=list)
    ended: Ended | None = None
    seconds: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    key: str = ""

    @property
    def running(self) -> bool:
        return self.status in ("waiting", "reading", "writing")

    def take(self, event: BackendEvent) -> None:
        """The next event. Events after the end, and those of other sequences, are mistakes of a backend."""
        assert self.running, f"{event} after the answer was {self.status}"
        self.seconds = time.monotonic() - self.begun
        if isinstance(event, Started):
            self.status, self.slots = "reading", event.slots
        elif isinstance(event, Token):
            self.status = "writing"
            self.texts.add(event.token_id)
        elif isinstance(event, Reinsertion):
            self.reinsertions.append(event.reflection)
        else:
            self.status, self.ended = "done", event

    def fail(self, message: str) -> None:
        """It goes no further, and why; what came so far stays."""
        if self.running:
            self.status, self.message = "failed", message

    def stop(self) -> None:
        """Stopped by hand."""
        if self.running:
            self.status = "stopped"

    def why_not(self, tokens: int) -> str:
        """Why nothing was put back at a reflection whose tag is response token number `tokens`; "" where not known."""
        if self.policy.mode == "text":
            return "text-only reflection puts nothing back"
        if not self.policy.inserts:
            return "0% are kept: nothing is put back"
        known = self.ended.reflections if self.ended else ()
        reasons = [SKIPPED.get(r.skipped, r.skipped) for r in known if r.at == tokens and r.skipped]
        return f"did not look again: {reasons[0]}" if reasons else ""

    def token_at(self, place: int) -> int:
        """Index of the token that writes the character at `place` of the text."""
        return next((i for i, end in enumerate(self.texts.ends) if end > place), len(self.texts.ends))

    def decoded(self) -> DecodedAnswer | None:
        """What can be read again, None while it runs and where nothing came."""
        if self.running or not self.texts.ids or self.slots is None:
            return None
        ids = tuple(self.texts.ids)
        return DecodedAnswer(
            ids,
            tuple(
                reflection for reflection in self.reinsertions if reflection.visual_indices and reflection.at < len(ids)
            ),
            self.slots,
        )


def build_policy(mode: str, keep: int, layout: str | None = None, trained: Reattention | None = None) -> Reattention:
    """The page's policies: those of the checkpoint's training but for mode, keep and ROUTE's layout.

    layout: None leaves it to `trained`; trained: None stands for the defaults. ValueError for other modes.
    """
    base = trained or Reattention()
    if mode != "route":
        return replace(base, mode=mode, keep=Reattention.keep)
    return replace(base, mode=mode, keep=keep, layout=layout or base.layout)


def count_kept(reflection: Reflection, grid: Grid | None) -> tuple[int, int]:
    """How many of an image's visual tokens a reflection put back, of how many."""
    frames, rows, columns = grid or (0, 0, 0)
    return reflection.reinserted_tokens, frames * rows * columns


def find_row_runs(rows: Sequence[int], columns: int) -> list[tuple[int, int, int]]:
    """Patches (ascending indices of a grid) as horizontal runs (row, first column, patches)."""
    runs: list[tuple[int, int, int]] = []
    for row, column in (divmod(index, columns) for index in rows):
        if runs and runs[-1][0] == row and runs[-1][1] + runs[-1][2] == column:
            runs[-1] = (row, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((row, column, 1))
    return runs
