"""A server of the review page, and a reviewer's window in a real Chromium, for the tests beside this file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Browser, Page, expect

LAPTOP = {"width": 1366, "height": 768}
PATIENCE_S = 120.0
FIGURE_BYTES = 200_000
ANSWERED = "before => document.querySelector('[data-turn]').dataset.turn !== before"


class Server:
    """`lookagain data review` in a process of its own."""

    def __init__(self, run: Path, *arguments: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.run, self.arguments = f"http://127.0.0.1:{self.port}", run, arguments
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self.log = run.with_suffix(".log")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "lookagain", "data", "review", str(self.run), "--port", str(self.port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen([*command, *self.arguments], env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return urlopen(self.url, timeout=5).status == 200
        except (URLError, TimeoutError, ConnectionError):
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Window:
    """A reviewer's browser window. What it asks for elsewhere, errors and dialogs are errors of the test."""

    def __init__(self, browser: Browser, url: str, scheme: Any = "light") -> None:
        self.context = browser.new_context(viewport=LAPTOP, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_S * 1000)
        self.faults: list[str] = []
        home = url.split("?")[0].rstrip("/")
        self.page.on("request", lambda r: r.url.startswith((home, "data:", "blob:")) or self.faults.append(r.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(dialog.message), dialog.dismiss()))
        self.page.goto(url, wait_until="domcontentloaded")

    def see(self, text: str) -> None:
        expect(self.page.locator("body")).to_contain_text(text, timeout=PATIENCE_S * 1000)

    def row(self) -> str:
        """The row on the page, "" when the share is done."""
        self.page.wait_for_selector("[data-turn]")
        found = self.page.locator(".la-row b")
        return found.inner_text() if found.count() else ""

    def press(self, *keys: str) -> None:
        """Each key, and then wait for the page to answer it and to take the next."""
        for key in keys:
            before = self.turn()
            self.page.keyboard.press(key)
            self.answered(before)
            self.page.wait_for_timeout(300)

    def turn(self) -> str:
        self.page.wait_for_selector("[data-turn]")
        self.page.wait_for_timeout(300)
        return self.page.locator("[data-turn]").get_attribute("data-turn") or ""

    def answered(self, before: str) -> None:
        """Waits until the page shows another turn than `before`."""
        self.page.wait_for_function(ANSWERED, arg=before)

    @property
    def editor(self) -> Any:
        return self.page.locator("#la-editor textarea")

    def figure(self, name: str) -> None:
        """A picture of the window for the documentation."""
        folder = os.environ.get("LOOKAGAIN_FIGURES")
        if folder is None:
            return
        path = Path(folder) / f"review-{name}.png"
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=path)
        with Image.open(path) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        assert path.stat().st_size < FIGURE_BYTES
