"""What the tests of the reinforcement-learning questions share: loading with the bad rows aside, tables, grading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from look_again.data.loaders import load_samples
from look_again.data.sample import BadSample, Sample
from look_again.data.source import Source
from look_again.scoring.grading import grade


def load(loader: str, path: Path | str, **fields: Any) -> tuple[list[Sample], dict[str, str]]:
    """The good rows, and the reason of each bad one by id."""
    skipped: list[BadSample] = []
    rows = list(load_samples(Source(loader=loader, path=str(path), **fields), on_skip=skipped.append))
    return rows, {bad.id: bad.reason for bad in skipped}


def table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)


def right(row: Sample, answer: str) -> bool:
    """Whether the accuracy reward's grader takes the answer; an unusable reference raises."""
    return grade([answer], [row.reference], [row.options or None], [row.id])[0]
