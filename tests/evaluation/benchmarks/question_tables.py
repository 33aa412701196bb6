"""What the tests of benchmarks with questions share: tables as they are published, and what a loader makes of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image
from pyarrow import parquet

from look_again.data.sample import BadSample
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, Load, ModelReply, Score, Scores


def png(width: int = 8, height: int = 6) -> bytes:
    """A small image as a file's bytes; its size tells images apart."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "navy").save(file, "PNG")
    return file.getvalue()


def cell(data: bytes | None = None) -> dict[str, Any]:
    """An image as the image feature of `datasets` stores it."""
    return {"bytes": png() if data is None else data, "path": None}


def write_table(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)
    return path


def loaded(load: Load, path: Path | str, split: str, **fields: Any) -> tuple[list[BenchmarkItem], dict[str, str]]:
    """Items in order, and the reasons of bad rows by their ids."""
    found = list(load(DataLocation(path=str(path), split=split, **fields)))
    items = [one for one in found if isinstance(one, BenchmarkItem)]
    return items, {one.id: one.reason for one in found if isinstance(one, BadSample)}


def scored(score: Score, items: Sequence[BenchmarkItem], *texts: str) -> Scores:
    return score(items, [ModelReply(text) for text in texts], None)
