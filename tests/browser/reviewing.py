"""The review page's server on a run of the data engine, and a reviewer's window, for the tests of that page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review.decisions import broken_links, list_decisions
from tests.browser.windows import Server, Window

ROWS = 12
RECIPE = f"""
flow: distilled
sources: [{{loader: tabletop, path: "3:{ROWS}", split: test}}]
endpoints:
  - {{name: model, base_url: "tabletop:?error=0.5", model: tabletop-model}}
  - {{name: judge-1, base_url: "tabletop:?error=0.1", model: tabletop-judge-1}}
  - {{name: judge-2, base_url: "tabletop:?error=0.1", model: tabletop-judge-2}}
  - {{name: judge-3, base_url: "tabletop:?error=0.1", model: tabletop-judge-3}}
  - {{name: judge-4, base_url: "tabletop:?error=0.1", model: tabletop-judge-4}}
  - {{name: writer, base_url: "tabletop:", model: tabletop-writer}}
distil: {{model: model}}
panel: {{judges: [judge-1, judge-2, judge-3, judge-4]}}
writer: writer
reviewers: [ann, bob]
"""
ANSWERED = "before => document.querySelector('[data-turn]').dataset.turn !== before"
READY = "html:not(.la-waiting) [data-turn]"  # keys do nothing until an answer has been on the screen for a moment


class ReviewServer(Server):
    """`look-again data review` on a run."""

    def __init__(self, run: Path, *arguments: str, **environment: str) -> None:
        self.run = run
        super().__init__(run.with_suffix(".log"), "data", "review", str(run), *arguments, **environment)

    def of(self, reviewer: str) -> str:
        """The page's address for a reviewer."""
        return f"{self.url}/?reviewer={reviewer}"

    def decided(self) -> list[tuple[str, str, str]]:
        """Reviewer, action and row of every decision, in order; their chain of hashes is checked."""
        with Ledger(self.run, create=False) as ledger:
            assert broken_links(ledger) == []
            names = dict(ledger.read("SELECT n, id FROM rows"))
            return [(decision.reviewer, decision.action, names[decision.n]) for decision in list_decisions(ledger)]


class Reviewer(Window):
    """A reviewer's window."""

    def row(self) -> str:
        """The row on the page, "" when the share is done."""
        self.page.wait_for_selector("[data-turn]")
        found = self.page.locator(".la-row b")
        return found.inner_text() if found.count() else ""

    def press(self, *keys: str) -> None:
        """Each key, and then wait for the page to answer it and to take the next."""
        for key in keys:
            before = self.state()
            self.page.keyboard.press(key)
            self.answered(before)

    def click(self, name: str) -> None:
        """A button, and then wait for the page's answer."""
        before = self.state()
        self.page.click(f"#la-{name}")
        self.answered(before)

    def state(self) -> str:
        """What names the page's last answer, once it takes keys."""
        return self.page.wait_for_selector(READY).get_attribute("data-turn") or ""

    def answered(self, before: str) -> None:
        """Waits until the page shows another turn than `before`, and takes keys."""
        self.page.wait_for_function(ANSWERED, arg=before)
        self.page.wait_for_selector(READY)

    @property
    def editor(self) -> Any:
        return self.page.locator("#la-editor textarea")
