"""Tables of tab-separated values, as MMBench publishes them, as a stream of records.

Images stand in such a table as base64 texts of any length, which `csv` of the standard library bounds by one setting
for the whole process; this reader has no bound and no state. Cells follow the writer of pandas: a cell with a tab, a
quote or a line break is quoted, quotes in it are doubled, and an empty cell is a missing value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from look_again.data.sample import SampleError

Cells = list[str | None]

_QUOTED = re.compile(r'"((?:[^"]|"")*+)("?)')
MAX_LINES = 1_000  # of one record; more means that a quote was opened and never closed


def read_tsv(path: Path) -> Iterator[dict[str, str | None] | SampleError]:
    """One record per row, by the names of the first line; a row with more or fewer cells is a SampleError as a value.

    ValueError when the file cannot be read, is not UTF-8, or has no header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            rows = _rows(file, path.name)
            header = next(rows, None)
            if header is None or isinstance(header, SampleError) or None in header[1]:
                raise ValueError(f"{path} has no header: its first line names the columns, separated by tabs")
            for row in rows:
                yield row if isinstance(row, SampleError) else _record(header[1], row, path.name)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def _record(header: Cells, row: tuple[int, Cells], name: str) -> dict[str, str | None] | SampleError:
    number, cells = row
    if len(cells) != len(header):
        return SampleError(f"{name} line {number}", f"{len(cells)} cells in a table of {len(header)} columns")
    return {str(column): cell for column, cell in zip(header, cells, strict=True)}


def _rows(file: IO[str], name: str) -> Iterator[tuple[int, Cells] | SampleError]:
    """(line number, cells) of each row; lines are joined while a quoted cell is open."""
    held: list[str] = []
    for number, line in enumerate(file, start=1):
        start = number - len(held)
        held.append(line)
        if len(held) > 1 and '"' not in line and len(held) < MAX_LINES:
            continue  # what is open stays open
        cells = _cells("".join(held).rstrip("\r\n"))
        if cells is None and len(held) < MAX_LINES:
            continue
        if cells is None:
            yield SampleError(
                f"{name} lines {start} to {number}", "a quote is opened and not closed: these lines are lost"
            )
        elif line.strip() or len(held) > 1:
            yield start, cells
        held = []
    if held:
        yield SampleError(f"{name} line {start}", "a quote is opened and never closed: is the file cut off?")


def _cells(row: str) -> Cells | None:
    """The cells of a row, None for an empty one; None in place of all while a quoted cell is open at its end."""
    cells: Cells = []
    at = 0
    while True:
        text = ""
        if quoted := _QUOTED.match(row, at):
            if not quoted[2]:
                return None
            text, at = quoted[1].replace('""', '"'), quoted.end()
        end = row.find("\t", at)
        text += row[at:] if end < 0 else row[at:end]
        cells.append(text or None)
        if end < 0:
            return cells
        at = end + 1
