"""What a page stored for each browser: files that came from it or were sent to it, and the windows that are open there.

A browser is known by a cookie that cannot be guessed. A file value in a request names a path of this machine; it is
taken only where this server stored that very file for that browser. Gradio's own check does not run for mounted pages.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

COOKIE = "look_again_page"
SESSIONS, FILES, WINDOWS = 2_000, 1_000, 200  # kept: browsers, files of one, windows of one; the oldest are forgotten
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{43}")


class PageSession:
    """One browser. identifier: the value of its cookie. files: of all browsers, by these."""

    def __init__(self, identifier: str, files: OrderedDict[str, OrderedDict[str, None]]) -> None:
        self.identifier, self._files = identifier, files

    def store(self, path: str) -> None:
        """A file was stored for this browser."""
        own = self._files.setdefault(self.identifier, OrderedDict())
        self._files.move_to_end(self.identifier)
        own[_resolve(path) or ""] = None
        while len(own) > FILES:
            own.popitem(last=False)
        while len(self._files) > SESSIONS:
            self._files.popitem(last=False)

    def has(self, path: str) -> bool:
        """Whether the file that a path leads to was stored for this browser."""
        resolved = _resolve(path)
        return resolved is not None and resolved in self._files.get(self.identifier, ())

    def store_uploads(self, answer: Any) -> None:
        """The files of an upload, from the answer to it: their paths."""
        for path in answer if isinstance(answer, list) else ():
            self.store(str(path))

    def store_all(self, value: Any) -> None:
        """The files that a value sent to the browser names."""
        for path in find_paths(value):
            self.store(path)


class PageSessions:
    """All browsers of a page, and which of them a window belongs to."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._windows: OrderedDict[str, str] = OrderedDict()

    def open(self, headers: Mapping[str, str]) -> tuple[PageSession, bool]:
        """The session of a request, and whether the browser has to be told its cookie.

        Nothing is kept of one that has no files: requests of strangers push out nobody's.
        """
        known = _read_cookie(headers.get("cookie", ""))
        if known is not None and known in self._files:
            self._files.move_to_end(known)
        return PageSession(known or secrets.token_urlsafe(32), self._files), known is None

    def claim(self, window: str, session: PageSession) -> bool:
        """Whether a window (Gradio's session hash) is this browser's: the first to use one has it."""
        owner = self._windows.setdefault(window, session.identifier)
        self._windows.move_to_end(window)
        while len(self._windows) > SESSIONS * WINDOWS:
            self._windows.popitem(last=False)
        return owner == session.identifier


def build_cookie(session: PageSession) -> str:
    """The header that tells a browser its cookie; sent to this page alone, and not readable by scripts."""
    return f"{COOKIE}={session.identifier}; Path=/; HttpOnly; SameSite=Strict"


def find_paths(value: Any) -> Iterator[str]:
    """Every path that a value of JSON names, however deep it lies."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if isinstance(item.get("path"), str):
                yield item["path"]
            pending += item.values()
        elif isinstance(item, list):
            pending += item


def _resolve(path: str) -> str | None:
    """The file that a path leads to, links followed; None for what is no path."""
    try:
        return str(Path(path).resolve()) if path.startswith("/") else None
    except (OSError, ValueError, RuntimeError):
        return None


def _read_cookie(header: str) -> str | None:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None and _IDENTIFIER.fullmatch(morsel.value) else None
