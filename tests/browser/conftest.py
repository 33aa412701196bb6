"""What the tests of the pages share: one Chromium, windows in it, and servers of both pages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.asking import Asker, write_endless_checkpoint
from tests.browser.reviewing import RECIPE, ReviewServer
from tests.browser.windows import Server, Window, chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Without Chromium every test fails."""
    try:
        found = chromium()
    except ValueError as error:
        pytest.fail(str(error))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[Callable[..., Any]]:
    """Opens windows, of a page's own `kind` where it has one; afterwards none of them may have a fault."""
    windows: list[Window] = []

    def opened(url: str, kind: type[Window] = Window, **options: Any) -> Window:
        windows.append(kind(browser, url, **options))
        return windows[-1]

    yield opened
    faults = [fault for one in windows for fault in one.faults]
    for one in windows:
        one.context.close()
    assert faults == []


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page of the shipped model."""
    started = Server(tmp_path_factory.mktemp("ui") / "ui.log", "ui", "--device", "cpu")
    yield started
    started.close()


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page of a model that never ends by itself and says of no small world that it knows that alone."""
    folder = tmp_path_factory.mktemp("endless")
    checkpoint = write_endless_checkpoint(folder / "checkpoint")
    started = Server(folder / "ui.log", "ui", "--device", "cpu", "--model", str(checkpoint))
    yield started
    started.close()


@pytest.fixture
def asker(window: Callable[..., Any], server: Server) -> Callable[..., Asker]:
    """Opens windows of the shipped model's page, or of another address."""
    return lambda url=server.url, **options: window(url, kind=Asker, **options)


@pytest.fixture(scope="session")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on Tabletop whose rows wait for people; copied for each test."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "run.yaml").write_text(RECIPE)
    arguments = ["data", "run", "--config", str(folder / "run.yaml"), "--run", str(folder / "run")]
    subprocess.run([sys.executable, "-m", "look_again", *arguments], check=True)  # playwright has this thread's loop
    return folder


@pytest.fixture
def review(tmp_path: Path, made_run: Path) -> Iterator[Callable[..., ReviewServer]]:
    """Starts servers of the review page: of a copy of the run on Tabletop, or of another one."""
    servers: list[ReviewServer] = []

    def start(*arguments: str, run: Path | None = None, **environment: str) -> ReviewServer:
        if run is None:
            run = Path(shutil.copytree(made_run / "run", tmp_path / "run"))
            arguments = ("--config", str(made_run / "run.yaml"), *arguments)
        servers.append(ReviewServer(run, *arguments, **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
