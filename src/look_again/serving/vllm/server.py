"""One vLLM server as the backend knows it, and what a request to it can end with."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

KNOWN_UUIDS = 50_000  # remembered per server; a forgotten image is sent again


class LostServerError(Exception):
    """The connection to a server broke, or it cannot go on: the rest is to be asked of another one."""


class ServerRefusalError(Exception):
    """A server answered a request with an error. status: of HTTP; of an error inside a stream its own code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_url(url: str) -> str:
    """The same URL. ValueError for one that holds a user or a password, which would end up in logs."""
    _, at, host = url.rpartition("@")
    if at:
        raise ValueError(f"the URL of the vLLM server at {host!r} holds a user or a password: give an API key instead")
    return url


@dataclass
class Server:
    """One server. up: it may get requests. why: it does not. known: uuids of images whose bytes it has had.

    name: for clients, who are not told the URL. model: the name of the model there. max_context: its tokens. chat: it
    takes no token ids, so it is asked by chat.
    """

    url: str
    name: str = "vllm-0"
    up: bool = False
    why: str = "not reached yet"
    model: str = ""
    max_context: int = 0
    chat: bool = False
    checks_failed: int = 0
    known: OrderedDict[str, None] = field(default_factory=OrderedDict)
    streams: set[asyncio.Task[None]] = field(default_factory=set)

    def learn(self, uuids: Collection[str]) -> None:
        """It has the bytes of these images."""
        for uuid in uuids:
            self.known[uuid] = None
            self.known.move_to_end(uuid)
        while len(self.known) > KNOWN_UUIDS:
            self.known.popitem(last=False)

    def forget(self, uuids: Collection[str]) -> None:
        for uuid in uuids:
            self.known.pop(uuid, None)

    def mark_down(self, why: str, level: int = logging.WARNING) -> None:
        """Nothing goes there until it is admitted again, and what waits for its answers stops waiting."""
        if self.up:
            log.log(level, "vLLM server %s (%s) is out: %s", self.name, self.url, why)
        self.up, self.why = False, why
        self.known.clear()
        for stream in list(self.streams):
            stream.cancel()
