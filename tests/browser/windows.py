"""A page's server, and a window on it in a real Chromium: what the tests of every page here stand on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
PATIENCE_S = 180.0  # a machine may have other work
FIGURE_BYTES = 250_000
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
LEAST_CONTRAST = 4.5  # of text against what is behind it (WCAG 2.2, 1.4.3)
FAINT = """least => {
  const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
  const read = colour => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = e => e ? over(read(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
  const light = rgb => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const contrast = e => {
    const ground = behind(e), style = getComputedStyle(e), ink = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(over(read(ink), ground)), light(ground)];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  };
  const words = e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join(' ').trim();
  return [...document.body.querySelectorAll('*')]
    .filter(e => !['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(e.tagName) && e.checkVisibility() && words(e))
    .filter(e => contrast(e) < least).map(e => `${words(e)}: ${contrast(e).toFixed(2)}`);
}"""


def chromium(environment: Mapping[str, str] = os.environ) -> str:
    """The path of Chromium: what $CHROMIUM names, else the system's. ValueError where there is none."""
    names = (environment["CHROMIUM"],) if environment.get("CHROMIUM") else CHROMIUM
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise ValueError(
            f"no Chromium on this machine (looked for {', '.join(names)}): apt-get install chromium, or name it in "
            "$CHROMIUM"
        )
    return found


class Server:
    """A command of `look_again` that serves a page, in a process of its own on a free port."""

    def __init__(self, log: Path, *arguments: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.log, self.arguments = f"http://127.0.0.1:{self.port}", log, arguments
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "look_again", *self.arguments, "--port", str(self.port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return build_opener(ProxyHandler({})).open(self.url, timeout=5).status == 200
        except (URLError, TimeoutError, ConnectionError):
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Ends it; it may not have met an error of its own."""
        self.kill()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()


class Window:
    """A browser window. What it asks for elsewhere, errors and dialogs are `faults`, of which a test may have none."""

    def __init__(self, browser: Browser, url: str, size: Any = None, scheme: Any = "light", **options: Any) -> None:
        self.context = browser.new_context(viewport=size or LAPTOP, color_scheme=scheme, **options)
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

    def within(self, selector: str) -> bool:
        """Whether the first such element lies in the window, whole."""
        box, size = self.page.locator(selector).first.bounding_box(), self.page.viewport_size
        assert box is not None, selector
        assert size is not None
        across = box["x"] >= 0 and box["x"] + box["width"] <= size["width"]
        return across and box["y"] >= 0 and box["y"] + box["height"] <= size["height"]

    def scrolls_sideways(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    def faint(self) -> list[str]:
        """Texts on the page that are hard to read, with their contrast."""
        return list(self.page.evaluate(FAINT, LEAST_CONTRAST))

    def barriers(self) -> list[str]:
        """What axe-core finds serious or critical on the page as it stands."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{rule['id']} ({rule['impact']}): {rule['help']}: {[node['target'] for node in rule['nodes']]}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]

    def figure(self, name: str) -> None:
        """A picture of the window for the documentation, into the folder that $LOOK_AGAIN_FIGURES names."""
        folder = os.environ.get("LOOK_AGAIN_FIGURES")
        if folder is None:
            return
        path = Path(folder) / f"{name}.png"
        self.page.wait_for_timeout(1000)
        self.page.screenshot(path=path)
        with Image.open(path) as image:
            fewer = image.convert("RGB").point(lambda value: round(round(value / 8.5) * 8.5))  # levels, half the bytes
            fewer.save(path, optimize=True)
        assert path.stat().st_size < FIGURE_BYTES
