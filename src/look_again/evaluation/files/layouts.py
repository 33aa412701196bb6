"""Tables of questions: where they lie, on the hub or as published, and how a row becomes an item.

The paper names benchmarks and no files. Images are checked by their headers as each row is read, so a missing one is
a `BadSample` before anything is asked; a place in a layout that is not known is an error that says what was looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from look_again.data.checks import Needs, check_sample
from look_again.data.fields import check_text, short
from look_again.data.hub_datasets import read_hub
from look_again.data.readers import read_parquet
from look_again.data.sample import BadSample, Sample, SampleError
from look_again.evaluation.benchmark import JSON, BenchmarkItem, DataLocation

Record = Mapping[str, Any]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` of datasets writes
_NEEDS = Needs(needs_response=False, needs_reference=True, needs_image=True, decode=False)


def check_split(location: DataLocation, benchmark: str, splits: Sequence[str], hint: str = "") -> None:
    """ValueError unless the place's split is one of `splits`."""
    if location.split not in splits:
        raise ValueError(f"split is {location.split!r}: {benchmark} has {', '.join(splits)}{hint}")


def local_path(location: DataLocation) -> Path | None:
    """The file or folder that the place names, None where it is a hub name; ValueError where it can be neither."""
    path = Path(location.path).expanduser()
    if path.exists():
        return path
    if _HUB_NAME.fullmatch(location.path):
        return None
    raise ValueError(f"{location.path!r} is no file or folder here, and no hub name such as MMMU/MMMU")


def split_tables(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split that lie in `folder` itself, in order: `test.parquet`, `test-00000-of-00002…`."""
    name = re.compile(rf"{re.escape(split)}([-_.].*)?")
    return sorted(path for path in folder.glob("*.parquet") if name.fullmatch(path.stem))


def read_tables(
    location: DataLocation,
    columns: Sequence[str],
    *,
    folders: Sequence[str] = ("", "data"),
    tables: Sequence[str] = (),
    configuration: str | None = None,
) -> Iterator[Record]:
    """The records of the place: a hub data set's, one Parquet file's, or those of a folder's tables.

    folders: where in a folder the split's tables may lie, the first that has any is read. tables: names of whole files
    to prefer. configuration: the hub's name of the part. Raises ValueError for none of these, for tables without
    `columns`, and what `read_hub` and `read_parquet` raise.
    """
    path = local_path(location)
    if path is None:
        return with_columns(read_hub(location.path, location.split, configuration), columns, location.path)
    if path.is_file():
        return with_columns(read_parquet(path), columns, str(path))
    named = [path / name for name in tables if (path / name).is_file()]
    found = next(filter(None, (named, *(split_tables(path / folder, location.split) for folder in folders))), None)
    if found:
        return with_columns(chain.from_iterable(map(read_parquet, found)), columns, str(path))
    if any((path / marker).is_file() for marker in _SAVED):
        return with_columns(read_hub(str(path), location.split), columns, str(path))
    parts = [f"{folder}/{location.split}*.parquet".lstrip("/") for folder in folders]
    raise unknown_layout(path, location.split, [*tables, *parts, *_SAVED])


def unknown_layout(path: Path, split: str, looked_for: Sequence[str]) -> ValueError:
    """The error for a folder that holds nothing known."""
    return ValueError(f"{path} has no rows of {split} in a known layout: looked for {', '.join(looked_for)}")


def with_columns(records: Iterable[Record | SampleError], columns: Sequence[str], name: str) -> Iterator[Any]:
    """The records; ValueError at the first one unless it has all of `columns`. RowErrors pass."""
    checked = False
    for record in records:
        if not checked and not isinstance(record, SampleError):
            if missing := [column for column in columns if column not in record]:
                have = ", ".join(map(str, record))[:200]
                raise ValueError(
                    f"{name}: looked for the columns {', '.join(columns)}; no {', '.join(missing)} ({have})"
                )
            checked = True
        yield record


def build_items(
    records: Iterable[Record | SampleError], make: Callable[[Record, int], BenchmarkItem], limit: int | None = None
) -> Iterator[BenchmarkItem | BadSample]:
    """What `make` makes of each record and its number, up to `limit` items; RowErrors and repeated ids as BadRows."""
    seen: set[str] = set()
    for index, record in enumerate(records):
        found = _made(record, index, make)
        if isinstance(found, BenchmarkItem) and found.id in seen:
            found = BadSample(found.id, "this id occurs twice: the same row again, or two files of one split")
        elif isinstance(found, BenchmarkItem):
            seen.add(found.id)
        yield found
        if len(seen) == limit:
            return


def _made(
    record: Record | SampleError, index: int, make: Callable[[Record, int], BenchmarkItem]
) -> BenchmarkItem | BadSample:
    try:
        if isinstance(record, SampleError):
            raise record
        return make(record, index)
    except SampleError as error:
        return BadSample(error.row_id or f"row {index}", error.reason)


def build_item(row: Sample, instruction: str, *, reference: JSON = None, **facts: JSON) -> BenchmarkItem:
    """The row as an item: its question and options, then the instruction on a line of its own.

    reference: in place of the row's. facts: beside `options`, the row's texts. SampleError, with all reasons, for
    a row without question, answer or image, and for images that are missing or whose header cannot be read.
    """
    if reasons := check_sample(row, _NEEDS):
        raise SampleError(row.id, "; ".join(reasons))
    return BenchmarkItem(
        id=row.id,
        images=row.images,
        prompt=f"{row.prompt}\n{instruction}",
        reference=row.reference if reference is None else reference,
        facts={"options": list(row.options)} | facts,
    )


def row_id(record: Record, column: str, index: int) -> str:
    """The id in `column` as text; SampleError, naming the record, where it is neither text nor whole number."""
    value = record.get(column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise SampleError(f"row {index}", f"{column} is {short(value)}: a text or a whole number is needed")
    return check_text(str(value), f"row {index}", column)


def label(record: Record, *columns: str) -> str:
    """The first of `columns` that holds a text, for grouping results; "unknown" where none does."""
    texts = (record.get(column) for column in columns)
    return next((text for text in texts if isinstance(text, str) and text.strip()), "unknown")
