"""The addresses that a page answers: those of Gradio that its browser side uses, and no others.

Gradio mounts some eighty routes, among them readers of files, a proxy, recordings and an interface for programs. Each
is an entrance that may have a hole, so a page opens what it needs, with the reason beside it. The paper has no pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

LOGIN_BYTES = 2**14  # of the form with name and password


@dataclass(frozen=True)
class PageRoute:
    """path: whole, or the beginning of what may follow where it ends in `*`. form_bytes: most bytes of a form sent
    there; 0 takes JSON alone.
    """

    method: str
    path: str
    reason: str
    form_bytes: int = 0

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is for it; HEAD counts as GET."""
        if ("GET" if method == "HEAD" else method) != self.method:
            return False
        return path.startswith(self.path[:-1]) if self.path.endswith("*") else path == self.path


PAGE_ROUTES = (
    PageRoute("GET", "/", "the page"),
    PageRoute("GET", "/config", "its components"),
    PageRoute("GET", "/assets/*", "Gradio's scripts and styles"),
    PageRoute("GET", "/static/*", "Gradio's images and fonts"),
    PageRoute("GET", "/svelte/*", "Gradio's components"),
    PageRoute("GET", "/theme.css", "colours and sizes"),
    PageRoute("GET", "/gradio_api/theme.css", "the same, as the login page asks for it"),
    PageRoute("GET", "/favicon.ico", "the icon in the tab"),
    PageRoute("GET", "/manifest.json", "asked for by every browser; empty here"),
    PageRoute("GET", "/robots.txt", "keeps search engines out"),
    PageRoute("POST", "/login", "name and password", LOGIN_BYTES),
    PageRoute("POST", "/login/", "the same", LOGIN_BYTES),
    PageRoute("POST", "/gradio_api/queue/join", "something was pressed"),
    PageRoute("GET", "/gradio_api/queue/data", "what changes on the page, as it comes"),
    PageRoute("GET", "/gradio_api/heartbeat/*", "tells when a window is closed"),
)


def upload_routes(max_bytes: int) -> tuple[PageRoute, ...]:
    """What a page with an image field also needs. max_bytes: of an uploaded file."""
    return (
        PageRoute("POST", "/gradio_api/upload", "an image is uploaded", max_bytes + 2**16),
        PageRoute("GET", "/gradio_api/file=*", "an image of this window, shown in its field"),
    )


def find_route(routes: Sequence[PageRoute], method: str, path: str, query: bytes) -> PageRoute | None:
    """The route that a request is for; None for one that the page does not answer.

    Links to stored states (`deep_link`) are not answered anywhere.
    """
    if ".." in path.split("/") or "\\" in path or "\0" in path:
        return None
    if any(name == "deep_link" for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)):
        return None
    return next((route for route in routes if route.matches(method, path)), None)
