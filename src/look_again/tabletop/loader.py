"""Rows of Tabletop in the common type, made on the fly.

Images are drawn when opened, responses are the oracle's, and planted mistakes are silent.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from look_again.data.image_files import LazyImage
from look_again.data.sample import Sample
from look_again.tabletop.render import render
from look_again.tabletop.rows import TabletopRow, make_row
from look_again.tabletop.world import Scene


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


def tabletop_samples(split: str, seed: int, indices: Iterable[int], length: str | None = None) -> Iterator[Sample]:
    """The rows of a stream at `indices`, of one length if given. ValueError for an unknown split or length."""
    return (row_of(make_row(split, seed, index, length=length), split) for index in indices)


def row_of(row: TabletopRow, split: str) -> Sample:
    """The same row in the common type: the answer is its reference, planted mistakes are its silent spans."""
    return Sample(
        id=row.id,
        images=(SceneImage(row.scene, row.id),),
        question=row.prompt,
        reference=row.answer,
        response=row.written.text,
        source="tabletop",
        split=split,
        silent=tuple(row.written.planted_spans),
    )
