"""What the page keeps for a while: pictures and answers that may still be asked about, the oldest dropped first.

A key is the only way to a thing, is handed to the window that made it alone, and cannot be guessed.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from PIL import Image

from lookagain.serving.backend import Job
from lookagain.ui.looks import Looks
from lookagain.ui.transcript import Decoded

SHOWN_SIDE = 1024  # pixels of a picture on the page
T = TypeVar("T")


@dataclass
class Kept:
    """An answer that can be measured; `looks` once it was."""

    job: Job
    decoded: Decoded
    text: str
    ends: tuple[int, ...]
    looks: Looks | None = None
    measuring: asyncio.Lock = field(default_factory=asyncio.Lock)


class Shelf(Generic[T]):
    """Things by key, at most `room` of them; a thing that is asked for counts as new."""

    def __init__(self, room: int) -> None:
        if room < 1:
            raise ValueError(f"a shelf has room for at least one thing, not {room}")
        self.room = room
        self._things: OrderedDict[str, T] = OrderedDict()

    def put(self, thing: T) -> str:
        """Keep a thing; its key."""
        key = secrets.token_urlsafe(16)
        self._things[key] = thing
        while len(self._things) > self.room:
            self._things.popitem(last=False)
        return key

    def get(self, key: str) -> T | None:
        """The thing, None for one that was dropped or never was."""
        if key in self._things:
            self._things.move_to_end(key)
        return self._things.get(key)

    def newest(self) -> list[T]:
        """All things, newest first."""
        return list(reversed(self._things.values()))


def trim(answers: Shelf[Kept], most_bytes: int) -> None:
    """Forget the oldest measurements beyond a number of bytes; they can be made again."""
    held = 0
    for kept in answers.newest():
        if kept.looks is not None:
            held += kept.looks.size_bytes
            if held > most_bytes:
                kept.looks = None


def shown_png(picture: Image.Image) -> bytes:
    """A picture as the page shows it: PNG, not larger than it has to be."""
    small = picture.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return file.getvalue()
