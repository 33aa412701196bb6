"""What the page keeps for a while: images and answers that may still be asked about, the oldest dropped first.

Bounded by bytes as well as by number: an image is kept as it was asked about, for the heat is measured in the very
sequence that was decoded, and a large one takes 200 MB.

A key is the only way to a thing, is handed to the window that asked for it alone, and cannot be guessed.
"""

from __future__ import annotations

import asyncio
import io
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from PIL import Image

from look_again.serving.backend import Job
from look_again.ui.attention_maps import AttentionMaps
from look_again.ui.question import image_bytes
from look_again.ui.transcript import DecodedAnswer

SHOWN_SIDE = 1024  # pixels of an image on the page
T = TypeVar("T")


@dataclass
class KeptAnswer:
    """An answer that can be measured; `maps` once it was."""

    job: Job
    decoded: DecodedAnswer
    text: str
    ends: tuple[int, ...]
    maps: AttentionMaps | None = None
    measuring: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def size_bytes(self) -> int:
        """What its images take; modes of one question share theirs, and each counts it."""
        return sum(map(image_bytes, self.job.images))


class LruCache(Generic[T]):
    """Things by key, at most `room` of them and `room_bytes` by their `size`; getting one makes it the newest.

    The newest stays even where it takes more by itself.
    """

    def __init__(self, room: int, room_bytes: int, size: Callable[[T], int]) -> None:
        if room < 1:
            raise ValueError(f"a cache has room for at least one thing, not {room}")
        self.room, self.room_bytes, self.size = room, room_bytes, size
        self._things: OrderedDict[str, T] = OrderedDict()

    def put(self, thing: T) -> str:
        """Keep a thing; its key."""
        key = secrets.token_urlsafe(16)
        self._things[key] = thing
        held = sum(map(self.size, self._things.values()))
        while len(self._things) > 1 and (len(self._things) > self.room or held > self.room_bytes):
            held -= self.size(self._things.popitem(last=False)[1])
        return key

    def get(self, key: str) -> T | None:
        """The thing, None for one that was dropped or never was."""
        if key in self._things:
            self._things.move_to_end(key)
        return self._things.get(key)

    def newest(self) -> list[T]:
        """All things, newest first."""
        return list(reversed(self._things.values()))


def trim_maps(answers: LruCache[KeptAnswer], most_bytes: int) -> None:
    """Forget the oldest measurements beyond a number of bytes; they can be made again."""
    held = 0
    for kept in answers.newest():
        if kept.maps is not None:
            held += kept.maps.size_bytes
            if held > most_bytes:
                kept.maps = None


def shown_png(image: Image.Image) -> bytes:
    """An image as the page shows it: PNG, not larger than it has to be."""
    small = image.copy()
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return file.getvalue()
