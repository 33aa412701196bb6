"""What `look-again bench decode` measures: checked on construction, reported with every result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

BATCH = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHAPES = {"tiny": "float32", "qwen2.5-vl-7b": "bfloat16"}  # with the dtype each is measured in by default
CLOCKS = ("wall", "cpu")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured. ValueError for values that leave nothing to measure.

    tokens: sampled per answer. every: sampled tokens per reflection. keep: percentage of rows that ROUTE re-inserts.
    pairs: timed pairs per ratio. clock: "wall", or "cpu" for processor time, which other programs on a busy machine
    disturb less (use one thread then). layers: decoder layers instead of the shapes' own. vocabulary, image_pixels: the
    same, for the large shapes.
    """

    shapes: str = "tiny"
    device: str = "cpu"
    dtype: str | None = None
    pairs: int = 9
    tokens: int = 300
    every: int = 150
    keep: int = 50
    clock: str = "wall"
    layers: int | None = None
    vocabulary: int | None = None
    image_pixels: int | None = None

    def __post_init__(self) -> None:
        _check("shapes", self.shapes, SHAPES)
        _check("clock", self.clock, CLOCKS)
        if self.dtype is not None:
            _check("dtype", self.dtype, DTYPES)
        if self.pairs < 1:
            raise ValueError(f"pairs must be at least 1, not {self.pairs}")
        if not 2 <= self.every <= self.tokens:
            raise ValueError(f"every must be from 2 to tokens ({self.tokens}), not {self.every}")
        if self.tokens < BATCH + 2:
            raise ValueError(f"tokens must be at least {BATCH + 2}: {BATCH} rows reflect at different steps")
        if self.clock == "cpu" and self.device != "cpu":
            raise ValueError(f"processor time says nothing about {self.device}; measure there with the wall clock")
        if self.shapes == "tiny" and (self.vocabulary or self.image_pixels):
            raise ValueError("vocabulary and image_pixels belong to the large shapes; the tiny model has its own")

    @property
    def triggers(self) -> list[int]:
        """Steps at which an answer reflects: in the middle of every stretch of `every` sampled tokens."""
        return list(range(self.every // 2, self.tokens - 1, self.every))

    @property
    def spread_triggers(self) -> list[list[int]]:
        """One step per row of a batch, all different, from the answer's first steps to its last."""
        return [[(row + 1) * self.tokens // (BATCH + 1)] for row in range(BATCH)]


def _check(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
