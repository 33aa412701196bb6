"""Somebody who asks on the page of `look-again ui`, and a model that never ends by itself."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from playwright.sync_api import Locator, expect

from look_again.loading import default_checkpoint
from look_again.ui.page import COMING
from tests.browser.windows import PATIENCE_S, Window

MODES = ("text", "copy", "route")


class Asker(Window):
    """Somebody who asks."""

    def rest(self) -> None:
        """Wait until the page has all that it shows unasked."""
        self.page.wait_for_selector("#la-picture img")
        expect(self.page.locator("#la-intro")).not_to_contain_text(COMING, timeout=PATIENCE_S * 1000)
        for article in self.page.locator(".la-answer").all():
            self.measured(article.get_attribute("data-mode") or "")

    def choose(self, scene: int) -> None:
        self.rest()
        chosen = self.page.locator(".la-scene").nth(scene)
        question = re.compile(re.escape(chosen.get_attribute("title") or "none"))
        chosen.click()
        expect(self.page.locator("#la-question textarea")).to_have_value(question, timeout=PATIENCE_S * 1000)
        self.page.wait_for_selector("#la-picture img")

    def take_away_the_picture(self) -> None:
        self.rest()
        self.page.locator("#la-picture .icon-button-wrapper button").last.click()
        expect(self.page.locator("#la-picture img")).to_have_count(0, timeout=PATIENCE_S * 1000)

    def upload(self, path: Path) -> None:
        self.take_away_the_picture()
        self.page.locator("#la-picture input[type=file]").set_input_files(path)
        self.page.wait_for_selector("#la-picture img")

    def ask(self, scene: int | None = None, *, modes: str = "Text COPY ROUTE") -> None:
        """Ask, and wait until all is answered and measured."""
        self.rest()
        if scene is not None:
            self.choose(scene)
        for name in ("Text", "COPY", "ROUTE"):
            self.page.get_by_label(name, exact=True).set_checked(name in modes.split())
        before = {mode: self.key(mode) for mode in MODES}
        self.page.click("#la-ask")
        for mode in modes.lower().split():
            self.measured(mode, before[mode])

    def part(self, mode: str, name: str) -> Locator:
        return self.page.locator(f"#la-{mode} {name}")

    def measured(self, mode: str, before: str = "") -> None:
        """Wait for an answer's heat; before: the key of an earlier answer, which it is not."""
        self.page.wait_for_selector(f"#la-{mode} .la-done.la-hot:not([data-key='{before}']) .la-scrub:not([hidden])")

    def reading(self, mode: str) -> str:
        return self.part(mode, ".la-reading").inner_text()

    def key(self, mode: str) -> str:
        """Of the answer that is shown now; "" where none is, which an unticked mode may become at any moment."""
        return self.page.evaluate("mode => document.querySelector(`#la-${mode} .la-answer`)?.dataset.key ?? ''", mode)


def write_endless_checkpoint(folder: Path) -> Path:
    """The shipped checkpoint, ended by a token that it never writes, and without the record of the world it knows."""
    shutil.copytree(default_checkpoint(), folder)
    generation, record = folder / "generation_config.json", folder / "look_again.json"
    unwritten = json.loads((folder / "config.json").read_text())["vision_end_token_id"]
    generation.write_text(json.dumps(json.loads(generation.read_text()) | {"eos_token_id": [unwritten]}))
    known = json.loads(record.read_text())
    known.pop("scope")
    record.write_text(json.dumps(known))
    return folder
