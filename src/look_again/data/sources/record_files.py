"""Files, folders and hub data sets of records in the shapes that `look_again.data.records` reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from look_again.data.hub_datasets import read_hub
from look_again.data.readers import read_jsonl, read_parquet
from look_again.data.records import samples_from_records
from look_again.data.sample import Sample, SampleError
from look_again.data.source import Source


def jsonl_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of a file of JSON lines."""
    path = source.local_path
    base = source.base(path.parent)
    return samples_from_records(read_jsonl(path), source=_label(path), split=source.split, base=base)


def parquet_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of a Parquet file."""
    path = source.local_path
    base = source.base(path.parent)
    return samples_from_records(read_parquet(path), source=_label(path), split=source.split, base=base)


def _label(path: Path) -> str:
    """What rows of a file say they come from: `data/train` for `data/train.jsonl`."""
    return f"{path.absolute().parent.name}/{path.stem}"


def folder_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of a folder: JSON lines under one of the usual names, else Parquet files. ValueError without either."""
    folder = source.local_path
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one, or use the loader jsonl, parquet or hub")
    split = source.split
    names = (f"{split}.jsonl", "rows.jsonl", f"{split}/metadata.jsonl", "metadata.jsonl")
    label = folder.absolute().name
    for path in (folder / name for name in names):
        if path.is_file():
            base = source.base(path.parent)
            return samples_from_records(read_jsonl(path), source=label, split=split, base=base)
    if tables := _tables(folder, split):
        records = chain.from_iterable(map(read_parquet, tables))
        return samples_from_records(records, source=label, split=split, base=source.base(folder))
    raise ValueError(
        f"{folder} has no rows of {split}: looked for {', '.join(names)}, {split}*.parquet, data/{split}*.parquet"
    )


def _tables(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split; all of them when no name tells splits apart."""
    files = sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])
    named = [path for path in files if re.fullmatch(rf"{re.escape(split)}([-_.].*)?", path.stem)]
    told_apart = any(re.match(r"(train|valid|val|dev|test)", path.stem) for path in files)
    return named if named or told_apart else files


def hub_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of a data set of the hub, or of a folder in its formats."""
    local = source.local_path.is_dir()
    records = read_hub(str(source.local_path) if local else source.path, source.split, source.name)
    base = source.base(source.local_path if local else None)
    label = source.local_path.absolute().name if local else source.path
    return samples_from_records(records, source=label, split=source.split, base=base)
