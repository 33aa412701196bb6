"""Tabletop as a source of samples, made on the fly: what the tables of loaders and stored images name.

Images are drawn when opened, responses are the oracle's, and planted mistakes are silent.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any, Protocol

from look_again.data.image_files import LazyImage
from look_again.data.sample import Sample
from look_again.data.source import Source
from look_again.tabletop.oracle import LENGTHS, Written
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample
from look_again.tabletop.world import GRID_SIDE, SPLITS, Scene, Thing

CHAINS = ":chains"
"""The end of a path whose answers have no reflection, as LLaVA-CoT's: what a teacher puts one into."""


@dataclass(frozen=True)
class SceneImage(LazyImage):
    """The image of a scene, drawn when read. `row_id` is what messages call it."""

    scene: Scene = field(repr=False)
    row_id: str

    def __str__(self) -> str:
        return f"drawn for {self.row_id}"

    def read(self) -> bytes:
        file = io.BytesIO()
        render(self.scene).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def stored(self) -> dict[str, Any]:
        scene = asdict(self.scene)
        if scene["side"] == GRID_SIDE:
            del scene["side"]
        return {"scene": scene, "called": self.row_id}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> SceneImage:
        things = tuple(Thing(**thing) for thing in stored["scene"]["things"])
        scene = stored["scene"]
        return cls(Scene(things, scene["noise_seed"], scene.get("side", GRID_SIDE)), stored["called"])


def check_tabletop(source: Source) -> None:
    """ValueError for a path, a split or options that Tabletop does not have."""
    if not re.fullmatch(rf"[0-9]+(:[1-9][0-9]*(:({'|'.join(LENGTHS)})({CHAINS})?)?)?", source.path):
        raise ValueError(
            f"path is {source.path!r}: for tabletop use SEED, SEED:ROWS or SEED:ROWS:LENGTH, such as 7:1000:brief, or "
            f"7:1000:brief{CHAINS} for answers without a reflection"
        )
    if source.split not in SPLITS:
        raise ValueError(f"split is {source.split!r}: for tabletop use one of {', '.join(SPLITS)}")
    if source.images is not None:
        raise ValueError(f"images is {source.images!r}: tabletop draws its own pictures")
    if source.sample_seed is not None:
        raise ValueError(f"sample_seed is {source.sample_seed}: tabletop's rows are random by the SEED of its path")
    if ":" not in source.path and source.limit is None:
        raise ValueError(
            f"path is {source.path!r}, a stream that never ends: say how many rows ({source.path}:1000), or a limit"
        )


def tabletop_source(source: Source) -> Iterator[Sample]:
    """The samples that a source of the loader `tabletop` names; without a number of rows, as many as its limit."""
    path = source.path.removesuffix(CHAINS)
    seed, rows, length = (*path.split(":"), None, None)[:3]
    reflections = None if path == source.path else 0
    indices = range(int(rows)) if rows else count()
    return tabletop_samples(source.split, int(seed or 0), indices, length, reflections=reflections)


def tabletop_samples(
    split: str, seed: int, indices: Iterable[int], length: str | None = None, *, reflections: int | None = None
) -> Iterator[Sample]:
    """The samples of a stream at `indices`, of one length and with so many reflections if given.

    ValueError for an unknown split or length.
    """
    rows = (make_sample(split, seed, index, length=length, reflections=reflections) for index in indices)
    return (build_sample(row, split) for row in rows)


class SceneRow(Protocol):
    """A row that asks about a scene, whatever drew it."""

    @property
    def id(self) -> str: ...
    @property
    def scene(self) -> Scene: ...
    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def written(self) -> Written: ...


def build_sample(row: SceneRow, split: str, *, source: str = "tabletop") -> Sample:
    """A row of Tabletop as a sample: the answer is its reference, planted mistakes are its silent spans."""
    return Sample(
        id=row.id,
        images=(SceneImage(row.scene, row.id),),
        question=row.prompt,
        reference=row.answer,
        response=row.written.text,
        source=source,
        split=split,
        silent=tuple(row.written.planted_spans),
    )
