"""Files of rows as streams of records: JSON lines, Parquet and CSV never whole in memory; a JSON object is."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from look_again.data.sample import SampleError
from look_again.extras import require

BATCH_ROWS = 64  # read at once from a table; rows may hold whole images


def read_jsonl(path: Path) -> Iterator[Mapping[str, Any] | SampleError]:
    """One object per line; a broken line is a SampleError with its number, as a value. Blank lines are passed over.

    ValueError when the file cannot be read.
    """
    for _, record in read_numbered(path):
        yield record


def read_numbered(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | SampleError]]:
    """What `read_jsonl` reads, each with the number of its line. ValueError as there."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(line, f"{path.name} line {number}")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def read_json(path: Path, row_id: str) -> Mapping[str, Any] | SampleError:
    """The object that a file holds; a SampleError of that id where it holds none or cannot be read."""
    try:
        return _object(path.read_bytes(), row_id)
    except OSError as error:
        return SampleError(row_id, f"{path} cannot be read: {error.strerror or error}")


def _object(line: bytes, place: str) -> Mapping[str, Any] | SampleError:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return SampleError(place, f"not UTF-8 text ({error.reason} at byte {error.start}): save the file as UTF-8")
    except json.JSONDecodeError as error:
        hint = "; is the file one JSON array? Write one object per line" if line.lstrip().startswith(b"[") else ""
        return SampleError(place, f"not JSON ({error.msg} at character {error.pos}){hint}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets nested as deep
        return SampleError(place, f"JSON that cannot be read ({error})")
    if not isinstance(value, Mapping):
        return SampleError(place, f"a JSON {type(value).__name__} where an object is needed: write one object per line")
    return value


def read_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a Parquet file. ValueError when it cannot be read; MissingExtraError without pyarrow."""
    require("pyarrow", extra="data")
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, Any] | SampleError]:
    """The rows of a CSV file with a header; one that lacks a field is a SampleError with its line number, as a value.

    ValueError when the file cannot be read, is not UTF-8, or has not all of `columns`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file)
            if missing := [column for column in columns if column not in (lines.fieldnames or ())]:
                raise ValueError(f"{path} has no column {', '.join(missing)}: looked for {', '.join(columns)}")
            for record in lines:
                lost = [column for column in columns if record[column] is None]
                place = f"{path.name} line {lines.line_num}"
                yield SampleError(place, f"no {', '.join(lost)}: the line is cut off") if lost else record
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
